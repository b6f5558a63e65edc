"""Oort: utility by what was taught, how long ago, and how fast; strangers are tried."""

import math
from collections import Counter

import numpy as np
import pytest

from aggregator.scheduling.links import Link, Links
from aggregator.scheduling.oort import WINDOW, Oort, Pacer, utilities
from aggregator.scheduling.queues import Queues
from aggregator.scheduling.rules import Knowledge, Moment, Seat
from aggregator.scheduling.selection import OortConfig
from aggregator.scheduling.turns import Turns
from protocol.stream import Stream

MOMENT = Moment(version=50, left_s=100.0, per_version=4, budget_bytes=100)


def link(*, own_s: float = 1.0, arrived_at: int = 49, norm: float = 1.0) -> Link:
    return Link(np.zeros(1), np.zeros(1), own_s=own_s, norm=norm, arrived_at=arrived_at)


def values(worth: list[float], links: list[Link], preferred_s: float = math.inf) -> list[float]:
    found = utilities(
        np.array(worth), links, version=50, preferred_s=preferred_s, config=OortConfig()
    )
    return [float(value) for value in found]


def oort(
    links: dict[str, Link], *, sees_norms: bool = True, **settings: float
) -> tuple[Oort, Queues]:
    queues, known = Queues(), Links(1, 1.0)
    known._links.update(links)
    knowledge = Knowledge(queues, known, Turns(0, 99, 0), Stream(bytes(32)), lambda _: 10.0)
    return Oort(knowledge, OortConfig(**settings), sees_norms=sees_norms), queues  # type: ignore[arg-type] # numbers only


def chosen(rule: Oort, num_seats: int, times: int = 1) -> Counter[str]:
    seats = [Seat(0, 0)] * num_seats
    picks = [pick for _ in range(times) for pick in rule.pick(seats, [""], MOMENT)]
    return Counter(pick.device for pick in picks)


def test_utility_is_what_was_taught_and_how_long_ago() -> None:
    uncertain = math.sqrt(0.1 * math.log(52))
    assert values([2.0, 1.0], [link(), link()]) == pytest.approx(
        [1.0 + uncertain / math.sqrt(50), 1.0 / 1.95 + uncertain / math.sqrt(50)], rel=1e-9
    )
    old, new = values([1.0, 1.0], [link(arrived_at=3), link(arrived_at=49)])
    assert old - new == pytest.approx(uncertain * (1 / 2 - 1 / math.sqrt(50)))


def test_who_takes_twice_the_preferred_time_counts_a_quarter() -> None:
    fast, slow = values([1.0, 1.0], [link(own_s=10.0), link(own_s=20.0)], preferred_s=10.0)
    assert slow == pytest.approx(fast / 4)


def test_an_outlier_does_not_rule() -> None:
    found = values([1.0] * 99 + [1e9], [link()] * 100)
    assert max(found) < 2 * min(found)


def test_strangers_get_their_part_of_the_seats_and_the_rest_goes_by_utility() -> None:
    strangers = [f"new{index}" for index in range(10)]
    rule, queues = oort(
        {f"old{index}": link(norm=1.0 + index) for index in range(10)},
        exploration=0.5,
        exploration_min=0.5,
    )
    for device in [*strangers, *(f"old{index}" for index in range(10))]:
        queues.add(device, "")
    counts = chosen(rule, 4, times=200)
    num_new = sum(counts[each] for each in strangers)
    assert 360 <= num_new <= 440
    assert counts["old9"] > 150 > counts["old0"]


def test_exploration_fades_with_versions_down_to_its_least() -> None:
    rule, queues = oort(
        {"old": link()}, exploration=1.0, exploration_decay=0.5, exploration_min=0.0
    )
    queues.add("old", "")
    queues.add("new", "")
    for version in range(60):
        rule.pick([Seat(0, 0)], [""], MOMENT._replace(version=version))
    assert chosen(rule, 1, times=20) == {"old": 20}


def test_every_seat_is_taken_while_somebody_waits() -> None:
    for known in ({}, {f"d{index}": link() for index in range(6)}, {"d0": link()}):
        rule, queues = oort(known)
        for index in range(6):
            queues.add(f"d{index}", "")
        assert len(chosen(rule, 4)) == 4
        assert len(chosen(rule, 9)) == 6


def test_where_norms_are_masked_samples_alone_are_worth() -> None:
    plain, _ = oort({"a": link(norm=3.0)})
    masked, _ = oort({"a": link(norm=3.0)}, sees_norms=False)
    assert (plain.worth("a"), masked.worth("a")) == (30.0, 10.0)


def test_the_pacer_lets_slower_devices_in_when_updates_bring_less() -> None:
    falling, rising = Pacer(), Pacer()
    for version in range(4 * WINDOW):
        falling.came(version, 100.0 - version)
        rising.came(version, 100.0 + version)
    assert falling.preferred_s(0, [1.0, 2.0, 3.0]) > 2.0
    assert rising.preferred_s(0, [1.0, 2.0, 3.0]) == 2.0
    assert rising.preferred_s(0, [0.0]) == math.inf
