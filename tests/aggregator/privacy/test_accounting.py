"""Epsilon is never under-stated: held against exact results, and against a real attacker's odds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from aggregator.privacy.accounting import NANO, epsilon, largest_rho, multiplier_milli
from aggregator.privacy.config import PrivacyConfig
from protocol.errors import ConfigError
from protocol.noise import cost_nano

DELTA = 1e-5


def exact_gaussian(rho: float, delta: float) -> float:
    """The least epsilon of Gaussian noise (B. Balle, Y.-X. Wang, ICML 2018, Theorem 8)."""
    mu = math.sqrt(2 * rho)

    def off(eps: float) -> float:
        low, high = stats.norm.cdf(mu / 2 - eps / mu), stats.norm.logcdf(-mu / 2 - eps / mu)
        return float(low - math.exp(eps + high) - delta)

    return float(optimize.brentq(off, 1e-9, 500))


@pytest.mark.parametrize("rho", [1e-4, 0.01, 0.1, 1.0, 10.0])
def test_epsilon_is_above_the_exact_one_and_not_far(rho: float) -> None:
    told, exact = epsilon(int(rho * NANO), DELTA), exact_gaussian(rho, DELTA)
    assert exact <= told <= 1.2 * exact + 0.02


def test_costs_of_releases_add_up_to_that_of_less_noise() -> None:
    """Four looks through noise 2 are one look through noise 1."""
    assert 4 * cost_nano(2000) == cost_nano(1000) == NANO // 2
    assert 3 * cost_nano(1732) > NANO // 2, "rounded up"


def test_nothing_spent_is_nothing_told() -> None:
    assert epsilon(0, DELTA) == 0.0


@given(st.floats(0.05, 50), st.integers(1, 10_000))
def test_a_budget_holds_the_updates_it_was_made_for_and_not_one_more(
    budget: float, updates: int
) -> None:
    try:
        config = PrivacyConfig(mechanism="central", epsilon=budget, updates=updates)
    except ConfigError:
        return  # more noise than anybody wants
    assert config.most_updates >= updates
    assert epsilon(config.most_updates * config.cost, DELTA) <= budget
    assert epsilon((config.most_updates + 1) * config.cost, DELTA) > budget


def test_a_larger_budget_is_never_told_than_was_set() -> None:
    for most in (0.1, 1.0, 2.0, 8.0, 100.0):
        rho = largest_rho(most, DELTA)
        assert epsilon(rho, DELTA) <= most
        assert epsilon(rho + 1, DELTA) > most
        least = multiplier_milli(rho, 7)
        assert 7 * cost_nano(least) <= rho < 7 * cost_nano(least - 1)
