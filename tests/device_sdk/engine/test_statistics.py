"""Statistics that training leaves to the end are then those of the data."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import Model, TrainingError, TrainingSettings, fit, parse_spec
from device_sdk.engine.data import Data, as_blocks
from device_sdk.engine.network import views
from device_sdk.engine.statistics import measure_statistics
from protocol.stream import Stream

SEED = bytes(range(32))
Floats = npt.NDArray[np.float32]
STATIC = {"type": "batch_norm", "static": True}
ROWS = 700  # more than are taken at a time
X = Stream(bytes(32)).uniform(ROWS * 6 * 6 * 2).reshape(ROWS, 6, 6, 2) * 3 + 1
Y = np.arange(ROWS) % 3
DEEP: list[dict[str, Any]] = [
    STATIC,
    {"type": "conv2d", "filters": 4, "kernel": 3, "name": "conv"},
    STATIC,
    {"type": "relu"},
    {"type": "add", "source": "conv"},
    {"type": "max_pool", "size": 2},
    {"type": "flatten"},
    {"type": "dense", "units": 8},
    STATIC,
    {"type": "tanh"},
    {"type": "dense", "units": 3},
]


def model_of(layers: list[dict[str, Any]]) -> Model:
    loss = "softmax_cross_entropy"
    return Model(parse_spec({"input": [6, 6, 2], "layers": layers, "loss": loss}))


def measured(model: Model, params: Floats, data: Data) -> Floats:
    return np.asarray(measure_statistics(model, params, as_blocks(data)), np.float32)


def test_one_layers_statistics_are_those_of_its_input() -> None:
    model = model_of([STATIC, {"type": "flatten"}, {"type": "dense", "units": 3}])
    params = model.init(SEED)
    scale, offset, mean, variance = views(model.spec, measured(model, params, (X, Y)))[0]
    exact = X.astype(np.float64)
    assert mean.tolist() == exact.mean(axis=(0, 1, 2)).astype(np.float32).tolist()
    assert variance == pytest.approx(exact.var(axis=(0, 1, 2)), rel=1e-7)
    assert (scale.tolist(), offset.tolist()) == ([1, 1], [0, 0])


def test_the_model_then_predicts_as_it_trained_on_all_data_at_once() -> None:
    model = model_of(DEEP)
    params = model.init(SEED)
    settings = TrainingSettings(batch_size=50, epochs=2)
    fit(model, params, as_blocks((X, Y)), settings, SEED)
    before = params.copy()
    trained, _ = model.loss_and_gradient(params, X, Y)
    assert model.evaluate(params, X, Y).loss != pytest.approx(trained, rel=1e-3)
    assert model.evaluate(measured(model, params, (X, Y)), X, Y).loss == pytest.approx(trained)
    assert params.tobytes() == before.tobytes()


def test_blocks_of_any_size_give_the_same_statistics() -> None:
    model = model_of(DEEP)
    params = model.init(SEED)
    blocks = [(X[:1], Y[:1]), (X[1:9], Y[1:9]), (X[9:], Y[9:])]
    whole, in_blocks = measured(model, params, (X, Y)), measured(model, params, blocks)
    np.testing.assert_allclose(in_blocks, whole, rtol=1e-5, atol=1e-6)


def test_statistics_that_follow_the_data_stay() -> None:
    running = {"type": "batch_norm"}
    model = model_of([running, {"type": "flatten"}, {"type": "dense", "units": 3}])
    params = model.init(SEED)
    assert measured(model, params, (X, Y)).tobytes() == params.tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no samples to measure"),
        (iter([(X, Y)]), "no samples to measure"),  # gone after the first layer's pass
        ((X[:, :3], Y), "x must hold numbers of shape"),
        ((X * np.nan, Y), "layer 0: mean or variance is not finite"),
    ],
)
def test_data_that_cannot_be_measured_is_refused(data: Data, message: str) -> None:
    model = model_of(DEEP)
    with pytest.raises(TrainingError, match=message):
        measured(model, model.init(SEED), data)
