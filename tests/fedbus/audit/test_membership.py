"""Membership inference: what separates, what does not, and what learning by heart gives away."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.engine import Model, TrainingSettings, fit, parse_spec
from device_sdk.engine.data import as_blocks
from fedbus.audit.membership import (
    by_change,
    by_device,
    by_loss,
    likelihood_ratios,
    logit,
    sample_losses,
    separation,
)

SEED = bytes(range(32))
MODEL = Model(
    parse_spec(
        {
            "input": [20],
            "layers": [
                {"type": "dense", "units": 32},
                {"type": "relu"},
                {"type": "dense", "units": 10},
            ],
            "loss": "softmax_cross_entropy",
        }
    )
)
scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


def noise(count: int, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Samples whose labels mean nothing: they can only be learned by heart."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 20)), rng.integers(0, 10, count)


def learned(x: npt.NDArray[Any], y: npt.NDArray[Any], epochs: int = 200) -> npt.NDArray[Any]:
    params = MODEL.init(SEED)
    settings = TrainingSettings(epochs=epochs, batch_size=16, learning_rate=0.1)
    fit(MODEL, params, as_blocks((x, y)), settings, SEED)
    return params


@given(members=scores, others=scores)
def test_the_area_counts_pairs_in_the_right_order(members: list[int], others: list[int]) -> None:
    pairs = [(a > b) + 0.5 * (a == b) for a in members for b in others]
    assert separation(members, others).auc == pytest.approx(np.mean(pairs))


def test_few_false_alarms_are_few() -> None:
    others = np.arange(1000.0)
    assert separation([988.5, 989.5, 5.0, 1e9], others).found == 0.5


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], []), ([np.nan], [0.0])])
def test_scores_that_say_nothing_are_refused(members: list[float], others: list[float]) -> None:
    with pytest.raises(ValueError, match="score"):
        separation(members, others)


def test_a_model_that_learned_by_heart_gives_its_samples_away() -> None:
    members, others = noise(40, 1), noise(400, 2)
    params = learned(*members)
    assert by_loss(MODEL, params, members, others).auc > 0.95
    assert by_change(MODEL, MODEL.init(SEED), params, members, others).auc > 0.9


def test_a_model_that_has_seen_neither_tells_nothing() -> None:
    params = learned(*noise(40, 3))
    assert by_loss(MODEL, params, noise(400, 1), noise(400, 2)).auc == pytest.approx(0.5, abs=0.07)


def test_devices_are_told_apart_by_all_their_samples() -> None:
    members = [noise(10, seed) for seed in range(8)]
    others = [noise(10, seed) for seed in range(100, 140)]
    x, y = (np.concatenate(part) for part in zip(*members, strict=True))
    assert by_device(MODEL, learned(x, y), members, others).auc > 0.95


def test_shadow_models_tell_what_one_loss_does_not() -> None:
    """Samples differ in how hard they are by more than membership moves their score."""
    rng = np.random.default_rng(5)
    hard = rng.normal(0.0, 5.0, 400)
    had = rng.random((32, 400)) < 0.5
    shadows = hard + had + 0.5 * rng.normal(size=had.shape)
    is_member = rng.random(400) < 0.5
    target = hard + is_member + 0.5 * rng.normal(size=400)
    ratios = likelihood_ratios(target, shadows, had)
    assert separation(target[is_member], target[~is_member]).auc < 0.65
    assert separation(ratios[is_member], ratios[~is_member]).auc > 0.85


def test_shadow_models_must_have_had_and_missed_each_sample() -> None:
    with pytest.raises(ValueError, match="every sample"):
        likelihood_ratios(np.zeros(2), np.zeros((3, 2)), np.ones((3, 2)))


def test_the_logit_of_a_loss_is_that_of_its_probability() -> None:
    p = np.array([0.01, 0.5, 0.99])
    np.testing.assert_allclose(logit(-np.log(p)), np.log(p / (1 - p)), atol=1e-9)
    assert np.isfinite(logit(np.array([0.0, 800.0]))).all()


def test_losses_of_samples_have_the_mean_of_all() -> None:
    x, y = noise(50, 7)
    params = MODEL.init(SEED)
    losses = sample_losses(MODEL, params, x, y)
    assert losses.mean() == pytest.approx(MODEL.evaluate(params, x, y).loss, rel=1e-5)
