"""Strategies and staleness weights against their papers' formulas, in plain loops."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.strategy import Counted, Strategy
from aggregator.strategy.adaptive import fedadagrad, fedadam, fedyogi
from aggregator.strategy.ca2fl import ca2fl
from aggregator.strategy.calibrated import calibrated
from aggregator.strategy.fadas import fadas
from aggregator.strategy.fedasync import fedasync
from aggregator.strategy.fedavg import fedavg, fedavgm
from aggregator.strategy.fedbuff import fedbuff
from aggregator.strategy.inverse_rate import inverse_rate
from aggregator.strategy.stale_weight import stale_weight
from aggregator.strategy.stratified import lacking, stratified
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


# --- asynchronous methods ------------------------------------------------------------------------

PARAMS = np.array([1.0, 2.0], np.float32)
DELTA = np.array([0.5, -1.0])


def step(
    strategy: Strategy, counted: Counted, delta: npt.NDArray[np.float64] = DELTA
) -> list[float]:
    exact, _ = strategy.apply(PARAMS, delta, strategy.init(2), counted)
    return [float(each) for each in exact - PARAMS]


def test_fedbuff_steps_as_fedavg_does() -> None:
    assert run(fedbuff(learning_rate=2.0)) == run(fedavg(learning_rate=2.0))


def test_fedasync_moves_towards_what_the_device_trained() -> None:
    """(1 - a) params + a (base + delta), with a = 0.6 * 0.5, base = params + drift."""
    drift = np.array([1.0, 1.0])
    moved = step(fedasync(), Counted(1, 1, (3,), 0.5, drift=drift))
    assert moved == pytest.approx([0.3 * 1.5, 0.3 * 0.0])


def test_fedasync_with_alpha_1_and_a_fresh_update_replaces_the_model() -> None:
    exact, _ = fedasync(alpha=1.0).apply(PARAMS, DELTA, {}, Counted(1, 1, (0,), drift=np.zeros(2)))
    assert exact.tolist() == (PARAMS + DELTA).tolist()


def test_fadas_is_adam_at_first_and_slower_where_updates_are_late() -> None:
    """After one step both moments are the delta's, corrected: so the step is rate * sign."""
    strategy = fadas(learning_rate=0.1, patience=2.0)
    assert step(strategy, Counted(2, 2, (0, 2))) == pytest.approx([0.1, -0.1])
    assert step(strategy, Counted(2, 2, (0, 5))) == pytest.approx([0.02, -0.02])


def test_fadas_follows_amsgrad_over_several_steps() -> None:
    strategy, params, state = fadas(), np.zeros(1, np.float32), fadas().init(1)
    m = v = most = 0.0
    expected = 0.0
    for t, delta in enumerate((1.0, 0.1, 0.1), start=1):
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        most = max(most, v)
        expected += 0.01 * (m / (1 - 0.9**t)) / (math.sqrt(most / (1 - 0.99**t)) + 1e-8)
        exact, state = strategy.apply(params, np.array([delta]), state, COUNTED)
        params = exact.astype(np.float32)
    assert float(params[0]) == pytest.approx(expected, rel=1e-5)


def test_a_first_update_is_fedbuffs_in_calibrated_steps() -> None:
    """Two known devices (caches 2 and 4), a buffer of one of them and a new one."""
    strategy = calibrated()
    state = {"sum": np.array([6.0, 0.0]), "num_devices": np.array([2.0])}
    differences = np.array([(5.0 - 2.0) + 1.0, 0.0]) / 2
    exact, after = strategy.apply(PARAMS, differences, state, Counted(2, 3))
    assert float(exact[0] - PARAMS[0]) == pytest.approx(2.0 + 0.5 * 3.0)
    assert after["sum"].tolist() == [10.0, 0.0]
    assert after["num_devices"].tolist() == [3.0]


def test_ca2fl_forms_the_differences_itself() -> None:
    state = {"sum": np.array([6.0, 0.0]), "num_devices": np.array([2.0])}
    mean = np.array([(5.0 + 1.0) / 2, 0.0])
    counted = Counted(2, 3, replaced=np.array([2.0, 0.0]))
    theirs = calibrated().apply(PARAMS, np.array([2.0, 0.0]), state, Counted(2, 3))
    ours = ca2fl().apply(PARAMS, mean, state, counted)
    assert ours[0].tolist() == theirs[0].tolist()
    assert ours[1]["sum"].tolist() == theirs[1]["sum"].tolist()


def test_what_a_buffer_lacks_is_the_difference_of_parts_times_the_groups_mean() -> None:
    """The fleet is a quarter slow; all of the buffer is fast."""
    means = {0: np.array([1.0, 0.0]), 2: np.array([0.0, 4.0])}
    found = lacking(means, {0: 3, 2: 1}, {0: 10.0}, 2)
    assert found.tolist() == [-0.25, 1.0]


def test_nothing_is_lacking_where_all_groups_send_their_part() -> None:
    means = {0: np.array([1.0, 0.0]), 2: np.array([0.0, 4.0])}
    assert lacking(means, {0: 3, 2: 1}, {0: 30.0, 2: 10.0}, 2).tolist() == [0.0, 0.0]


def test_a_group_without_a_mean_yet_takes_no_part() -> None:
    means = {0: np.array([1.0, 0.0])}
    assert lacking(means, {0: 3, 2: 1}, {0: 1.0, 2: 1.0}, 2).tolist() == [0.0, 0.0]
    assert lacking({}, {}, {0: 1.0}, 2).tolist() == [0.0, 0.0]


def test_stratified_adds_a_part_of_what_is_lacking() -> None:
    counted = Counted(2, 2, lacking=np.array([1.0, 2.0]))
    assert step(stratified(), counted) == pytest.approx([1.0, 0.0])
    assert step(stratified(strength=0.0), counted) == pytest.approx(DELTA.tolist())


@pytest.mark.parametrize("strategy", [fedasync(), ca2fl(), stratified()])
def test_what_must_be_told_more_says_so(strategy: Strategy) -> None:
    assert strategy.unmaskable
    with pytest.raises(ValueError, match="needs"):
        step(strategy, Counted(1, 1))


def test_seldom_devices_weigh_more_up_to_ten_times() -> None:
    assert [inverse_rate(gap, 2.0) for gap in (1.0, 2.0, 6.0, 20.0, 90.0)] == [1, 1, 3, 10, 10]


def test_late_devices_weigh_more() -> None:
    assert [stale_weight(late) for late in (0.0, 1.0, 9.5)] == [1.0, 2.0, 10.5]
