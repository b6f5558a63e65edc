"""Synchronous rounds: selection, quorum, deadline."""

from typing import Any

import pytest

from aggregator.scheduling import Supply
from aggregator.scheduling.rounds import Rounds
from protocol import refusals
from protocol.errors import ConfigError
from protocol.messages import Lease, Refusal
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import Desk

ONE = [1.0, 0, 0, 0, 0, 0]


def rounds(make_desk: MakeDesk, **settings: Any) -> Desk:
    return make_desk(mode="rounds", rounds=Rounds(**settings))


def leased(desk: Desk, device: str) -> Lease | None:
    message = desk.last(device)
    return message if isinstance(message, Lease) else None


def gather(desk: Desk, *devices: str) -> list[Lease]:
    for device in devices:
        desk.check_in(device)
    leases = [leased(desk, device) for device in devices]
    return [lease for lease in leases if lease is not None]


def test_a_round_opens_when_enough_devices_wait(make_desk: MakeDesk) -> None:
    desk = rounds(make_desk, size=3)
    assert gather(desk, "a", "b") == []
    assert len(gather(desk, "a", "b", "c")) == 3


def test_a_round_opens_with_the_quorum_after_the_gathering_time(make_desk: MakeDesk) -> None:
    desk = rounds(make_desk, size=4, gather_s=10.0)
    gather(desk, "a", "b")
    desk.wait(11)
    assert leased(desk, "a") is not None
    assert leased(desk, "b") is not None


def test_the_first_updates_close_a_round_and_the_surplus_is_refused(make_desk: MakeDesk) -> None:
    desk = rounds(make_desk, size=2, over_selection=1.5)
    leases = gather(desk, "a", "b", "c")
    for device, lease in zip("ab", leases, strict=False):
        desk.send(device, lease, ONE)
    assert desk.coordinator.version == 1
    desk.send("c", leases[2], ONE)
    refusal = desk.last("c")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.TOO_STALE
    assert refusal.reason in refusals.FOLDED


def test_a_round_closes_at_its_deadline_with_the_quorum(make_desk: MakeDesk) -> None:
    desk = rounds(make_desk, size=4, quorum=2, deadline_s=60.0)
    leases = gather(desk, "a", "b", "c", "d")
    desk.send("a", leases[0], ONE)
    desk.send("b", leases[1], ONE)
    assert desk.coordinator.version == 0
    desk.wait(61)
    assert desk.coordinator.version == 1


def test_a_round_below_its_quorum_keeps_what_it_has_and_asks_more_devices(
    make_desk: MakeDesk,
) -> None:
    desk = rounds(make_desk, size=3, quorum=2, deadline_s=60.0)
    leases = gather(desk, "a", "b", "c")
    desk.send("a", leases[0], ONE)
    desk.wait(700)  # past the deadline, and past the leases of b and c
    assert desk.coordinator.version == 0
    assert "quorum" in desk.coordinator.waiting_for(desk.now)
    (late,) = gather(desk, "d")
    desk.send("d", late, ONE)
    assert desk.coordinator.version == 1
    assert {id_ for _, id_ in desk.store.counted_ids()} == {leases[0].lease_id, late.lease_id}


def test_a_round_closes_early_when_all_who_can_answer_have(make_desk: MakeDesk) -> None:
    desk = rounds(make_desk, size=3, quorum=2, deadline_s=10_000.0)
    leases = gather(desk, "a", "b", "c")
    desk.send("a", leases[0], ONE)
    desk.send("b", leases[1], ONE)
    desk.wait(700)  # c's lease runs out long before the deadline
    assert desk.coordinator.version == 1


def test_a_restart_in_the_middle_of_a_round_goes_on_with_it(make_desk: MakeDesk) -> None:
    desk = rounds(make_desk, size=2)
    leases = gather(desk, "a", "b")
    desk.send("a", leases[0], ONE)
    desk.restart()
    desk.send("b", leases[1], ONE)
    assert desk.coordinator.version == 1
    assert len(desk.store.counted_ids()) == 2


def test_over_selection_can_follow_the_drop_out_that_was_measured() -> None:
    measured = Rounds(size=6, over_selection=0)
    for completion, wanted in ((1.0, 6), (0.75, 8), (0.5, 12), (0.01, 18)):
        assert measured.wanted(Supply(99, completion=completion)) == wanted
        assert Rounds(size=6).wanted(Supply(99, completion=completion)) == 6
    with pytest.raises(ConfigError, match=r"or 0 \(measured\)"):
        Rounds(over_selection=0.5)


def test_measured_over_selection_gives_more_leases_after_a_round_that_lost_some(
    make_desk: MakeDesk,
) -> None:
    desk = rounds(make_desk, size=2, quorum=1, over_selection=0, deadline_s=30.0, gather_s=1.0)
    leases = gather(desk, "a", "b")
    desk.wait(5)
    desk.send("a", leases[0], ONE)
    desk.wait(30)  # nothing comes from b
    assert desk.coordinator.version == 1
    assert 4 <= len(gather(desk, *"cdefghi")) <= 5, "half of them will bring an update"
