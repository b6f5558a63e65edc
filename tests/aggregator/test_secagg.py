"""Masked buffers: from an update that waits for shares to a version, whatever happens between."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from aggregator.masked_buffer import MaskedBuffer, Waiting
from aggregator.monitor.status import encode as encode_report
from aggregator.monitor.status import rounds_report
from aggregator.records import CounterRecord, RefusalRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from protocol import refusals
from protocol.codec import encode, unpack
from protocol.messages import Held, Lease, Refusal
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    Dealt,
    Holdings,
    MaskedUpdate,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    SharesWanted,
)
from protocol.secagg.requests import check_request, request_hash
from tests.aggregator.conftest import MakeSecure
from tests.support.secure_desk import NAMES, SecureDesk

SCHEMES = ("seedmask", "lightsecagg")
FOUR = ("a", "b", "c", "d")
INTS = ("<i4", "<u4", "<i8")


def last_refusal(desk: SecureDesk, name: str) -> str:
    refusal = desk.desk.last(name)
    assert isinstance(refusal, Refusal), refusal
    return refusal.reason


# --- sums --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_buffer_becomes_the_mean_of_what_was_masked(make_secure: MakeSecure, scheme: str) -> None:
    desk = make_secure(secure={"scheme": scheme})
    desk.stock_up()
    ids = desk.train("a", "b", "c", "d")
    assert desk.version == 0
    desk.answer(*NAMES)
    assert desk.version == 1
    np.testing.assert_allclose(desk.desk.step, desk.expected(ids), atol=desk.tolerance(4))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_mean_is_weighted_by_samples_that_nobody_says_openly(
    make_secure: MakeSecure, scheme: str
) -> None:
    desk = make_secure(
        secure={"scheme": scheme, "samples_cap": 100, "bits": 22}, weigh_by_samples=True
    )
    desk.stock_up()
    ids = []
    for name, num_samples in zip("abcd", (1, 30, 100, 5_000), strict=True):
        lease = desk.lease(name)
        desk.send(name, lease, desk.delta_of(name), num_samples=num_samples)
        ids.append(lease.lease_id)
    desk.answer(*NAMES)
    np.testing.assert_allclose(desk.desk.step, desk.expected(ids), atol=desk.tolerance(1))


def test_fewer_updates_close_a_buffer_after_its_time_but_never_too_few(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train("a", "b")
    desk.wait(600)
    assert desk.requests("a") == []
    desk.train("c")
    assert len(desk.requests("a")) == 1
    desk.answer(*NAMES)
    assert desk.version == 1


# --- waiting for shares ------------------------------------------------------------------------


def test_a_device_gets_a_lease_once_enough_hold_its_next_mask(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.online(*NAMES)
    desk.deal("a")
    desk.check_in("a")
    for name in "abcde":
        desk.hold(name)
        assert desk.desk.last("a") is None
    desk.hold("f")
    assert isinstance(desk.desk.last("a"), Lease)


def test_an_update_waits_until_enough_hold_shares_of_its_mask(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up(1)
    lease = desk.lease("a")
    (mask,) = desk.deal("a", to="bc")
    desk.send("a", lease, desk.delta_of("a"), mask=mask)
    desk.check_in("a", lease.lease_id)
    assert desk.desk.last("a") == Held(lease.lease_id)
    ids = [lease.lease_id, *desk.train("b", "c", "d")]
    desk.wait(600)  # the others are enough, and are not held up
    desk.answer(*NAMES)
    assert desk.version == 1
    assert len(desk.coordinator.buffers) == 1
    desk.hand_out("a", mask, "def")
    desk.hold("b", "c", "d", "e", "f", "a")
    ids += desk.train("e", "f", "g")
    assert [len(check_request(each, desk.cohort.roster)) for each in desk.requests("a")] == [3, 4]
    desk.answer("a", "b", "c", "d", "e", "f")
    desk.wait(10)
    assert desk.version == 2


def test_two_masks_that_few_hold_together_never_share_a_buffer(make_secure: MakeSecure) -> None:
    """Each has six holders of eight, but only four have both: that sum could not be unmasked."""
    desk = make_secure()
    desk.online(*NAMES)
    desk.deal("a", to="bcdef")
    desk.deal("b", to="cdefgh"[2:] + "a")
    for name in "cdgh":
        desk.deal(name)
    desk.hold()
    desk.train("a", "b")
    assert [len(buffer.ids) for buffer in desk.secure.buffers] == [1, 1]
    assert desk.secure.num_waiting == 0


def test_a_buffer_holds_one_mask_of_each_device(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    (cohort,) = desk.secure.cohorts
    buffer = MaskedBuffer(cohort, 0, desk.desk.now)
    body = bytes(cohort.roster.parameters.body_bytes)
    first, second = (
        Waiting(
            bytes(16),
            cohort,
            0,
            MaskedUpdate(0, cohort.roster.hash, desk.devices["a"].stock[at].counter, 0, body),
        )
        for at in (0, 1)
    )
    everybody = frozenset(range(8))
    assert buffer.takes(first, everybody)
    buffer.add(first)
    assert not buffer.takes(second, everybody)


def test_a_holder_that_has_lost_shares_gets_them_again(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up(2)
    desk.devices["h"].held.clear()
    desk.hold("h")
    for name in "abcdefg":
        (wanted,) = desk.wanted(name)
        assert wanted.holder == desk.index("h")
        assert wanted.counters == tuple(mask.counter for mask in desk.devices[name].stock)
    assert desk.wanted("h") == []


def test_a_dealer_whose_shares_did_not_arrive_is_asked_again(make_secure: MakeSecure) -> None:
    """The holders were not there yet when it dealt, and had said so before it spoke."""
    desk = make_secure()
    desk.online("a", "b", "c")
    desk.hold()
    desk.deal("a", to="")
    assert desk.wanted("a") == []
    desk.wait(29)
    assert desk.wanted("a") == []
    desk.wait(2)
    assert {each.holder for each in desk.wanted("a")} == {1, 2}  # those who are there
    desk.wait(10_000)
    assert len(desk.wanted("a")) < 2 * 40


# --- restarts ----------------------------------------------------------------------------------


def steps(desk: SecureDesk) -> list[Callable[[], object]]:
    """Return the life of one buffer of four, step by step."""
    leases: dict[str, Lease] = {}

    def lease(name: str) -> None:
        leases[name] = desk.lease(name)

    def send(name: str) -> None:
        desk.send(name, leases[name], desk.delta_of(name))

    def answer(name: str) -> None:
        if desk.version == 0:
            desk.answer(name)

    names = ("a", "b", "c", "d")
    return [
        *[lambda name=name: lease(name) for name in names],
        *[lambda name=name: send(name) for name in names],
        *[lambda name=name: answer(name) for name in NAMES],
    ]


NUM_STEPS = 16
#: The steps at which nothing is lost if what is published is: those who wait ask again.
ASKED_AGAIN = range(4, NUM_STEPS)


def undisturbed(desk: SecureDesk) -> bytes:
    desk.stock_up()
    for step in steps(desk):
        step()
    return desk.desk.params.tobytes()


@pytest.mark.parametrize("mute", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_restart_at_every_step_ends_in_the_same_version(
    make_secure: MakeSecure, scheme: str, *, mute: bool
) -> None:
    """``mute``: the crash comes after the commit, before anything is published."""
    expected = undisturbed(make_secure(secure={"scheme": scheme}))
    desk = make_secure(secure={"scheme": scheme})
    desk.stock_up()
    for number, step in enumerate(steps(desk)):
        desk.desk.silent = mute and number in ASKED_AGAIN
        step()
        desk.come_back()
    assert desk.version == 1
    assert desk.desk.params.tobytes() == expected


@pytest.mark.parametrize("at", range(0, NUM_STEPS, 3))
def test_one_restart_ends_in_the_same_version(make_secure: MakeSecure, at: int) -> None:
    expected = undisturbed(make_secure())
    desk = make_secure()
    desk.stock_up()
    for number, step in enumerate(steps(desk)):
        step()
        if number == at:
            desk.come_back()
    assert desk.desk.params.tobytes() == expected


def test_a_stored_request_is_sent_again_after_a_crash_and_is_the_same(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train("a", "b", "c")
    lease = desk.lease("d")
    desk.desk.silent = True
    desk.send("d", lease, desk.delta_of("d"))
    assert desk.requests("h") == []
    (stored,) = [
        unpack(data, RecoveryRequest)
        for key, data in desk.desk.store.snapshot().documents.items()
        if key.startswith("request/")
    ]
    desk.restart()
    assert all(desk.requests(name) == [stored] for name in NAMES)
    desk.answer(*NAMES[:3])
    desk.restart()
    assert all(desk.requests(name) == [stored] for name in NAMES)
    desk.answer(*NAMES)
    assert desk.version == 1
    assert not [key for key in desk.desk.store.snapshot().documents if key.startswith("request")]


def test_updates_of_a_request_that_cannot_be_restored_are_given_up(
    make_secure: MakeSecure,
) -> None:
    """They must not enter another request: that would name masks that were named before."""
    desk = make_secure()
    desk.stock_up()
    desk.train("a", "b", "c", "d")
    (first,) = desk.requests("h")
    snapshot = desk.desk.store.snapshot()
    lease_id = snapshot.journal[0].lease_id
    desk.desk.store.commit(
        [RefusalRecord(lease_id, refusals.MALFORMED)]
    )  # as if its update were refused by new settings
    desk.restart()
    desk.hold()
    assert desk.refusals()[refusals.RECOVERY_FAILED] == 3
    assert desk.requests("h") == [first]
    assert len(desk.coordinator.buffers) == 0
    assert not [key for key in desk.desk.store.snapshot().documents if key.startswith("request")]


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"roster_hash": bytes(32)}, refusals.WRONG_ROSTER),
        ({"body": b"short"}, refusals.MALFORMED),
        ({"body": b"\xff" * 18}, refusals.MALFORMED),
        ({"base_version": 1}, refusals.FUTURE_VERSION),
        ({"support": 5}, refusals.STALE_SUPPORT),
    ],
)
def test_a_bad_update_is_refused_and_nothing_is_used(
    make_secure: MakeSecure, other: dict[str, object], reason: str
) -> None:
    desk = make_secure()
    desk.stock_up()
    lease = desk.lease("a")
    mask = desk.devices["a"].stock[0]
    desk.send("a", lease, desk.delta_of("a"), **other)
    assert last_refusal(desk, "a") == reason
    assert len(desk.coordinator.buffers) == 0
    again = desk.lease("a")
    desk.send("a", again, desk.delta_of("a"), mask=mask)
    assert len(desk.coordinator.buffers) == 1


def test_a_mask_masks_one_update(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up(3)
    mask = desk.devices["a"].stock[0]
    desk.train("a", "b", "c", "d")
    desk.answer(*NAMES)
    desk.say_dealt("a")
    lease = desk.lease("a")
    desk.send("a", lease, desk.delta_of("a"), mask=mask)
    assert last_refusal(desk, "a") == refusals.MASK_USED
    assert last_refusal(desk, "a") not in refusals.FOLDED


def test_a_plain_update_is_no_masked_one(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    lease = desk.lease("a")
    desk.send_bytes("a", lease, bytes(24))
    assert last_refusal(desk, "a") == refusals.MALFORMED


def test_a_device_that_no_roster_names_is_turned_away(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.check_in("zoe")
    refusal = desk.desk.last("zoe")
    assert isinstance(refusal, Refusal)
    assert (refusal.lease_id, refusal.reason) == (b"", refusals.NOT_ENROLLED)
    assert refusal.retry_s == desk.config.check_in_s  # the next roster may name it


def messages(desk: SecureDesk) -> Sequence[Message]:
    """What member ``a`` may say, each of it right."""
    hash_ = desk.cohort.roster.hash
    mask = desk.make_mask("a")
    request = desk.requests("a")[0]
    answer = desk.answer_of("a", request)
    return [
        Dealt(hash_, (mask.counter,), b"".join(mask.committed)),
        desk.holdings("a"),
        answer,
        RecoveryRefusal(answer.request_hash, refusals.SHARES_MISSING, ""),
    ]


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize("how", ["unsigned", "by another", "changed", "under another name"])
def test_what_members_say_counts_only_if_they_signed_it(
    make_secure: MakeSecure, kind: int, how: str
) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train("a", "b", "c", "d")
    message = messages(desk)[kind]
    before = repr([cohort.book._stock for cohort in desk.secure.cohorts])
    if how == "unsigned":
        desk.hear_out("a", encode(message, task="t", sender="a", counter=1 << 40))
    elif how == "by another":
        desk.tell("a", message, signer="b")
    elif how == "changed":
        signed = bytearray(desk.signed("a", message, "a"))
        signed[-1] ^= 1
        desk.hear_out("a", bytes(signed))
    else:
        desk.hear_out("b", desk.signed("a", message, "a"))
    (recovery,) = desk.secure.recoveries
    after = repr([cohort.book._stock for cohort in desk.secure.cohorts])
    assert after == before
    assert not recovery.answers
    assert not recovery.refused
    reason = refusals.WRONG_SENDER if how == "under another name" else refusals.BAD_SIGNATURE
    assert desk.refusals() == {reason: 1}


def test_what_was_said_under_another_roster_is_refused(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.online("a")
    (mask,) = (desk.make_mask("a"),)
    desk.tell("a", Dealt(bytes(32), (mask.counter,), b"".join(mask.committed)))
    desk.tell("a", Holdings(bytes(32), 1, (), (), b""))
    assert desk.refusals() == {refusals.WRONG_ROSTER: 2}


@pytest.mark.parametrize("text", [b"", b"\xff" * 100, b"\x90"])
def test_garbage_from_a_member_is_counted(make_secure: MakeSecure, text: bytes) -> None:
    desk = make_secure()
    desk.hear_out("a", text)
    assert sum(desk.refusals().values()) == 1


def test_an_answer_to_nothing_is_ignored(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.tell("a", RecoveryAnswer(bytes(32), b"x"))
    assert desk.refusals() == {}


# --- leases ------------------------------------------------------------------------------------


def test_a_round_that_waits_for_its_sum_has_no_successor(make_secure: MakeSecure) -> None:
    desk = make_secure(mode="rounds", rounds=Rounds(size=4, quorum=3))
    desk.stock_up()
    for name in "abcd":
        desk.check_in(name)
    leases = {name: desk.desk.last(name) for name in "abcd"}
    for name, lease in leases.items():
        assert isinstance(lease, Lease)
        desk.send(name, lease, desk.delta_of(name))
    for name in "efgh":
        desk.check_in(name)
    assert desk.coordinator.leases.num_active == 0
    assert "answers" in desk.coordinator.waiting_for(desk.desk.now)
    desk.answer(*NAMES)
    assert desk.version == 1
    assert desk.coordinator.leases.num_active == 4


def test_a_sum_that_nobody_answers_does_not_stop_the_rounds(make_secure: MakeSecure) -> None:
    """After a round's deadline the next one begins; the sum still counts when it comes."""
    desk = make_secure(mode="rounds", rounds=Rounds(size=4, quorum=3, deadline_s=50.0))
    desk.stock_up()
    desk.online(*NAMES)
    for name in "abcd":
        desk.check_in(name)
    leases = {name: desk.desk.last(name) for name in "abcd"}
    for name, lease in leases.items():
        assert isinstance(lease, Lease)
        desk.send(name, lease, desk.delta_of(name))
    first = desk.requests("a")[-1]
    for name in "efgh":
        desk.check_in(name)
    desk.wait(49)
    assert desk.coordinator.leases.num_active == 0
    desk.wait(6)
    assert desk.coordinator.leases.num_active == 4
    for name in "efgh":
        lease = desk.desk.last(name)
        assert isinstance(lease, Lease)
        desk.send(name, lease, desk.delta_of(name))
    desk.answer(*NAMES)
    assert desk.version == 1
    desk.answer(*NAMES, request=first)
    assert desk.version == 2


