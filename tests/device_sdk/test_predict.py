"""`Device.predict`: the same model that was trained, or the operator's file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aggregator.export import export
from device_sdk.actions import Train
from device_sdk.config import DeviceConfig, InferenceConfig
from device_sdk.device import Device
from device_sdk.engine import Model, parse_spec
from device_sdk.inference import NoModelError
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
