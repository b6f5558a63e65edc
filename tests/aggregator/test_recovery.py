"""Answers: which of them make a sum, who lied, and when a sum is given up.

N, t, T, U = 8, 1, 4, 6 unless said otherwise: two answers are to spare, which is t + 1.
"""

import math

import numpy as np
import pytest

from aggregator.recovery import Recovery
from protocol import refusals
from protocol.messages import Refusal
from protocol.secagg.field import Elements
from protocol.secagg.messages import RecoveryAnswer, RecoveryRequest
from protocol.secagg.requests import request_hash
from tests.aggregator.conftest import MakeSecure
from tests.support.secure_desk import NAMES, SecureDesk

SCHEMES = ("seedmask", "lightsecagg")
#: 402 params: no wrong secret leaves so many values in range.
WIDE = {
    "input": [200],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}
FOUR = ("a", "b", "c", "d")


def closed(desk: SecureDesk) -> SecureDesk:
    """Let four updates close a buffer."""
    desk.stock_up()
    desk.train(*FOUR)
    return desk


def recovery(desk: SecureDesk) -> Recovery:
    (found,) = desk.secure.recoveries
    return found


def alerts(desk: SecureDesk) -> str:
    return "\n".join(desk.coordinator.alerts)


def assert_right(desk: SecureDesk) -> None:
    """Version 1 is the mean of all that was sent."""
    assert desk.version == 1
    step = desk.desk.step
    np.testing.assert_allclose(step, desk.expected(list(desk.sent)), atol=desk.tolerance(4))


# --- how many answers --------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_fewer_than_u_answers_never_make_a_sum(make_secure: MakeSecure, scheme: str) -> None:
    desk = closed(make_secure(secure={"scheme": scheme}))
    desk.answer(*NAMES[:5])
    desk.asleep(*NAMES)
    desk.wait(10_000)
    assert desk.version == 0
    desk.answer(NAMES[5])
    assert_right(desk)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_any_u_answers_make_the_same_sum(make_secure: MakeSecure, scheme: str) -> None:
    stepped = set()
    for gone in ("ab", "bd", "ah", "gh"):
        desk = closed(make_secure(secure={"scheme": scheme}))
        desk.asleep(*gone)
        desk.answer(*[name for name in NAMES if name not in gone])
        assert_right(desk)
        stepped.add(desk.desk.params.tobytes())
    assert len(stepped) == 1


def test_spares_that_are_online_are_waited_for_a_little(make_secure: MakeSecure) -> None:
    desk = closed(make_secure(secure={"spare_wait_s": 2.0}))
    desk.answer(*NAMES[:6])
    desk.wait(1.9)
    assert desk.version == 0
    desk.wait(0.2)
    assert_right(desk)


def test_with_all_spares_nobody_waits(make_secure: MakeSecure) -> None:
    desk = closed(make_secure())
    desk.answer(*NAMES[:7])
    assert desk.version == 0
    desk.answer("h")
    assert_right(desk)


def test_an_answer_counts_once_and_the_first_one_stands(make_secure: MakeSecure) -> None:
    desk = closed(make_secure())
    for _ in range(10):
        desk.answer("a")
    (request,) = desk.requests("a")
    length = len(desk.devices["a"].answered[request_hash(request)].elements)
    desk.tell("a", RecoveryAnswer(request_hash(request), bytes(length)))
    desk.answer(*NAMES[1:5])
    desk.wait(60)
    assert desk.version == 0
    desk.answer("f")
    desk.wait(3)
    assert_right(desk)


@pytest.mark.parametrize("elements", [b"", b"x", b"\xff" * 2_048])
def test_an_answer_of_another_shape_is_refused_and_may_be_mended(
    make_secure: MakeSecure, elements: bytes
) -> None:
    desk = closed(make_secure())
    (request,) = desk.requests("a")
    desk.tell("a", RecoveryAnswer(request_hash(request), elements))
    assert desk.refusals() == {refusals.MALFORMED: 1}
    desk.answer(*NAMES)
    assert_right(desk)


def test_no_more_is_asked_of_anybody_once_it_is_done(make_secure: MakeSecure) -> None:
    desk = closed(make_secure())
    desk.answer(*NAMES)
    before = len(desk.desk.said)
    desk.online(*NAMES)
    desk.wait(1_000)
    assert not [m for _, m in desk.desk.said[before:] if isinstance(m, RecoveryRequest)]


