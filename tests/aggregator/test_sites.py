"""Budgets of sites: how many devices train there at once, and what they cost an hour."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.scheduling.selection import SelectionConfig, SiteConfig
from aggregator.scheduling.sites import BURST, HOUR_S, Sites
from protocol.errors import ConfigError
from protocol.messages import CheckIn, Lease
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import CODECS, MODEL, Desk, install_id

ONE = [1.0, 0, 0, 0, 0, 0]
PLANT = {"devices": ["plant-*"], "concurrency": 1}


def at_sites(make_desk: MakeDesk, sites: dict[str, Any], **settings: Any) -> Desk:
    plain = {"buffered": Buffered(goal=2, concurrency=10)}
    return make_desk(selection=SelectionConfig(sites=sites), **{**plain, **settings})


def held_back(desk: Desk) -> str:
    return str(desk.coordinator.granting.report(0, desk.now).get("held_back_by", ""))


def test_a_site_has_no_more_leases_than_its_concurrency_and_holds_nobody_else_up(
    make_desk: MakeDesk,
) -> None:
    desk = at_sites(make_desk, {"plant": PLANT})
    first = desk.lease("plant-1")
    desk.check_in("plant-2")
    assert desk.last("plant-2") is None
    assert held_back(desk) == "site plant has 1 of 1 devices at work"
    assert isinstance(desk.lease("elsewhere"), Lease), "who came later is served before"
    desk.send("plant-1", first, ONE)
    assert isinstance(desk.last("plant-2"), Lease)


def test_a_restart_keeps_the_count_of_a_site(make_desk: MakeDesk) -> None:
    desk = at_sites(make_desk, {"plant": PLANT})
    desk.lease("plant-1")
    desk.restart()
    desk.check_in("plant-2")
    assert desk.last("plant-2") is None


def test_a_round_that_a_site_cannot_serve_at_once_goes_on_in_waves(make_desk: MakeDesk) -> None:
    desk = at_sites(
        make_desk,
        {"all": {"devices": ["*"], "concurrency": 1}},
        mode="rounds",
        rounds=Rounds(size=2, quorum=2, gather_s=5.0),
    )
    desk.check_in("a")
    desk.check_in("b")
    assert desk.last("a") is None
    desk.wait(6)
    lease = desk.last("a")
    assert isinstance(lease, Lease)
    assert desk.last("b") is None
    desk.send("a", lease, ONE)
    second = desk.last("b")
    assert isinstance(second, Lease)
    desk.send("b", second, ONE)
    assert desk.coordinator.version == 1


def test_a_lease_waits_until_its_site_has_bytes_again_and_no_longer(make_desk: MakeDesk) -> None:
    desk = at_sites(make_desk, {"plant": {"devices": ["plant-*"], "bytes_per_hour": 1000}})
    desk.lease("plant-1")  # may cost more than the 100 bytes that are there
    desk.check_in("plant-2")
    assert desk.last("plant-2") is None
    assert "1000 bytes an hour" in held_back(desk)
    opens_at = desk.coordinator.granting.next_at(desk.now)
    assert opens_at is not None
    desk.wait(opens_at - desk.now - 10)
    assert desk.last("plant-2") is None
    desk.wait(10)
    assert isinstance(desk.last("plant-2"), Lease)


def test_a_site_pays_for_models_that_are_published_whole_for_its_devices(
    make_desk: MakeDesk,
) -> None:
    desk = at_sites(
        make_desk,
        {"all": {"devices": ["*"], "bytes_per_hour": 1_000_000}},
        model={**MODEL, "input": [500]},
        codec="topk-0.01/int8",
    )
    message = CheckIn(install_id("a"), 0, 10, CODECS, unreachable=1)
    desk.hear(desk.coordinator.topics.out("a"), desk.sealed("a", message))
    assert isinstance(desk.last("a"), Lease)
    report = desk.coordinator.granting.report(0, desk.now)["sites"]
    assert isinstance(report, dict)
    assert report["all"]["bytes_left"] < BURST * 1_000_000 - 4 * desk.params.size


@given(
    st.lists(st.tuples(st.floats(0.01, 2000), st.integers(1, 400)), max_size=60),
    st.integers(100, 5000),
)
def test_in_no_hour_does_a_site_cost_more_than_its_budget_the_burst_and_one_lease(
    steps: list[tuple[float, int]], rate: int
) -> None:
    sites = Sites({"s": SiteConfig(devices=("*",), bytes_per_hour=rate)}, Counter())
    now = 0.0
    costs: list[tuple[float, int]] = []
    for seconds, num_bytes in steps:
        now += seconds
        if sites.room("s", now) > 0:
            sites.given("s", num_bytes, now)
            costs.append((now, num_bytes))
        else:
            opens_at = sites.opens_at(["s"], now)
            assert opens_at is not None
            assert opens_at > now
            assert sites.room("s", opens_at) > 0
    for end, _ in costs:
        hour = sum(cost for at, cost in costs if end - HOUR_S < at <= end)
        assert hour <= rate * (1 + BURST) + 400 + 1


def test_the_first_site_with_a_pattern_has_a_device() -> None:
    selection = SelectionConfig(
        sites={"hall": {"devices": ["plant-hall-*"]}, "plant": {"devices": ["plant-*", "p?"]}}
    )
    found = [selection.site_of(each) for each in ("plant-hall-1", "plant-2", "p7", "p77", "x")]
    assert found == ["hall", "plant", "plant", "", ""]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"devices": []}, "sites.s: devices: name at least one pattern"),
        ({"concurrency": 3}, "sites.s.devices: missing"),
        ({"devices": ["*"], "concurency": 3}, "did you mean 'concurrency'"),
        ({"devices": ["*"], "bytes_per_hour": -1}, "sites.s: .*0 .no limit. or more"),
        ("plant-*", r"expected a table, as in \[selection.sites.s\]"),
    ],
)
def test_a_site_that_cannot_be_is_refused_by_name(table: object, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        SelectionConfig(sites={"s": table})
