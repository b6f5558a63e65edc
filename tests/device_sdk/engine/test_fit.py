"""Training by its settings; what is wrong with data is said, and never ends up in an update."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import (
    Fitted,
    Model,
    TrainingError,
    TrainingSettings,
    fit,
    parse_spec,
    plan_training,
)
from device_sdk.engine.data import Data, as_blocks
from protocol.errors import ConfigError
from protocol.stream import Stream, derive

SEED = bytes(range(32))
Floats = npt.NDArray[np.float32]
LINEAR: dict[str, Any] = {
    "input": [4],
    "layers": [{"type": "dense", "units": 3}],
    "loss": "softmax_cross_entropy",
}
MODEL = Model(parse_spec(LINEAR))
X = Stream(bytes(32)).uniform(40 * 4).reshape(40, 4)
Y = X[:, :3].argmax(axis=1).astype(np.int64)


def train(
    data: Data = (X, Y), model: Model = MODEL, base: Floats | None = None, **keys: Any
) -> tuple[Floats, Fitted]:
    params = model.init(SEED)
    settings = TrainingSettings(**keys)
    fitted = fit(model, params, as_blocks(data), settings, SEED, base=base)
    return params, fitted


def by_hand(rates: list[float], proximal: float = 0.0) -> Floats:
    """One pass of SGD in batches of 8, a rate a step, with the model's own gradient."""
    params = MODEL.init(SEED)
    base = params.copy()
    order = Stream(derive(SEED, "order", 0, 0)).permutation(40)
    for step, rate in enumerate(rates):
        rows = order[8 * step : 8 * step + 8]
        _, gradient = MODEL.loss_and_gradient(params, X[rows], Y[rows])
        params -= np.float32(rate) * (gradient + np.float32(proximal) * (params - base))
    return params


@pytest.mark.parametrize(
    ("keys", "factors"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"schedule": "step", "schedule_steps": 2}, [1, 1, 0.1, 0.1, 0.01]),
        (
            {"schedule": "step", "schedule_steps": 1, "schedule_factor": 0.5},
            [1, 0.5, 0.25, 0.125, 0.0625],
        ),
        (
            {"schedule": "cosine", "schedule_steps": 4},
            [(1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)],
        ),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1]),
        ({"warmup_steps": 2, "schedule": "step", "schedule_steps": 2}, [0.5, 1, 1, 1, 0.1]),
    ],
)
def test_the_rate_follows_the_schedule(keys: dict[str, Any], factors: list[float]) -> None:
    params, fitted = train(batch_size=8, learning_rate=0.5, **keys)
    assert fitted.num_steps == 5
    np.testing.assert_allclose(params, by_hand([0.5 * each for each in factors]), atol=1e-6)


def test_the_proximal_term_holds_on_to_where_training_began() -> None:
    free, _ = train(batch_size=8, learning_rate=0.5)
    held, _ = train(batch_size=8, learning_rate=0.5, proximal=0.8)
    np.testing.assert_allclose(held, by_hand([0.5] * 5, proximal=0.8), atol=1e-6)
    start = MODEL.init(SEED)
    assert np.linalg.norm(held - start) < np.linalg.norm(free - start)


def test_a_base_may_be_another_than_the_start() -> None:
    elsewhere = np.full(MODEL.layout.size, 3, np.float32)
    pulled, _ = train(batch_size=8, learning_rate=0.5, proximal=1.0, base=elsewhere)
    free, _ = train(batch_size=8, learning_rate=0.5)
    assert np.linalg.norm(pulled - elsewhere) < np.linalg.norm(free - elsewhere)


@pytest.mark.parametrize(
    "keys",
    [
        {"optimiser": "adam"},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 1e-4, "clip_norm": 1.0, "learning_rate": 2.0},
    ],
)
def test_every_optimiser_learns(keys: dict[str, Any]) -> None:
    params, _ = train(epochs=100, **keys)
    assert (MODEL.evaluate(params, X, Y).accuracy or 0) > 0.9


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"optimiser": "lion"}, "optimiser must be sgd or adam, not 'lion'"),
        ({"optimiser": "adam", "momentum": 0.9}, "momentum and nesterov are of sgd"),
        ({"schedule": "linear"}, "schedule must be constant, step or cosine, not 'linear'"),
        ({"schedule": "cosine"}, "schedule 'cosine' needs schedule_steps"),
        ({"schedule_steps": 0}, "schedule_steps must be at least 1"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more"),
        ({"proximal": -1.0}, "proximal must be 0 or more"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0"),
        ({"trainable_last": 0}, "trainable_last must be at least 1"),
        ({"epochs": 10**15}, "epochs must be at most 1000000"),
        ({"max_steps": 10**15}, "max_steps must be at most 1000000"),
        ({"schedule_steps": 10**400}, "schedule_steps must be at most 1000000"),
        ({"warmup_steps": 10**400}, "warmup_steps must be at most 1000000"),
        ({"schedule_factor": 1e10}, "schedule_factor must be at most 1, not"),
        ({"trainable_last": 1, "trainable": ("*",)}, "not both"),
    ],
)
def test_a_wrong_setting_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingSettings(**keys)


