"""A file that trains takes the engine's steps, in whichever runtime is there."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.export.training import export_training
from device_sdk.adapters.signatures import tensor_key
from device_sdk.engine import Model, parse_spec
from device_sdk.engine.specs import named_spec
from device_sdk.runtimes import find_runtime
from protocol.errors import ConfigError

Float32 = npt.NDArray[np.float32]
RATE = np.float32(0.3)


def model_of(layers: list[dict[str, object]], loss: str = "softmax_cross_entropy") -> Model:
    return Model(parse_spec({"input": [4, 3], "layers": layers, "loss": loss}))


def dense(units: int, **keys: object) -> dict[str, object]:
    return {"type": "dense", "units": units, **keys}


FLATTEN: dict[str, object] = {"type": "flatten"}
MODELS = {
    "softmax regression": model_of([FLATTEN, dense(5)]),
    "without biases": model_of([FLATTEN, dense(6, bias=False), dense(5, bias=False)]),
    "deep": model_of(
        [
            FLATTEN,
            dense(9),
            {"type": "relu"},
            {"type": "reshape", "shape": [3, 3]},
            FLATTEN,
            dense(8),
            {"type": "tanh"},
            dense(7),
            {"type": "sigmoid"},
            dense(5),
        ]
    ),
    "regression": model_of([FLATTEN, dense(6), {"type": "tanh"}, dense(5)], "mean_squared_error"),
    "of many sides": model_of(
        [FLATTEN, dense(6), {"type": "reshape", "shape": [3, 2]}], "mean_squared_error"
    ),
    "the autoencoder": Model(parse_spec(named_spec("autoencoder"))),
    "the MLP": Model(parse_spec(named_spec("mlp"))),
}


class Loaded:
    """The file of a model with some params, which none of its layers begin with."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._interpreter: Any = find_runtime().interpreter(export_training(model))
        noise = np.random.default_rng(3).uniform(-0.2, 0.2, model.layout.size)
        self.params = model.init(bytes(32)) + noise.astype(np.float32)
        self.restore(self.params)

    def __call__(self, key: str, **inputs: object) -> Any:
        return self._interpreter.get_signature_runner(key)(**inputs)

    def restore(self, params: Float32) -> None:
        views = self.model.layout.views(params)
        self("restore", **{tensor_key(name): view for name, view in views.items()})

    def save(self) -> Float32:
        saved = self("save")
        layout = self.model.layout
        return layout.flatten({each.name: saved[tensor_key(each.name)] for each in layout.tensors})

    def batch(self, rows: int) -> tuple[Float32, npt.NDArray[np.generic]]:
        draw = np.random.default_rng(rows)
        spec = self.model.spec
        x = draw.normal(size=(rows, *spec.input)).astype(np.float32)
        if spec.loss.dense_targets:
            return x, draw.normal(size=(rows, *spec.shapes[-1])).astype(np.float32)
        return x, draw.integers(0, spec.shapes[-1][0], rows).astype(np.int32)


@pytest.mark.parametrize("name", MODELS)
def test_steps_of_any_batch_are_those_of_the_engine(name: str) -> None:
    file = Loaded(MODELS[name])
    params = file.params
    for rows in (8, 8, 1, 13):
        x, y = file.batch(rows)
        loss, gradient = file.model.loss_and_gradient(params, x, y)
        assert file("train", x=x, y=y, learning_rate=RATE)["loss"] == pytest.approx(loss, rel=1e-5)
        params = params - RATE * gradient.astype(np.float32)
        np.testing.assert_allclose(file.save(), params, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_it_infers_as_the_engine_does(name: str) -> None:
    file = Loaded(MODELS[name])
    x, _ = file.batch(6)
    expected = file.model.predict(file.params, x)
    np.testing.assert_allclose(file("infer", x=x)["y"], expected, rtol=1e-5, atol=1e-5)


def test_what_is_restored_is_saved_bit_by_bit() -> None:
    file = Loaded(MODELS["deep"])
    assert np.array_equal(file.save(), file.params)


def test_a_masked_label_counts_as_little_as_in_the_engine() -> None:
    file = Loaded(MODELS["deep"])
    x, y = file.batch(6)
    y[::2] = -1
    loss, gradient = file.model.loss_and_gradient(file.params, x, y)
    assert file("train", x=x, y=y, learning_rate=RATE)["loss"] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(file.save(), file.params - RATE * gradient, rtol=1e-5, atol=1e-5)


def test_if_no_label_counts_nothing_moves() -> None:
    file = Loaded(MODELS["deep"])
    x, y = file.batch(3)
    assert file("train", x=x, y=np.full_like(y, -1), learning_rate=RATE)["loss"] == 0
    assert np.array_equal(file.save(), file.params)


def test_logits_too_large_for_exp_have_a_finite_loss() -> None:
    file = Loaded(MODELS["softmax regression"])
    file.restore(file.params * 1e4)
    x, y = file.batch(4)
    expected, _ = file.model.loss_and_gradient(file.params * np.float32(1e4), x, y)
    loss = file("train", x=x, y=y, learning_rate=RATE)["loss"]
    assert loss == pytest.approx(expected, rel=1e-4)


def test_two_interpreters_of_one_file_have_params_of_their_own() -> None:
    one, other = Loaded(MODELS["deep"]), Loaded(MODELS["deep"])
    x, y = one.batch(5)
    one("train", x=x, y=y, learning_rate=RATE)
    assert np.array_equal(other.save(), other.params)


@pytest.mark.parametrize(
    ("layers", "loss", "problem"),
    [
        ([FLATTEN, dense(4), {"type": "gelu"}], "mean_squared_error", r"2\.gelu: a GELU cannot"),
        ([FLATTEN, dense(4)], "huber", "loss: a Huber cannot train"),
    ],
)
def test_what_has_no_derivative_here_is_refused(
    layers: list[dict[str, object]], loss: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        export_training(model_of(layers, loss))
