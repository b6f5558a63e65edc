"""Optimisers by their formulas; clipping; what pulls and decays."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine.optimisers import (
    CHUNK,
    SGD,
    Adam,
    Descent,
    Optimiser,
    clip_by_norm,
    norm_of,
)
from protocol.errors import ConfigError

Float64 = npt.NDArray[np.float64]
GRADIENTS = [np.array([0.5, 0.25]), np.array([-1.0, 3.0]), np.array([2.0, 0.0])]
START = np.array([1.0, -2.0])


def descend(
    optimiser: Optimiser, *, rate: float = 0.1, weight_decay: float = 0.0, proximal: float = 0.0
) -> Float64:
    params, gradient = START.copy(), np.empty(2)
    descent = Descent(
        optimiser,
        params,
        gradient,
        [slice(0, 2)],
        weight_decay=weight_decay,
        proximal=proximal,
        base=START.copy(),
    )
    for each in GRADIENTS:
        gradient[...] = each
        descent.step(rate)
    return params


def test_plain_sgd_goes_down_the_gradient() -> None:
    assert descend(SGD()) == pytest.approx(START - 0.1 * sum(GRADIENTS))


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_and_weight_decay_follow_their_formula(*, nesterov: bool) -> None:
    expected, velocity = START.copy(), np.zeros(2)
    for gradient in GRADIENTS:
        decayed = gradient + 0.01 * expected
        velocity = 0.9 * velocity + decayed
        expected = expected - 0.1 * (decayed + 0.9 * velocity if nesterov else velocity)
    moved = descend(SGD(0.9, nesterov=nesterov), weight_decay=0.01)
    assert moved == pytest.approx(expected, rel=1e-12)


def test_adam_follows_its_formula() -> None:
    expected, mean, square = START.copy(), np.zeros(2), np.zeros(2)
    for number, gradient in enumerate(GRADIENTS, 1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9**number), square / (1 - 0.999**number)
        expected = expected - 0.1 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    assert descend(Adam()) == pytest.approx(expected, rel=1e-12)


def test_the_proximal_term_pulls_towards_the_base() -> None:
    expected = START.copy()
    for gradient in GRADIENTS:
        expected = expected - 0.1 * (gradient + 0.5 * (expected - START))
    assert descend(SGD(), proximal=0.5) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimiser", [SGD(), SGD(0.5), SGD(0.5, nesterov=True), Adam()])
def test_chunks_and_slices_change_nothing_but_what_they_should(optimiser: Optimiser) -> None:
    size = 2 * CHUNK + 10
    whole = np.linspace(-1, 1, size, dtype=np.float32)
    parts = whole.copy()
    slopes = np.sin(np.arange(size)).astype(np.float32)
    slices = [slice(3, CHUNK + 5), slice(CHUNK + 7, size - 2)]
    taken = np.concatenate([np.arange(part.start, part.stop) for part in slices])
    one, few = np.empty_like(whole), np.empty(taken.size, np.float32)
    together = Descent(optimiser, whole, one, [slice(0, size)], weight_decay=0.1)
    apart = Descent(optimiser, parts, few, slices, weight_decay=0.1)
    left = np.setdiff1d(np.arange(size), taken)
    before = parts[left].copy()
    for _ in range(3):
        one[...], few[...] = slopes, slopes[taken]
        together.step(0.1)
        apart.step(0.1)
    assert np.array_equal(whole[taken], parts[taken])
    assert np.array_equal(parts[left], before)
    assert parts.dtype == np.float32


def test_a_long_gradient_is_scaled_to_the_limit() -> None:
    gradient = np.array([3.0, 4.0])
    clip_by_norm(gradient, 1.0, norm_of(gradient))
    assert gradient == pytest.approx([0.6, 0.8])


def test_a_short_gradient_is_left_alone() -> None:
    gradient = np.array([3.0, 4.0])
    clip_by_norm(gradient, 5.0, norm_of(gradient))
    assert gradient.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_the_norm_shows_what_is_not_finite(wrong: float) -> None:
    assert not math.isfinite(norm_of(np.array([1.0, wrong])))


@pytest.mark.parametrize("momentum", [1.0, -0.1, math.nan])
def test_a_momentum_out_of_range_is_named(momentum: float) -> None:
    with pytest.raises(ConfigError, match=r"^momentum must be"):
        SGD(momentum)


def test_nesterov_needs_a_momentum() -> None:
    with pytest.raises(ConfigError, match=r"^nesterov needs a momentum"):
        SGD(nesterov=True)


@pytest.mark.parametrize(("key", "value"), [("beta1", 1.0), ("beta2", math.nan), ("epsilon", 0.0)])
def test_adam_names_what_is_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{key} must be"):
        Adam(**{key: value})
