"""On data that people have recorded: float32 files equal the engine, int8 ones are as good.

Digits come with scikit-learn. ``FEDBUS_DATA`` names the folder of Fashion-MNIST and of the phones
and watches, ``../shared/data`` by default.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits

from aggregator.export import Calibration, export
from device_sdk.engine import Model, parse_spec
from device_sdk.trainer import Assignment, NumpyTrainer
from examples import wearables
from tests.aggregator.export.models import conv, dense, just, loaded

ROOT: Final = Path(__file__).parents[3]
SEED: Final = bytes(32)
#: Real samples that a float32 file is compared on, and whose ranges an int8 file is made from.
COMPARED: Final = 500
MAX_DIFFERENCE: Final = 1e-4
MAX_LOSS: Final = 0.01

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Layers = list[dict[str, object]]


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained on, and what is not."""

    x: Floats
    y: Labels
    test_x: Floats
    test_y: Labels


def data_file(*parts: str) -> Path:
    """A file of the shared data; the test is skipped without it, where CI does not promise it."""
    file = Path(os.environ.get("FEDBUS_DATA", ROOT.parent / "shared" / "data")).joinpath(*parts)
    if file.exists():
        return file
    if os.environ.get("CI") == "true":
        pytest.fail(f"{file} is missing, and CI=true promises it")
    pytest.skip(f"{file} is missing: FEDBUS_DATA names the folder that {parts[0]} is in")


def digits() -> Data:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int64)
    return Data(x[:1200], y[:1200], x[1200:], y[1200:])


def fashion() -> Data:
    with np.load(data_file("fashion_mnist", "fashion_mnist.npz"), allow_pickle=False) as arrays:
        some = np.random.default_rng(0).permutation(10_000)  # the same rows of both will do
        x, y = arrays["x_train"][some[:6_000]], arrays["y_train"][some[:6_000]]
        test_x, test_y = arrays["x_test"][some[:4_000]], arrays["y_test"][some[:4_000]]
    return Data(_image(x), y.astype(np.int64), _image(test_x), test_y.astype(np.int64))


def _image(pixels: npt.NDArray[np.uint8]) -> Floats:
    return (pixels[..., np.newaxis] / 255).astype(np.float32)


def features_of(sensor: str) -> Data:
    """The features of the example, of one person's windows after the other's."""
    file = data_file("har_phone_watch", f"har_{sensor}.npz")
    own = wearables.recordings(file, wearables.PEOPLE)
    strangers = wearables.recordings(file, wearables.HELD_OUT)
    return Data(own.x, own.y, strangers.x, strangers.y)


def windows_of(sensor: str) -> Data:
    """What the sensors said, as a series."""
    with np.load(data_file("har_phone_watch", f"har_{sensor}.npz"), allow_pickle=False) as arrays:
        x = arrays["x"].astype(np.float32) / np.array(wearables.UNITS, np.float32)
        y, own = arrays["y"].astype(np.int64), np.isin(arrays["subject"], wearables.PEOPLE)
    return Data(x[own], y[own], x[~own], y[~own])


@dataclass(frozen=True, slots=True)
class Case:
    """A model, its data, how it is trained, and how good it must be for the rest to mean much."""

    data: Callable[[], Data]
    layers: Layers
    least_accuracy: float
    training: Mapping[str, object]


CNN: Final[Layers] = [
    conv(8),
    just("relu"),
    just("max_pool", size=2),
    conv(16),
    just("relu"),
    just("max_pool", size=2),
    just("flatten"),
    dense(10),
]
SEPARABLE: Final[Layers] = [
    conv(8, stride=2, padding="same"),
    just("batch_norm"),
    just("relu"),
    just("depthwise_conv2d", kernel=3, padding="same"),
    just("batch_norm"),
    just("relu"),
    conv(24, kernel=1),
    just("batch_norm"),
    just("relu"),
    just("avg_pool", size=2),
    just("flatten"),
    dense(10),
]
WORN: Final[Layers] = [dense(32), just("relu"), dense(5)]
SERIES: Final[Layers] = [just("gru", units=24), dense(5)]
QUICK: Final = {"batch_size": 32, "momentum": 0.9, "learning_rate": 0.05}
CASES: Final[Mapping[str, Case]] = {
    "digits": Case(digits, [dense(32), just("relu"), dense(10)], 0.94, {"epochs": 20}),
    "Fashion-MNIST, CNN": Case(fashion, CNN, 0.8, {**QUICK, "epochs": 3}),
    "Fashion-MNIST, separable": Case(fashion, SEPARABLE, 0.75, {**QUICK, "epochs": 1}),
    "phones": Case(lambda: features_of("phone"), WORN, 0.8, {"epochs": 10, "learning_rate": 0.05}),
    "watches": Case(lambda: features_of("watch"), WORN, 0.8, {"epochs": 10, "learning_rate": 0.05}),
    "watches, GRU": Case(
        lambda: windows_of("watch"), SERIES, 0.7, {**QUICK, "epochs": 3, "clip_norm": 1.0}
    ),
}
pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True)
class Learned:
    """A trained model."""

    data: Data
    model: Model
    params: Floats

    def accuracy(self, outputs: npt.NDArray[np.floating]) -> float:
        return float((outputs.argmax(axis=1) == self.data.test_y).mean())


@cache
def learned(name: str) -> Learned:
    case = CASES[name]
    data = case.data()
    shape, loss = list(data.x.shape[1:]), "softmax_cross_entropy"
    spec = {"input": shape, "layers": case.layers, "loss": loss}
    model = Model(parse_spec(spec))
    work = Assignment(model.init(SEED), 0, spec, case.training, SEED)
    return Learned(data, model, NumpyTrainer(data=(data.x, data.y)).train(work).params)


@pytest.mark.parametrize("name", CASES)
def test_a_float32_file_computes_what_the_engine_does(name: str) -> None:
    trained = learned(name)
    x = trained.data.test_x[:COMPARED]
    assert len(x) == COMPARED
    expected = trained.model.predict(trained.params, x)
    outputs = loaded(export(trained.model, trained.params)).predict(x)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=MAX_DIFFERENCE)


@pytest.mark.parametrize("name", CASES)
def test_an_int8_file_is_as_often_right(name: str) -> None:
    trained = learned(name)
    data = trained.data
    exact = trained.accuracy(trained.model.predict(trained.params, data.test_x))
    assert exact >= CASES[name].least_accuracy
    some = np.random.default_rng(1).permutation(len(data.x))[:COMPARED]
    file = export(trained.model, trained.params, calibration=Calibration(data.x[some]))
    assert trained.accuracy(loaded(file).predict(data.test_x)) >= exact - MAX_LOSS
