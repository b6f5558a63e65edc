"""What a coordinator does about devices that misbehave: it refuses, it stores, and others go on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator.conduct.config import ConductConfig
from aggregator.coordinator import Coordinator
from aggregator.records import Standing, StandingRecord
from aggregator.scheduling.buffered import Buffered
from protocol import refusals
from protocol.actions import Publish
from protocol.codec import decode, encode
from protocol.identity import Signer
from protocol.messages import AGGREGATOR, COUNTER_START_BITS, CheckIn, Lease, Refusal
from simulator.enrolment import certify_all
from simulator.memory_store import MemoryStore
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import CODECS, Desk, install_id, task_config

ONE = [1.0, 0, 0, 0, 0, 0]
NAN = [float("nan"), 0, 0, 0, 0, 0]


def sends_nan(desk: Desk, device: str, times: int) -> None:
    for _ in range(times):
        desk.check_in(device)
        lease = desk.last(device)
        if isinstance(lease, Lease):
            desk.send(device, lease, ONE, body=b"\xff" * 24)


def standing(desk: Desk, device: str) -> Standing:
    return desk.coordinator.conduct.standing(device)


def reason(desk: Desk, device: str) -> str:
    refusal = desk.last(device)
    assert isinstance(refusal, Refusal), refusal
    return refusal.reason


def test_a_device_that_answers_leases_with_nan_gets_no_more_of_them(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=Buffered(goal=1))
    sends_nan(desk, "eve", 10)
    assert standing(desk, "eve") is Standing.QUARANTINED
    assert desk.coordinator.counts["leases_given"] == 3
    assert reason(desk, "eve") == refusals.QUARANTINED
    assert desk.refused(refusals.NOT_FINITE) == 3
    assert any("eve: quarantined: not_finite" in alert for alert in desk.coordinator.alerts)
    desk.send("ada", desk.lease("ada"), ONE)
    assert desk.coordinator.version == 1


def test_a_quarantine_outlives_a_restart(make_desk: MakeDesk) -> None:
    desk = make_desk()
    sends_nan(desk, "eve", 3)
    desk.restart()
    desk.check_in("eve")
    assert reason(desk, "eve") == refusals.QUARANTINED


def test_an_operator_takes_an_open_lease_back_and_gives_the_device_another_chance(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(buffered=Buffered(goal=1))
    lease = desk.lease("ada")
    decree = StandingRecord("ada", Standing.QUARANTINED, "by the operator")
    desk.perform(desk.coordinator.decreed([decree]))
    assert desk.last("ada") == Refusal(
        lease.lease_id, refusals.QUARANTINED, refusals.MEANING[refusals.QUARANTINED]
    )
    desk.send("ada", lease, ONE)  # it was under way
    assert reason(desk, "ada") == refusals.QUARANTINED
    assert desk.coordinator.version == 0
    desk.perform(desk.coordinator.decreed([]))
    desk.send("ada", desk.lease("ada"), ONE)
    assert desk.coordinator.version == 1


def test_what_was_decreed_while_nobody_ran_holds_from_the_start(make_desk: MakeDesk) -> None:
    desk = make_desk()
    lease = desk.lease("ada")
    desk.store.commit([StandingRecord("ada", Standing.QUARANTINED, "by the operator")])
    desk.restart()
    desk.send("ada", lease, ONE)
    assert reason(desk, "ada") == refusals.QUARANTINED


def declares(desk: Desk, device: str, num_samples: int) -> None:
    check_in = CheckIn(install_id(device), -1, num_samples, CODECS)
    desk.hear(desk.coordinator.topics.out(device), desk.sealed(device, check_in))


@pytest.mark.parametrize("holds_a_lease", [False, True])
def test_the_check_in_that_is_one_claim_too_many_gets_no_lease(
    make_desk: MakeDesk, *, holds_a_lease: bool
) -> None:
    desk = make_desk(buffered=Buffered(goal=1), conduct=ConductConfig(threshold=0.5))
    declares(desk, "eve", 10)
    if not holds_a_lease:
        lease = desk.last("eve")
        assert isinstance(lease, Lease)
        desk.send("eve", lease, ONE)
    declares(desk, "eve", 10_000_000)
    assert standing(desk, "eve") is Standing.QUARANTINED
    assert reason(desk, "eve") == refusals.QUARANTINED
    assert desk.coordinator.counts["leases_given"] == 1
    assert desk.coordinator.leases.of_device("eve") is None


def test_nothing_of_a_revoked_device_is_read(make_desk: MakeDesk) -> None:
    desk = make_desk()
    revoked = StandingRecord("eve", Standing.REVOKED, "lost", is_cut=True)
    desk.perform(desk.coordinator.decreed([revoked]))
    desk.check_in("eve")
    assert desk.last("eve") is None
    assert desk.refused(refusals.REVOKED) == 1
    assert desk.coordinator.fleet.num_registered == 0


def test_a_flood_is_dropped_and_cut_off_and_the_others_go_on(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=Buffered(goal=1), conduct=ConductConfig(messages_per_s=1, burst=20))
    lease = desk.lease("ada")
    for _ in range(1000):
        desk.hear(desk.coordinator.topics.out("eve"), b"garbage")
    assert desk.coordinator.conduct.cut_off == ["eve"]
    assert desk.refused(refusals.MALFORMED) == 20
    assert desk.refused(refusals.OVER_BUDGET) == 980
    desk.send("ada", lease, ONE)
    assert desk.coordinator.version == 1


def test_sybils_without_a_certificate_are_nobody() -> None:
    trust, keys = certify_all("t", ["ada"], bytes(32))
    coordinator = Coordinator(
        task_config(max_devices=10), MemoryStore().snapshot(), bytes(32), 0.0, trust=trust
    )
    for number in range(50):
        name = f"sybil-{number}"
        check_in = CheckIn(install_id(name), -1, 10, CODECS)
        payload = encode(check_in, task="t", sender=name, counter=1)
        coordinator.message(coordinator.topics.out(name), payload, 0.0)
    assert keys.keys() == {"ada"}
    assert coordinator.fleet.num_registered == 0
    assert coordinator.counts[f"refused_{refusals.BAD_SIGNATURE}"] == 50
    assert {score for _, score in coordinator.conduct.scores()} == {0.0}


@pytest.mark.parametrize("num_devices", [50])
def test_sybils_take_no_more_room_than_devices_may(tmp_path: Path, num_devices: int) -> None:
    desk = Desk(tmp_path, task_config(max_devices=10))
    for number in range(num_devices):
        desk.check_in(f"sybil-{number}")
        desk.hear(desk.coordinator.topics.out(f"sybil-{number}"), b"garbage")
    assert desk.coordinator.fleet.num_registered == 10
    assert desk.refused(refusals.BUSY) == num_devices - 10
    assert len(dict(desk.coordinator.conduct.scores())) <= 10
    desk.close()


def speaker() -> Callable[[int], list[Refusal]]:
    """Return what says a check-in of ada's with a counter, and how she is refused."""
    trust, keys = certify_all("t", ["ada"], bytes(32))
    coordinator = Coordinator(
        task_config(max_devices=10), MemoryStore().snapshot(), bytes(32), 0.0, trust=trust
    )
    ada, topic = keys["ada"], coordinator.topics.out("ada")
    signer = Signer(ada.identity, coordinator.topics.prefix)

    def answers(counter: int) -> list[Refusal]:
        check_in = CheckIn(install_id("ada"), -1, 10, CODECS, certificate=ada.certificate)
        payload = encode(
            check_in,
            task="t",
            sender="ada",
            counter=counter,
            sign=signer.on(topic),
            key_id=signer.key_id,
        )
        said = coordinator.message(topic, payload, 0.0)
        own = [each.payload for each in said if isinstance(each, Publish)]
        heard = [decode(each, (Lease, Refusal), task="t", sender=AGGREGATOR) for each in own]
        return [each for each in heard if isinstance(each, Refusal)]

    return answers


def test_who_speaks_from_an_earlier_start_is_told_to_count_on_from_the_newest() -> None:
    """A copied medium, or one that was restored: unheard, it would wait for ever."""
    answers = speaker()
    assert answers(7 << COUNTER_START_BITS) == []
    assert answers(7 << COUNTER_START_BITS) == [], "delivered again"
    (told,) = answers((6 << COUNTER_START_BITS) + 99)
    assert (told.reason, told.newest_start) == (refusals.OLD_START, 7)


def test_a_start_that_no_message_can_name_is_answered_with_silence() -> None:
    """Whoever says so with two messages would else have the aggregator fail over its own answer."""
    answers = speaker()
    assert answers((1 << 63) - 1) == []
    assert answers(6 << COUNTER_START_BITS) == []