def test_a_round_forgets_updates_that_still_wait_for_shares(make_secure: MakeSecure) -> None:
    """They are of an older version than the next round's."""
    desk = make_secure(mode="rounds", rounds=Rounds(size=4, quorum=3))
    desk.stock_up()
    for name in "abcd":
        desk.check_in(name)
    leases = {name: desk.desk.last(name) for name in "abcd"}
    for name, lease in leases.items():
        assert isinstance(lease, Lease)
        mask = desk.deal(name, to="")[0] if name == "d" else None
        desk.send(name, lease, desk.delta_of(name), mask=mask)
    desk.answer(*NAMES)
    desk.wait(10)
    assert desk.version == 1
    assert last_refusal(desk, "d") == refusals.TOO_STALE
    assert len(desk.coordinator.buffers) == 0


def test_while_one_sum_waits_for_sleepers_another_buffer_goes_on(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.asleep("f", "g", "h")
    desk.train("a", "b", "c", "d")
    desk.answer("a", "b", "c", "d", "e")
    desk.online("f")
    second = ["e", "f", "g", "h"]
    desk.online(*second)
    desk.asleep("f", "g", "h")
    assert desk.version == 0
    desk.online("f", "g", "h")
    desk.train(*second)
    first, last = desk.requests("a")
    desk.answer(*NAMES, request=last)
    assert desk.version == 1
    desk.answer("f", request=first)
    desk.wait(3)
    assert desk.version == 2


def test_a_sleeping_holder_is_asked_once_and_again_when_it_comes_back(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.asleep("h")
    desk.train("a", "b", "c", "d")

    def asked(name: str) -> int:
        return len(desk.heard(name, RecoveryRequest))

    assert (asked("a"), asked("h")) == (1, 0)
    desk.wait(100_000 / 4)
    assert asked("h") == 1
    assert asked("a") < 100
    desk.online("h")
    assert asked("h") == 2
    desk.answer("h")
    desk.online("h")
    assert asked("h") == 2


# --- what is kept and said ---------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_of_one_device_is_stored_or_said_in_the_clear(
    make_secure: MakeSecure, scheme: str, tmp_path: Path
) -> None:
    """Neither values nor numbers of samples, before a sum or after; and no key ever."""
    desk = make_secure(
        secure={"scheme": scheme, "samples_cap": 100, "bits": 22}, weigh_by_samples=True
    )
    desk.stock_up()
    given, before = desk.cohort.roster.parameters, desk.desk.params.tobytes()
    told: list[bytes] = []
    secrets = [desk.cohort.aggregator, desk.cohort.aggregator.hex().encode()]
    for name in FOUR:
        delta = desk.delta_of(name)
        desk.send(name, desk.lease(name), delta, num_samples=37)
        elements, _ = given.encode(delta, 37)
        told += [delta[at : at + 2].tobytes() for at in range(5)]
        told += [elements[at : at + 2].astype(kind).tobytes() for at in (0, 4) for kind in INTS]
    assert desk.desk.params.tobytes() == before
    desk.answer(*NAMES[:4])
    desk.desk.store.commit([CounterRecord(dict(desk.counts))])
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    alerts = "".join(desk.coordinator.alerts).encode()
    report = encode_report(rounds_report(desk.coordinator, desk.desk.now))
    said = b"".join(desk.desk.retained.values()) + report + alerts
    assert len(kept) > 10_000
    assert not [each for each in told if each in kept or each in said]
    assert not [each for each in secrets if each in kept or each in said]
    assert not desk.desk.store.snapshot().totals.keys() & {"num_samples", "samples"}


# --- what must stay small ----------------------------------------------------------------------


def test_a_holder_that_refuses_a_thousand_times_is_shown_once(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train("a", "b", "c", "d")
    desk.check_in("zoe")
    for _ in range(100):
        desk.refuse("h", "x" * 64)
    assert len(desk.coordinator.alerts) == 2
    assert max(map(len, desk.coordinator.alerts)) <= 300
    assert desk.counts["answers_refused"] == 1


def test_giving_a_buffer_up_is_one_alert(make_secure: MakeSecure) -> None:
    desk = make_secure(valid_s=100)
    desk.stock_up()
    desk.train("a", "b", "c", "d")
    desk.wait(101)
    assert desk.refusals()[refusals.RECOVERY_FAILED] == 4
    assert len(desk.coordinator.alerts) == 1


class Life:
    """Many things that happen in some order: losses, restarts, late shares, sleepers."""

    def __init__(self, desk: SecureDesk, seed: int) -> None:
        self._desk = desk
        self._draw = np.random.default_rng(seed)
        self.sums: list[bytes] = []

    def go_on(self, num_events: int) -> None:
        events = [self._deal, self._hold, self._update, self._answer, self._wait, self._crash]
        events += [self._presence, self._update, self._update, self._answer]
        for _ in range(num_events):
            name = NAMES[self._draw.integers(len(NAMES))]
            events[self._draw.integers(len(events))](name)

    def _deal(self, name: str) -> None:
        if len(self._desk.devices[name].stock) < 4:
            self._desk.deal(name, to=[each for each in NAMES if self._draw.random() < 0.95])

    def _hold(self, name: str) -> None:
        self._desk.hold(name)

    def _update(self, name: str) -> None:
        desk = self._desk
        desk.check_in(name)
        lease = desk.desk.last(name)
        fresh = isinstance(lease, Lease) and lease.lease_id not in desk.sent
        if isinstance(lease, Lease) and fresh and desk.devices[name].stock:
            desk.desk.silent = bool(self._draw.random() < 0.1)
            desk.send(name, lease, desk.delta_of(name))
            if desk.desk.silent:
                desk.come_back()

    def _answer(self, name: str) -> None:
        device = self._desk.devices[name]
        for request in self._desk.requests(name):
            holds_all = all(mask in device.held for mask in self._desk.masks_of(request))
            if holds_all or request_hash(request) in device.answered:
                self._desk.answer(name, request=request)
            else:
                self._desk.refuse(name, refusals.SHARES_MISSING, request)

    def _wait(self, _name: str) -> None:
        self._desk.wait(float(self._draw.integers(30)))

    def _crash(self, _name: str) -> None:
        if self._draw.random() < 0.3:
            self._desk.come_back()

    def _presence(self, name: str) -> None:
        (self._desk.asleep if self._draw.random() < 0.3 else self._desk.online)(name)


@pytest.mark.parametrize(
    "seed", [0, 1, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 4)]]
)
def test_whatever_happens_no_mask_is_named_in_two_requests_and_no_update_counts_twice(
    make_secure: MakeSecure, seed: int
) -> None:
    """And each version is the mean of what is counted in it."""
    desk = make_secure(
        buffered=Buffered(goal=4, min_contributors=3, max_wait_s=20.0), lease_ttl_s=50
    )
    desk.stock_up()
    Life(desk, seed).go_on(400)
    asked = dict.fromkeys(each for name in NAMES for each in desk.requests(name))
    named = [mask for each in asked for mask in check_request(each, desk.cohort.roster).items()]
    assert len(named) == len(set(named))
    store = desk.desk.store
    counted = store.counted_ids()
    assert len({lease_id for _, lease_id in counted}) == len(counted)
    assert desk.version > 2, "too little has happened"
    for version in range(1, desk.version + 1):
        before, after = store.params(version - 1), store.params(version)
        assert before is not None
        assert after is not None
        step = np.frombuffer(after, "<f4") - np.frombuffer(before, "<f4")
        ids = [lease_id for at, lease_id in counted if at == version]
        np.testing.assert_allclose(step, desk.expected(ids), atol=desk.tolerance(1))


def test_shares_wanted_is_for_dealers_only(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.online(*NAMES)
    desk.deal("a")
    desk.hold("b")
    assert not desk.heard("b", SharesWanted)