def with_numbers(count: int, number: float) -> Floats:
    x = X.copy()
    x[:count] = number
    return x


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("keys", [{}, {"optimiser": "adam"}, {"momentum": 0.9, "clip_norm": 1.0}])
def test_what_is_not_finite_is_skipped_and_leaves_no_trace(
    number: float, keys: dict[str, Any]
) -> None:
    params, fitted = train((with_numbers(1, number), Y), batch_size=4, epochs=3, **keys)
    assert np.isfinite(params).all()
    assert fitted.num_steps + fitted.num_skipped == 30
    assert fitted.num_skipped <= 3
    assert math.isfinite(fitted.loss)


def test_if_most_is_not_finite_there_is_no_result() -> None:
    with pytest.raises(TrainingError, match="10 of 10 steps had no finite loss"):
        train((with_numbers(40, np.nan), Y), batch_size=4)


def test_samples_without_a_label_do_not_count() -> None:
    labels = np.where(np.arange(40) < 20, Y, -1)
    masked, fitted = train((X, labels), batch_size=40, learning_rate=0.5)
    few, _ = train((X[:20], Y[:20]), batch_size=20, learning_rate=0.5)
    np.testing.assert_allclose(masked, few, atol=1e-6)
    assert fitted.num_skipped == 0


def test_a_class_that_is_never_seen_does_no_harm() -> None:
    seen = Y != 2
    params, _ = train((X[seen], Y[seen]), epochs=50, learning_rate=1.0)
    assert np.isfinite(params).all()
    assert (MODEL.evaluate(params, X[seen], Y[seen]).accuracy or 0) > 0.8


def test_batch_norm_takes_a_single_sample_and_no_nan() -> None:
    layers = [{"type": "dense", "units": 5}, {"type": "batch_norm"}, {"type": "dense", "units": 3}]
    model = Model(parse_spec({**LINEAR, "layers": layers}))
    params, fitted = train((X[:1], Y[:1]), model, epochs=3)
    assert fitted.num_steps == 3
    assert np.isfinite(params).all()


def test_running_statistics_follow_the_data() -> None:
    layers = [{"type": "batch_norm"}, {"type": "dense", "units": 3}]
    model = Model(parse_spec({**LINEAR, "layers": layers}))
    params, _ = train((X * 10 + 5, Y), model, epochs=20, batch_size=8)
    mean = params[8:12]
    assert mean == pytest.approx(10 * X.mean(axis=0) + 5, rel=0.1)
    static = [{"type": "batch_norm", "static": True}, {"type": "dense", "units": 3}]
    params, _ = train((X, Y), Model(parse_spec({**LINEAR, "layers": static})))
    assert params[8:16].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("target", [1e18, math.nan], ids=["gradient", "loss"])
@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
def test_statistics_do_not_follow_what_is_skipped(*, target: float, in_parts: bool) -> None:
    dense = {"type": "dense", "units": 3}
    layers = [{"type": "batch_norm"}, dense, dense]
    spec = parse_spec({"input": [4], "layers": layers, "loss": "mean_squared_error"})
    model, settings = Model(spec), TrainingSettings(batch_size=40, learning_rate=1e-15)
    budget = plan_training(spec, settings).total - 500 if in_parts else None
    assert (plan_training(spec, settings, budget).rows < 40) == in_parts
    good, bad = np.zeros((40, 3)), np.zeros((40, 3))
    bad[Stream(derive(SEED, "order", 0, 1)).permutation(40)[-1]] = target
    start = model.init(SEED)
    start[-12:-3] *= 1e6  # which makes a gradient that is too large to square
    results = []
    for blocks in ([(X, good)], [(X, good), (X * 2 + 1, bad)]):
        params = start.copy()
        data = as_blocks(iter(blocks))
        fitted = fit(model, params, data, settings, SEED, budget_bytes=budget)
        assert (fitted.num_steps, fitted.num_skipped) == (1, len(blocks) - 1)
        results.append(params.tolist())
    assert results[0] == results[1] != start.tolist()


def test_dropout_depends_on_the_seed_alone() -> None:
    layers = [{"type": "dropout", "rate": 0.5}, {"type": "dense", "units": 3}]
    model = Model(parse_spec({**LINEAR, "layers": layers}))
    first, again, plain = (train(model=each)[0] for each in (model, model, MODEL))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != plain.tobytes()


@pytest.mark.parametrize(
    "x",
    [np.full((40, 6), 9), np.full((40, 6), -1), np.full((40, 6), 0.5), np.full((40, 6), np.nan)],
)
def test_words_outside_the_vocabulary_are_refused(x: npt.NDArray[np.generic]) -> None:
    spec = {
        "input": [6],
        "layers": [
            {"type": "embedding", "vocabulary": 9, "dim": 2},
            {"type": "global_avg_pool"},
            {"type": "dense", "units": 3},
        ],
        "loss": "softmax_cross_entropy",
    }
    model = Model(parse_spec(spec))
    assert train((np.full((40, 6), 8, np.uint8), Y), model)[1].num_steps == 3
    with pytest.raises(TrainingError):
        train((x, Y), model)
