"""How fast bytes go out, of what the broker has answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.uplink import LEAST_BYTES, Uplink


def test_a_burst_over_its_seconds_is_a_speed() -> None:
    uplink = Uplink()
    for _ in range(3):
        uplink.sent(10_000, now=5.0)
    for at in (6.0, 7.0, 8.0):
        uplink.answered(now=at)
    assert uplink.bytes_per_s == 10_000


def test_until_all_of_it_is_answered_it_says_nothing() -> None:
    uplink = Uplink()
    uplink.sent(10_000, now=0.0)
    uplink.sent(10_000, now=0.5)
    uplink.answered(now=1.0)
    assert uplink.bytes_per_s == 0


def test_what_is_small_tells_of_the_way_and_not_of_the_speed() -> None:
    uplink = Uplink()
    uplink.sent(LEAST_BYTES - 1, now=0.0)
    uplink.answered(now=1.0)
    assert uplink.bytes_per_s == 0


def test_a_burst_that_a_connection_did_not_survive_says_nothing() -> None:
    uplink = Uplink()
    uplink.sent(10_000, now=0.0)
    uplink.interrupted()
    uplink.answered(now=100.0)
    uplink.sent(10_000, now=200.0)
    uplink.answered(now=201.0)
    assert uplink.bytes_per_s == 10_000


@given(st.lists(st.tuples(st.floats(1e3, 1e7), st.floats(0.01, 100)), min_size=1, max_size=20))
def test_the_average_stays_among_what_was_seen(bursts: list[tuple[float, float]]) -> None:
    uplink, now = Uplink(), 0.0
    speeds = []
    for speed, seconds in bursts:
        num_bytes = max(LEAST_BYTES, int(speed * seconds))
        uplink.sent(num_bytes, now)
        uplink.answered(now + seconds)
        now += seconds + 1
        speeds.append(num_bytes / seconds)
    assert min(speeds) * 0.999 <= uplink.bytes_per_s <= max(speeds) * 1.001
    assert uplink.bytes_per_s > 0


def test_the_first_burst_counts_whole_and_later_ones_a_quarter() -> None:
    uplink = Uplink()
    for now, took in ((0.0, 1.0), (10.0, 2.0)):
        uplink.sent(8_000, now)
        uplink.answered(now + took)
    assert uplink.bytes_per_s == pytest.approx(8_000 - 0.25 * 4_000)
