"""`Device.predict`: by the operator's file where it can be used, else by what was trained last."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.export import Calibration, export
from device_sdk import inference
from device_sdk.engine import Model, TrainingError, parse_spec
from device_sdk.inference import Inference, NoModelError
from device_sdk.runtimes import RuntimeMissingError
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.errors import ConfigError

Floats = npt.NDArray[np.float32]
SPEC: Mapping[str, object] = {
    "input": [6],
    "layers": [{"type": "dense", "units": 8}, {"type": "relu"}, {"type": "dense", "units": 3}],
    "loss": "softmax_cross_entropy",
}
MODEL = Model(parse_spec(SPEC))
X = np.random.default_rng(0).normal(0, 1, (40, 6)).astype(np.float32)
TRAINER = NumpyTrainer(data=(X, np.zeros(40, np.int64)))


def params_of(version: int) -> Floats:
    return MODEL.init(bytes([version]) * 32)


def assignment(version: int) -> Assignment:
    return Assignment(params_of(version), version, SPEC, {}, bytes(32))


def exported(folder: Path, version: int) -> Path:
    file = folder / "model.tflite"
    file.write_bytes(export(MODEL, params_of(version)))
    return file


def test_before_the_first_lease_there_is_nothing_to_predict_with() -> None:
    asked = Inference(TRAINER)
    with pytest.raises(NoModelError, match="first comes with a lease"):
        asked.predict(X)


def test_the_engine_predicts_by_the_params_of_the_last_lease() -> None:
    asked = Inference(TRAINER)
    for version in (1, 2):
        asked.adopt(assignment(version))
        np.testing.assert_array_equal(asked.predict(X), MODEL.predict(params_of(version), X))


def test_a_file_is_used_in_place_of_the_engine(tmp_path: Path) -> None:
    asked = Inference(TRAINER, exported(tmp_path, 1))
    asked.adopt(assignment(2))
    np.testing.assert_allclose(asked.predict(X), MODEL.predict(params_of(1), X), atol=1e-5)


def test_without_a_runtime_the_engine_predicts_and_the_log_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise RuntimeMissingError("no TensorFlow Lite: pip install it")

    monkeypatch.setattr(inference, "find_runtime", missing)
    with caplog.at_level(logging.WARNING):
        asked = Inference(TRAINER, exported(tmp_path, 1))
    assert "pip install it" in caplog.text
    asked.adopt(assignment(2))
    np.testing.assert_array_equal(asked.predict(X), MODEL.predict(params_of(2), X))


def test_a_file_that_is_no_model_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"something else altogether")
    with pytest.raises(ConfigError, match=r"model\.tflite"):
        Inference(TRAINER, file)


def test_integers_at_the_borders_are_the_files_own_affair(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    calibration = Calibration(X, float_borders=False)
    file.write_bytes(export(MODEL, params_of(1), calibration=calibration))
    outputs = Inference(TRAINER, file).predict(X)
    expected = MODEL.predict(params_of(1), X)
    assert outputs.dtype == np.float32
    assert (outputs - expected).std() < 0.05 * expected.std()


@pytest.mark.parametrize("by_file", [True, False])
def test_samples_of_another_shape_are_refused(tmp_path: Path, *, by_file: bool) -> None:
    asked = Inference(TRAINER, exported(tmp_path, 1) if by_file else None)
    asked.adopt(assignment(1))
    with pytest.raises(TrainingError, match="shape"):
        asked.predict(X[:, :5])
