"""`Device.predict`: the same model that was trained, or the operator's file."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from aggregator.export import export
from device_sdk.actions import Keep, Store, Train
from device_sdk.config import DeviceConfig, InferenceConfig
from device_sdk.device import Device
from device_sdk.engine import Model, parse_spec
from device_sdk.held import MODEL as MODEL_KEY
from device_sdk.held import HeldModel, pack_held
from device_sdk.inference import NoModelError
from device_sdk.storage import Storage, StorageError
from device_sdk.trainer import Assignment, NumpyTrainer, TrainingError
from protocol.errors import ConfigError

SPEC = {
    "input": [4],
    "layers": [
        {"type": "dense", "units": 5},
        {"type": "tanh"},
        {"type": "dense", "units": 3},
    ],
    "loss": "softmax_cross_entropy",
}
MODEL = Model(parse_spec(SPEC))
X = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
DATA = (X, np.arange(9) % 3)


def device_of(folder: Path, file: str = "") -> Device:
    config = DeviceConfig(
        task="t", device="a", state_dir=str(folder / "state"), inference=InferenceConfig(file=file)
    )
    return Device(config, NumpyTrainer(data=DATA))


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = device_of(tmp_path)
    yield made
    made._leave()


def leased(device: Device, version: int) -> Assignment:
    """The shell is told to train: from then on it predicts with that version."""
    params = MODEL.init(bytes(31) + bytes([version]))
    assignment = Assignment(params, version, SPEC, {"max_steps": 1}, bytes(32))
    device._act(Train(bytes(16), assignment))
    return assignment


def test_before_the_first_lease_there_is_nothing_to_predict_with(device: Device) -> None:
    with pytest.raises(NoModelError):
        device.predict(X)


def test_right_after_a_start_the_model_that_was_kept_predicts(tmp_path: Path) -> None:
    params = MODEL.init(bytes(31) + b"\x05")
    kept = HeldModel(5, bytes(32), params)
    Storage(tmp_path / "state").store(MODEL_KEY, pack_held(kept, SPEC))
    started = device_of(tmp_path)
    np.testing.assert_array_equal(started.predict(X), MODEL.predict(params, X))
    leased(started, 2)
    assert not np.array_equal(started.predict(X), MODEL.predict(params, X))
    started._leave()


def test_a_lease_that_comes_while_what_was_kept_is_read_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = HeldModel(5, bytes(32), MODEL.init(bytes(31) + b"\x05"))
    Storage(tmp_path / "state").store(MODEL_KEY, pack_held(kept, SPEC))
    started, load = device_of(tmp_path), Storage.load

    def slow(storage: Storage) -> Mapping[str, bytes]:
        found = load(storage)
        leased(started, 2)
        return found

    monkeypatch.setattr(Storage, "load", slow)
    newest = MODEL.init(bytes(31) + b"\x02")
    np.testing.assert_array_equal(started.predict(X), MODEL.predict(newest, X))
    started._leave()


def test_a_model_that_does_not_fit_is_not_kept_and_counted(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_all = Storage.store_all

    def small(storage: Storage, items: Mapping[str, bytes]) -> None:
        if max(map(len, items.values())) > 100:
            raise StorageError("full")
        store_all(storage, items)

    monkeypatch.setattr(Storage, "store_all", small)
    assert device._perform([Keep(MODEL_KEY, bytes(101)), Store("boots", b"1")])
    assert device._session.counts["models_not_kept"] == 1
    assert device._storage.load()["boots"] == b"1"


def test_a_model_gives_way_to_an_update(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device._perform([Keep(MODEL_KEY, bytes(101))])
    store_all = Storage.store_all

    def full(storage: Storage, items: Mapping[str, bytes]) -> None:
        if MODEL_KEY in storage.load():
            raise StorageError("full")
        store_all(storage, items)

    monkeypatch.setattr(Storage, "store_all", full)
    assert device._perform([Store("pending", b"update")])
    assert device._storage.load()["pending"] == b"update"
    assert MODEL_KEY not in device._storage.load()


def test_the_newest_lease_s_model_predicts(device: Device) -> None:
    for version in (1, 2):
        params = leased(device, version).params
        assert np.array_equal(device.predict(X), MODEL.predict(params, X))


def test_samples_of_another_shape_are_refused(device: Device) -> None:
    leased(device, 1)
    with pytest.raises(TrainingError, match="shape"):
        device.predict(X[:, :3])


def test_the_operators_file_predicts_from_the_start(tmp_path: Path) -> None:
    params = MODEL.init(bytes(32))
    file = tmp_path / "model.tflite"
    file.write_bytes(export(MODEL, params))
    device = device_of(tmp_path, str(file))
    try:
        np.testing.assert_allclose(device.predict(X), MODEL.predict(params, X), atol=1e-5)
    finally:
        device._leave()


def test_a_file_that_is_no_model_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"model\.tflite"):
        device_of(tmp_path, str(file))
