"""When to connect again."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.backoff import Backoff


def make(chance: float) -> Backoff:
    return Backoff(first_s=1.0, cap_s=120.0, stable_s=30.0, random=lambda: chance)


def test_delays_double_up_to_the_cap() -> None:
    backoff = make(1.0)
    assert [backoff.failed() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]


def test_jitter_is_full() -> None:
    assert make(0.0).failed() == 0.0
    assert make(0.5).failed() == 0.5


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 5_000))
def test_no_delay_exceeds_the_cap(chance: float, num_failures: int) -> None:
    backoff = make(chance)
    delays = [backoff.failed() for _ in range(num_failures)] + [backoff.refused()]
    assert all(math.isfinite(delay) and 0 <= delay <= 120 for delay in delays)


@pytest.mark.parametrize(("lasted_s", "delay"), [(29.0, 8.0), (31.0, 1.0)])
def test_only_a_stable_connection_starts_anew(lasted_s: float, delay: float) -> None:
    backoff = make(1.0)
    for _ in range(3):
        backoff.failed()
    backoff.accepted(100.0)
    assert backoff.ended(100.0 + lasted_s, taken_over=False) == delay


def test_a_second_takeover_waits_near_the_cap() -> None:
    backoff = make(0.0)
    backoff.accepted(0.0)
    assert backoff.ended(60.0, taken_over=True) == 0.0
    backoff.accepted(60.0)
    assert backoff.ended(120.0, taken_over=True) == 60.0


def test_an_old_takeover_is_forgotten() -> None:
    backoff = make(0.0)
    backoff.ended(0.0, taken_over=True)
    backoff.accepted(0.0)
    assert backoff.ended(241.0, taken_over=True) == 0.0


def test_three_quick_closes_look_like_a_takeover() -> None:
    backoff = make(0.0)
    backoff.accepted(0.0)
    assert [backoff.looks_taken_over(1.0) for _ in range(4)] == [False, False, True, True]
    assert not backoff.looks_taken_over(60.0)
