"""Leases in slots, within deadlines, and what is learned from how they end."""

import json
from collections.abc import Collection, Iterable

import numpy as np
import pytest

from aggregator.bandwidth import BandwidthConfig
from aggregator.monitor.status import rounds_report
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.scheduling.selection import OortConfig, SelectionConfig
from aggregator.task_config import StrategyConfig
from fedbus.status import status_lines
from fedbus.view import TaskView
from protocol.chunks import checksum
from protocol.messages import Lease, UpdateChunk
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import MODEL, Desk

ONE = [1.0, 0, 0, 0, 0, 0]


def rounds_of(make_desk: MakeDesk, size: int, rule: str = "hungarian", **settings: object) -> Desk:
    selection = SelectionConfig(rule=rule, slot_s=3, **settings)  # type: ignore[arg-type] # as files have them
    rounds = Rounds(size=size, quorum=1, deadline_s=60.0, gather_s=4.0)
    return make_desk(mode="rounds", rounds=rounds, selection=selection)


def leases(desk: Desk, devices: Iterable[str]) -> dict[str, Lease]:
    return {each: last for each in devices if isinstance(last := desk.last(each), Lease)}


def gather(desk: Desk, devices: Collection[str]) -> dict[str, Lease]:
    """Let them all be there, and then check in."""
    for device in devices:
        desk.hear(desk.coordinator.topics.state(device), b"online")
    for device in devices:
        desk.check_in(device)
    return leases(desk, devices)


def test_slots_begin_one_after_the_other(make_desk: MakeDesk) -> None:
    desk = rounds_of(make_desk, 3)
    given = gather(desk, "abc")
    assert sorted(lease.upload_after_s for lease in given.values()) == [0, 3, 6]


def test_uniform_selection_draws_slots_too_and_without_slots_nobody_is_held_back(
    make_desk: MakeDesk,
) -> None:
    slotted = gather(rounds_of(make_desk, 4, "uniform", slots=2), "abcd")
    assert sorted(lease.upload_after_s for lease in slotted.values()) == [0, 0, 3, 3]
    free = gather(rounds_of(make_desk, 4, "uniform"), "abcd")
    assert {lease.upload_after_s for lease in free.values()} == {0}


def test_a_lease_that_is_told_again_says_how_much_of_its_wait_is_left(make_desk: MakeDesk) -> None:
    desk = rounds_of(make_desk, 3)
    given = gather(desk, "abc")
    last = next(each for each, lease in given.items() if lease.upload_after_s == 6)
    desk.wait(4)
    desk.check_in(last)
    again = desk.last(last)
    assert isinstance(again, Lease)
    assert (again.lease_id, again.upload_after_s) == (given[last].lease_id, 2)


def test_in_buffered_mode_a_lease_gets_the_slot_with_the_fewest(make_desk: MakeDesk) -> None:
    selection = SelectionConfig(rule="uniform", slots=3, slot_s=5)
    desk = make_desk(selection=selection, buffered=Buffered(goal=5, concurrency=9))
    afters = [desk.lease(each).upload_after_s for each in "abcd"]
    assert afters == [0, 5, 10, 0]


def test_a_round_that_chooses_waits_for_those_of_the_last_one(make_desk: MakeDesk) -> None:
    desk = rounds_of(make_desk, 2)
    first = gather(desk, "abcd")
    assert len(first) == 2, "all who are online wait: no need to gather"
    for device, lease in first.items():
        desk.send(device, lease, ONE)
    assert desk.coordinator.version == 1
    assert desk.coordinator.leases.num_active == 0, "two wait, and two are about to check in"
    assert "others to check in (2 waiting)" in desk.coordinator.waiting_for(desk.now)
    desk.check_in(min(first))
    assert desk.coordinator.leases.num_active == 0
    desk.check_in(max(first))
    assert desk.coordinator.leases.num_active == 2
    for device, lease in leases(desk, "abcd").items():
        desk.send(device, lease, ONE)
    desk.wait(5)
    assert desk.coordinator.leases.num_active == 2, "nor is anybody waited for longer than gather_s"


def test_who_does_not_answer_in_time_is_known_for_it(make_desk: MakeDesk) -> None:
    desk = rounds_of(make_desk, 2)
    given = gather(desk, "ab")
    desk.now += 10
    desk.send("a", given["a"], ONE)
    desk.wait(60)
    assert desk.coordinator.version == 1
    links = desk.coordinator.granting.links
    assert links.known("a").mean_loss < 0.1
    assert links.known("b").mean_loss > 0.3
    assert links.known("a").own_s == 10.0
    assert links.completion == pytest.approx(0.5, abs=0.01)
    desk.send("b", given["b"], ONE)  # refused: it is counted as lost once
    assert links.completion == pytest.approx(0.5, abs=0.01)


