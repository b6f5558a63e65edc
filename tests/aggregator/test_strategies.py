"""Strategies and staleness weights against their papers' formulas, in plain loops."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from aggregator.strategy import Counted, Strategy
from aggregator.strategy.adaptive import fedadagrad, fedadam, fedyogi
from aggregator.strategy.fedavg import fedavg, fedavgm
from protocol.errors import ConfigError
from protocol.staleness import constant, hinge, polynomial

COUNTED = Counted(4, 4)
DELTAS = np.random.default_rng(1).normal(size=(4, 5))


def run(strategy: Strategy) -> list[float]:
    params = np.ones(5, np.float32)
    state = strategy.init(5)
    for delta in DELTAS:
        exact, state = strategy.apply(params, delta, state, COUNTED)
        params = exact.astype(np.float32)
    return [float(value) for value in params]


def plain(
    second: Callable[[float, float], float], beta1: float, rate: float, tau: float
) -> list[float]:
    """Algorithm 2 of Reddi et al., coordinate by coordinate."""
    params, m, v = [1.0] * 5, [0.0] * 5, [tau**2] * 5
    for delta in DELTAS:
        for j in range(5):
            m[j] = beta1 * m[j] + (1 - beta1) * delta[j]
            v[j] = second(v[j], delta[j] ** 2)
            params[j] = float(np.float32(params[j] + rate * m[j] / (math.sqrt(v[j]) + tau)))
    return params


def test_fedavg_adds_the_mean_delta() -> None:
    params = np.float32(1.0) * np.ones(5, np.float32)
    for delta in DELTAS:
        params = (params + delta).astype(np.float32)
    assert run(fedavg()) == list(params)


def test_fedavgm_is_momentum_over_mean_deltas() -> None:
    params, velocity = np.ones(5, np.float32), np.zeros(5)
    for delta in DELTAS:
        velocity = 0.9 * velocity + delta
        params = (params + velocity).astype(np.float32)
    assert run(fedavgm()) == list(params)


def sign(value: float) -> float:
    return math.copysign(1.0, value) if value else 0.0


@pytest.mark.parametrize(
    ("strategy", "second", "beta1"),
    [
        (fedadagrad(), lambda v, s: v + s, 0.0),
        (fedadam(), lambda v, s: 0.99 * v + 0.01 * s, 0.9),
        (fedyogi(), lambda v, s: v - 0.01 * s * sign(v - s), 0.9),
    ],
)
def test_adaptive_strategies_follow_algorithm_2(
    strategy: Strategy, second: Callable[[float, float], float], beta1: float
) -> None:
    np.testing.assert_allclose(run(strategy), plain(second, beta1, 0.1, 1e-3), rtol=1e-5)


def test_a_strategy_changes_neither_params_nor_state() -> None:
    strategy = fedyogi()
    params, state = np.ones(5, np.float32), strategy.init(5)
    before = {name: vector.copy() for name, vector in state.items()}
    strategy.apply(params, DELTAS[0], state, COUNTED)
    assert (params == 1).all()
    assert all((state[name] == before[name]).all() for name in before)


@pytest.mark.parametrize("weight", [constant, polynomial(0.5), hinge(0.3, 4)])
def test_a_fresh_update_weighs_one_and_staleness_never_adds_weight(
    weight: Callable[[int], float],
) -> None:
    weights = [weight(staleness) for staleness in range(50)]
    assert weights[0] == 1.0
    assert weights == sorted(weights, reverse=True)
    assert min(weights) > 0


def test_the_polynomial_weight_of_fedbuff() -> None:
    assert polynomial(0.5)(3) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "make", [lambda: polynomial(-1), lambda: hinge(0, 1), lambda: hinge(1, -1)]
)
def test_weights_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()
