"""Gradient inversion gives samples back where it must, and its derivatives are right."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import Model, parse_spec
from fedbus.audit import inversion
from fedbus.audit.figures import correlation, likeness
from fedbus.audit.inversion import Clue, Search, analytic, label, search
from fedbus.audit.passes import derivatives

Floats = npt.NDArray[np.float64]

SEED = bytes(range(32))
CLASSES = {"type": "dense", "units": 5}
CONV = {"type": "conv2d", "filters": 4, "kernel": 3, "padding": "same"}
#: What leads through every kind of wiring: views, branches, statistics, windows, memory.
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"input": [12], "layers": [{"type": "dense", "units": 8}, {"type": "tanh"}, CLASSES]},
    "cnn": {
        "input": [6, 6, 2],
        "layers": [
            CONV,
            {"type": "sigmoid"},
            {"type": "avg_pool", "size": 2},
            {"type": "flatten"},
            CLASSES,
        ],
    },
    "branches": {
        "input": [6, 6, 4],
        "layers": [
            {**CONV, "name": "first"},
            {"type": "gelu"},
            CONV,
            {"type": "add", "source": "first"},
            {"type": "batch_norm"},
            {"type": "global_avg_pool"},
            CLASSES,
        ],
    },
    "gru": {"input": [7, 3], "layers": [{"type": "gru", "units": 6}, CLASSES]},
}


def made(name: str) -> Model:
    return Model(parse_spec({**MODELS[name], "loss": "softmax_cross_entropy"}))


def batch(model: Model, count: int = 3) -> tuple[Floats, npt.NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, *model.spec.input)), rng.integers(0, 5, count)


@pytest.mark.parametrize("name", MODELS)
def test_params_have_the_derivative_that_the_engine_gives(name: str) -> None:
    model = made(name)
    params = model.init(SEED).astype(np.float64)
    x, y = batch(model)
    _, expected = model.loss_and_gradient(params, x, y)
    np.testing.assert_allclose(
        derivatives(model.spec, params, x, y).by_params, expected, atol=1e-12
    )


@pytest.mark.parametrize("name", MODELS)
def test_samples_have_the_derivative_of_the_loss(name: str) -> None:
    model = made(name)
    params = model.init(SEED).astype(np.float64)
    x, y = batch(model)
    by_x = derivatives(model.spec, params, x, y).by_x
    rng = np.random.default_rng(1)
    for _ in range(5):
        along = rng.normal(size=x.shape)
        ahead, behind = (
            model.loss_and_gradient(params, x + step * along, y)[0] for step in (1e-5, -1e-5)
        )
        assert float((by_x * along).sum()) == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)


def test_one_sample_comes_back_exactly_through_a_dense_layer() -> None:
    model = made("mlp")
    params = model.init(SEED).astype(np.float64)
    x, y = batch(model, 1)
    delta = -0.1 * model.loss_and_gradient(params, x, y)[1]
    found = analytic(model, delta)
    np.testing.assert_allclose(found[0], x[0], rtol=1e-9)
    assert label(model, delta) == y[0]
    best = likeness(found, x[0], 2.0)
    assert best.correlation > 0.999999
    assert best.psnr > 90


def test_a_model_without_a_dense_layer_in_front_is_not_inverted_exactly() -> None:
    model = made("cnn")
    assert analytic(model, np.ones(model.layout.size)).shape == (0, 6, 6, 2)


def test_an_update_of_nothing_gives_no_guess() -> None:
    model = made("mlp")
    assert len(analytic(model, np.zeros(model.layout.size))) == 0


def test_a_search_finds_one_sample_behind_windows() -> None:
    model = made("cnn")
    params = model.init(SEED).astype(np.float64)
    x, y = batch(model, 1)
    x = np.clip(x, -1, 1)
    delta = -0.1 * model.loss_and_gradient(params, x, y)[1]
    how = Search(steps=400, smooth=0.0)
    found = search(Clue(model, params, delta, y), how, np.random.default_rng(3), (-1.0, 1.0))
    assert found.distance < 0.01
    assert correlation(found.x[0], x[0]) > 0.9


def test_nothing_that_is_not_finite_counts_as_alike() -> None:
    assert correlation(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == 0.0
    assert likeness(np.array([[np.inf, 0.0]]), np.array([1.0, 2.0]), 1.0).psnr == -100.0


@pytest.mark.parametrize("name", MODELS)
def test_the_searchs_slope_is_the_derivative_of_its_distance(name: str) -> None:
    """It is a difference of two gradients: as good as the exact second derivative."""
    model = made(name)
    params = model.init(SEED).astype(np.float64)
    x, y = batch(model, 2)
    delta = -model.loss_and_gradient(params, x, y)[1]
    clue = Clue(model, params, delta, y)
    rng = np.random.default_rng(2)
    guess = rng.normal(size=x.shape)
    _, slope = inversion._distance(clue, guess)
    for _ in range(3):
        along = rng.normal(size=x.shape)
        ahead, behind = (
            inversion._distance(clue, guess + step * along)[0] for step in (1e-5, -1e-5)
        )
        assert float((slope * along).sum()) == pytest.approx((ahead - behind) / 2e-5, rel=1e-4)