# --- wrong answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("liar", NAMES)
def test_a_liar_is_named_excluded_and_the_buffer_completes(
    make_secure: MakeSecure, scheme: str, liar: str
) -> None:
    desk = closed(make_secure(secure={"scheme": scheme}))
    desk.answer(liar, wrong=1)
    desk.answer(*[name for name in NAMES if name != liar])
    assert_right(desk)
    assert [alert.split(":")[:2] for alert in desk.coordinator.alerts] == [[liar, " excluded"]]
    assert desk.counts["holders_excluded"] == 1
    desk.check_in(liar)
    refusal = desk.desk.last(liar)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.EXCLUDED


def test_an_excluded_holder_stays_excluded_after_a_restart(make_secure: MakeSecure) -> None:
    desk = closed(make_secure())
    desk.answer("h", wrong=1)
    desk.answer(*NAMES[:7])
    desk.come_back()
    desk.check_in("h")
    refusal = desk.desk.last("h")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.EXCLUDED


def test_nothing_is_asked_of_or_believed_from_an_excluded_holder(make_secure: MakeSecure) -> None:
    desk = closed(make_secure())
    desk.answer("h", wrong=1)
    desk.answer(*NAMES[:7])
    desk.train("e", "f", "g")
    desk.train("a")
    asked = desk.requests("h")
    assert len(asked) == 1
    desk.answer("h", request=desk.requests("a")[-1])
    assert not recovery(desk).answers
    desk.answer(*NAMES[:6])
    desk.wait(3)
    assert desk.version == 2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_exactly_u_answers_a_wrong_one_is_noticed_and_nobody_named(
    make_secure: MakeSecure, scheme: str
) -> None:
    desk = closed(make_secure(model=WIDE, secure={"scheme": scheme}))
    desk.asleep("g", "h")
    desk.answer("a", wrong=1)
    desk.answer(*NAMES[1:6])
    desk.wait(100)
    assert desk.version == 0
    assert desk.counts["recoveries_inconsistent"] == 1
    assert desk.counts["holders_excluded"] == 0
    desk.online("g")
    desk.answer("g")  # seven: that it is inconsistent is certain, whose fault it is not
    desk.wait(100)
    assert desk.version == 0
    assert desk.counts["holders_excluded"] == 0
    desk.online("h")
    desk.answer("h")  # eight: two spares locate one
    assert_right(desk)
    assert "a: excluded" in alerts(desk)


def test_more_liars_than_can_be_found_end_the_buffer_and_name_nobody(
    make_secure: MakeSecure,
) -> None:
    desk = closed(make_secure(model=WIDE))
    for wrong, name in enumerate("abc", start=1):
        desk.answer(name, wrong=wrong)
    desk.answer(*NAMES[3:])
    assert desk.version == 0
    assert desk.counts["holders_excluded"] == 0
    assert desk.refusals()[refusals.RECOVERY_FAILED] == 4
    assert len(desk.coordinator.buffers) == 0


def test_a_liar_is_located_with_more_answers_when_the_first_contradict_each_other(
    make_secure: MakeSecure,
) -> None:
    """N, t, T, U = 12, 1, 6, 8: two liars are beyond t, but not beyond four spares."""
    names = tuple("abcdefghijkl")
    desk = make_secure(names, secure={"answers": 8})
    desk.stock_up()
    desk.train(*FOUR)
    desk.answer("a", wrong=1)
    desk.answer("b", wrong=2)
    desk.answer(*names[2:10])
    assert desk.version == 0
    desk.answer("k")
    assert desk.version == 0
    desk.answer("l")
    assert desk.version == 1
    np.testing.assert_allclose(
        desk.desk.step, desk.expected(list(desk.sent)), atol=desk.tolerance(4)
    )


def test_those_who_sleep_are_asked_when_the_others_contradict_each_other(
    make_secure: MakeSecure,
) -> None:
    names = tuple("abcdefghijkl")
    desk = make_secure(names, secure={"answers": 8})
    desk.stock_up()
    desk.asleep("k", "l")
    desk.train(*FOUR)
    desk.answer("a", wrong=1)
    desk.answer("b", wrong=2)
    desk.answer(*names[2:10])
    for name in ("k", "l"):
        desk.online(name)
        desk.answer(name)
    assert desk.version == 1