def test_who_is_surplus_in_a_round_is_not_known_as_lossy(make_desk: MakeDesk) -> None:
    rounds = Rounds(size=1, over_selection=2.0, deadline_s=60.0)
    desk = make_desk(mode="rounds", rounds=rounds, selection=SelectionConfig(rule="uniform"))
    given = gather(desk, "ab")
    desk.wait(5)
    desk.send("a", given["a"], ONE)
    assert desk.coordinator.version == 1
    assert desk.coordinator.granting.links.completion == 1.0


def test_oort_knows_the_norm_of_an_update_and_nothing_looks_at_it_otherwise(
    make_desk: MakeDesk,
) -> None:
    for rule, norm in (("oort", 5.0), ("uniform", 0.0)):
        desk = make_desk(
            selection=SelectionConfig(rule=rule, oort=OortConfig()),
            strategy=StrategyConfig(name="fedavg"),
        )
        desk.send("a", desk.lease("a"), [3.0, 4.0, 0, 0, 0, 0])
        assert desk.coordinator.granting.links.known("a").norm == pytest.approx(norm)


def test_one_monstrous_update_does_not_keep_the_others_from_being_chosen(
    make_desk: MakeDesk,
) -> None:
    """In float32 its norm would be infinite, and every utility beside it zero or none."""
    desk = make_desk(
        selection=SelectionConfig(rule="oort", oort=OortConfig(exploration=0, exploration_min=0)),
        buffered=Buffered(goal=1, concurrency=4),
    )
    for device in "abc":
        desk.send(device, desk.lease(device), ONE)
    desk.send("rogue", desk.lease("rogue"), [8e37, 0, 0, 0, 0, -8e37])
    desk.said.clear()
    assert set(gather(desk, ["a", "b", "c", "rogue"])) == {"a", "b", "c", "rogue"}


def test_a_speed_from_a_bad_moment_does_not_stay_for_good(make_desk: MakeDesk) -> None:
    """An outage between two packets of an update; and the frugal ones after it come in one."""
    desk = make_desk(
        codec="dense/float32",
        model={**MODEL, "input": [400]},
        bandwidth=BandwidthConfig(uplink_s=10.0),
        buffered=Buffered(goal=1),
    )
    lease = desk.lease("a")
    delta = [1.0] * desk.params.size
    update = desk.update(lease, delta)
    parts = [update[:-9], update[-9:]]
    for index, part in enumerate(parts):
        desk.send_chunk("a", UpdateChunk(lease.lease_id, checksum(update), index, 2, part))
        desk.now += 30.0
    codecs = []
    for _ in range(15):
        lease = desk.lease("a")
        codecs.append(lease.codec)
        desk.send("a", lease, delta)
    assert codecs[0] == "topk-0.01/int8", "the least that it understands"
    assert codecs[-1] == "dense/float32"


def test_status_shows_credit_sites_and_why_devices_wait(make_desk: MakeDesk) -> None:
    sites = {"plant": {"devices": ["*"], "concurrency": 1, "bytes_per_hour": 10_000_000}}
    desk = make_desk(selection=SelectionConfig(rule="uniform", sites=sites))
    desk.lease("a")
    desk.check_in("b")
    view = TaskView(desk.coordinator.topics)
    report = json.dumps(rounds_report(desk.coordinator, desk.now)).encode()
    view.see(desk.coordinator.topics.monitor("rounds"), report)
    said = "\n".join(status_lines(view))
    assert "no lease for those who wait: site plant has 1 of 1 devices at work" in said
    assert "chosen by uniform; updates of " in said
    assert "site plant: 1 of 1 at work, " in said
    assert "bytes left of 10000000 an hour" in said


def test_what_selection_draws_depends_on_the_seed_alone(make_desk: MakeDesk) -> None:
    def chosen() -> set[str]:
        return set(gather(rounds_of(make_desk, 3, "uniform"), "abcdefghij"))

    assert chosen() == chosen()


def test_a_restart_begins_with_unknown_links(make_desk: MakeDesk) -> None:
    desk = rounds_of(make_desk, 1)
    desk.coordinator.granting.links.teach("a", np.full(1, 0.9))
    desk.restart()
    assert len(desk.coordinator.granting.links) == 0