def test_one_lie_removes_a_holder_from_every_recovery(make_secure: MakeSecure) -> None:
    desk = make_secure(model=WIDE)
    desk.stock_up()
    desk.asleep("h")
    desk.train(*FOUR)
    desk.train("e", "f", "g")
    desk.wait(61)
    first, second = desk.requests("a")
    desk.answer("a", request=second, wrong=1)
    for name in NAMES[1:5]:
        desk.answer(name, request=second)
    desk.answer("a", request=first, wrong=1)
    desk.online("h")
    desk.answer(*NAMES[1:], request=first)
    assert desk.version == 1
    assert recovery(desk).answers.keys() == {1, 2, 3, 4}
    desk.answer(*NAMES[5:], request=second)
    desk.wait(3)
    assert desk.version == 2


# --- bad dealers -------------------------------------------------------------------------------


def with_bad_dealer(desk: SecureDesk, victim: str) -> None:
    """``a`` deals one holder a share that is off; everybody else is honest."""
    index = desk.index(victim)

    def spoiled(rows: Elements) -> None:
        rows[index, 0] += 1

    desk.online(*NAMES)
    for name in NAMES:
        desk.deal(name, 2, spoil=spoiled if name == "a" else None)


@pytest.mark.parametrize("victim", ["a", "b", "h"])
def test_a_bad_dealer_gets_no_honest_holder_named(make_secure: MakeSecure, victim: str) -> None:
    """Its mask has fewer holders: the victim is not even asked."""
    desk = make_secure()
    with_bad_dealer(desk, victim)
    desk.hold()
    desk.train(*FOUR)
    assert desk.index(victim) not in recovery(desk).holders
    assert desk.requests(victim) == []
    desk.answer(victim, request=desk.requests("c")[0])  # were it to answer all the same
    desk.answer(*[name for name in NAMES if name != victim])
    assert_right(desk)
    assert desk.counts["holders_excluded"] == 0


def test_a_victim_that_was_believed_before_the_test_is_not_named_after_it(
    make_secure: MakeSecure,
) -> None:
    """With U receipts nothing can be said yet: the update enters, and the victim counts."""
    desk = make_secure()
    with_bad_dealer(desk, "f")
    desk.hold(*NAMES[:6])
    desk.train("a", "b", "c")
    desk.hold("g", "h")
    desk.train("d")
    assert desk.index("f") not in recovery(desk).holders
    desk.answer("f", request=desk.requests("c")[0])
    desk.answer(*[name for name in NAMES if name != "f"])
    desk.wait(3)
    assert_right(desk)
    assert desk.counts["holders_excluded"] == 0


def test_a_dealer_that_was_not_tested_gets_nobody_named(make_secure: MakeSecure) -> None:
    """Its victim is one of exactly U holders, and everybody else answers too."""
    desk = make_secure()
    with_bad_dealer(desk, "f")
    for name in ("g", "h"):  # they do not say that they hold its mask
        for number in (0, 1):
            held = desk.devices[name].held.pop((0, desk.devices["a"].stock[number].counter))
            desk.devices[name].held[100 + number, 0] = held
    hidden = {name: dict(desk.devices[name].held) for name in ("g", "h")}
    for name in NAMES:
        device = desk.devices[name]
        device.held = {mask: row for mask, row in device.held.items() if mask[0] < 8}
    desk.hold()
    desk.train(*FOUR)
    assert recovery(desk).holders == set(range(6))
    assert not recovery(desk).tested
    request = desk.requests("c")[0]
    for name in ("g", "h"):
        device = desk.devices[name]
        for (dealer, _), row in hidden[name].items():
            if dealer == 100:
                device.held[0, desk.masks_of(request)[0][1]] = row
    desk.answer(*NAMES, request=request)
    desk.wait(3)
    assert desk.counts["holders_excluded"] == 0


def test_holders_that_were_not_heard_before_get_nobody_named(make_secure: MakeSecure) -> None:
    """N, t, T, U = 12, 1, 6, 8. Nine holders pass the test on one polynomial, two of them alone.

    The three others are on another one, which the update was masked with, as are the other seven.
    """
    names = tuple("abcdefghijkl")
    desk = make_secure(names, model=WIDE, secure={"answers": 8})
    modulus = desk.cohort.roster.parameters.modulus
    common, lonely, unheard = range(7), (7, 8), names[9:]

    def spoiled(rows: Elements) -> None:
        for at in lonely:
            rows[at] += math.prod(at - other for other in common)
            rows[at] %= modulus

    desk.online(*names)
    for name in names:
        desk.deal(name, spoil=spoiled if name == "a" else None)
    for name in names:
        others = [mask for mask in desk.devices[name].held if mask[0] or name not in unheard]
        desk.tell(name, desk.holdings(name, others))
    desk.train(*FOUR)
    assert recovery(desk).holders == set(range(9))
    desk.wait(6)
    desk.answer(*names)
    desk.wait(3)
    assert desk.counts["holders_excluded"] == 0
    assert_right(desk)


# --- holders that refuse -----------------------------------------------------------------------


@pytest.mark.parametrize("reason", [refusals.MASK_USED, refusals.SHARES_MISSING])
def test_a_sum_is_given_up_when_too_many_refuse(make_secure: MakeSecure, reason: str) -> None:
    desk = closed(make_secure())
    leases = {name: lease_id for lease_id, sent in desk.sent.items() for name in [sent.device]}
    desk.refuse("h", reason)
    desk.refuse("g", reason)
    assert recovery(desk).refused == {6: reason, 7: reason}
    desk.refuse("f", reason)
    assert desk.version == 0
    assert desk.counts["recoveries_failed"] == 1
    for name in FOUR:
        refusal = desk.desk.last(name)
        assert isinstance(refusal, Refusal)
        assert (refusal.lease_id, refusal.reason) == (leases[name], refusals.RECOVERY_FAILED)
    assert refusals.RECOVERY_FAILED in refusals.FOLDED
    desk.restart()
    assert len(desk.coordinator.buffers) == 0
    for name in FOUR:
        desk.check_in(name, leases[name])
        refusal = desk.desk.last(name)
        assert isinstance(refusal, Refusal)
        assert refusal.reason == refusals.RECOVERY_FAILED


def test_masks_of_a_sum_given_up_are_never_used_again(make_secure: MakeSecure) -> None:
    desk = closed(make_secure())
    counters = {sent.device: sent.counter for sent in desk.sent.values()}
    for name in ("f", "g", "h"):
        desk.refuse(name, refusals.SHARES_MISSING)
    first = desk.requests("e")
    desk.train(*FOUR)
    second = desk.requests("e")[-1]
    assert second not in first
    assert not set(counters.items()) & {
        (NAMES[dealer], counter) for dealer, counter in desk.masks_of(second)
    }


def test_two_that_refuse_do_not_stop_a_sum(make_secure: MakeSecure) -> None:
    desk = closed(make_secure())
    desk.refuse("a", refusals.SHARES_MISSING)
    desk.refuse("b", refusals.MASK_USED)
    desk.answer(*NAMES[2:])
    assert_right(desk)


def test_a_holder_that_had_another_roster_yet_is_asked_again(make_secure: MakeSecure) -> None:
    desk = closed(make_secure())
    for name in ("f", "g", "h"):
        desk.refuse(name, refusals.WRONG_ROSTER)
    assert desk.counts["recoveries_failed"] == 0
    before = len(desk.heard("h", RecoveryRequest))
    desk.wait(6)
    assert len(desk.heard("h", RecoveryRequest)) == before + 1
    desk.answer(*NAMES)
    assert_right(desk)


def test_who_is_not_known_to_hold_shares_is_asked_when_the_others_are_not_enough(
    make_secure: MakeSecure,
) -> None:
    """Seven hold shares of a's mask. When two of them refuse, it is up to the eighth."""
    desk = make_secure()
    desk.online(*NAMES)
    desk.deal("a", to=NAMES[1:7])
    for name in NAMES[1:]:
        desk.deal(name)
    desk.hold()
    desk.train(*FOUR)
    assert len(recovery(desk).holders) == 7
    desk.refuse("g", refusals.SHARES_MISSING)
    desk.refuse("f", refusals.SHARES_MISSING)
    assert desk.requests("h") == []
    desk.wait(6)
    desk.refuse("h", refusals.SHARES_MISSING)
    assert not desk.recovering
    assert desk.refusals() == {refusals.RECOVERY_FAILED: 4}
