"""A holder's rules: a mask goes into one answer, ever, whatever happens to holder and request."""

from dataclasses import replace

import msgpack
import pytest

from device_sdk.actions import Action, Delete, Store
from device_sdk.answers import ANSWER, MAX_ANSWERS, Answers
from device_sdk.evidence import EVIDENCE, MAX_CASES
from device_sdk.holding import SHARE
from protocol import refusals
from protocol.actions import Publish
from protocol.codec import pack
from protocol.secagg import keys
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    Dealt,
    MaskedUpdate,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
)
from protocol.secagg.requests import Asked, make_request, request_hash
from tests.support.circle import NAMES, Circle
from tests.support.enrolment import cohort

pytestmark = pytest.mark.usefixtures("remembered_crypto")

COHORT = cohort(NAMES)
DELTA = [0.5, -0.25, 0.125, 0.0, 1.0, -1.0]


def joined(names: str = "abc") -> tuple[Circle, dict[int, MaskedUpdate]]:
    """A circle in which some have sent an update."""
    circle = Circle()
    circle.join()
    return circle, {circle.index(name): circle.reports(name, DELTA) for name in names}


def masks_of(updates: dict[int, MaskedUpdate]) -> dict[int, int]:
    return {index: update.counter for index, update in updates.items()}


def spare_masks(circle: Circle, names: str) -> dict[int, int]:
    """The masks at hand that would be used next."""
    found = {}
    for name in names:
        dealt = circle.of(name, Dealt)[-1]
        found[circle.index(name)] = dealt.counters[-1]
    return found


def answer(said: list[Message]) -> bytes:
    (message,) = said
    assert isinstance(message, RecoveryAnswer)
    return message.elements


def refusal(said: list[Message]) -> str:
    (message,) = said
    assert isinstance(message, RecoveryRefusal)
    return message.reason


def kept(circle: Circle, name: str, prefix: str) -> list[str]:
    return [key for key in circle[name].flash if key.startswith(prefix)]


# --- one answer, the same bytes ------------------------------------------------------------------


def test_the_same_request_gets_the_same_bytes_also_after_a_restart() -> None:
    circle, updates = joined()
    request = circle.request(masks_of(updates))
    first = answer(circle.ask("e", request))
    assert answer(circle.ask("e", request)) == first
    circle.restart("e")
    assert answer(circle.ask("e", request)) == first


def test_an_answer_is_stored_and_the_shares_erased_before_it_is_sent() -> None:
    circle, updates = joined()
    request = circle.request(masks_of(updates))
    circle["e"].log.clear()
    circle["e"].hear_in(request)
    log = circle["e"].log
    assert [type(action) for action in log] == [Store, Delete, Delete, Delete, Publish]
    assert isinstance(log[0], Store)
    assert log[0].key.startswith(ANSWER)
    erased = {action.key for action in log if isinstance(action, Delete)}
    assert all(key.startswith(SHARE) for key in erased)
    assert not erased & circle["e"].flash.keys()


@pytest.mark.parametrize("num_actions", range(6))
def test_power_may_go_between_any_two_steps_of_an_answer(num_actions: int) -> None:
    circle, updates = joined()
    request = circle.request(masks_of(updates))
    overlapping = circle.request({**spare_masks(circle, "de"), 0: updates[0].counter})
    circle["e"].power = num_actions
    circle["e"].hear_in(request)
    circle["e"].published.clear()  # whether it had left or not
    circle.restart("e")
    if num_actions == 0:  # nothing was promised: either request may be the one
        assert answer(circle.ask("e", overlapping))
        assert refusal(circle.ask("e", request)) == refusals.MASK_USED
        return
    assert refusal(circle.ask("e", overlapping)) == refusals.MASK_USED
    unharmed, _ = joined()  # the same seeds: what would have been sent
    assert answer(circle.ask("e", request)) == answer(unharmed.ask("e", request))
    assert refusal(circle.ask("e", overlapping)) == refusals.MASK_USED
    circle.restart("e")
    assert refusal(circle.ask("e", overlapping)) == refusals.MASK_USED
    erased = {f"{SHARE}{index}-{mask:016x}" for index, mask in masks_of(updates).items()}
    assert not erased & circle["e"].flash.keys()


def test_a_failed_write_answers_nothing() -> None:
    circle, updates = joined()
    circle["e"].power = 0
    circle["e"].hear_in(circle.request(masks_of(updates)))
    assert circle["e"].published == []


# --- overlap -------------------------------------------------------------------------------------


def test_any_overlap_with_an_answered_request_is_refused_and_kept_as_evidence() -> None:
    circle, updates = joined("abcd")
    masks = masks_of(updates)
    first = circle.request({index: masks[index] for index in (0, 1, 2)})
    second = circle.request({index: masks[index] for index in (0, 1, 3)})
    answer(circle.ask("e", first))
    assert refusal(circle.ask("e", second)) == refusals.MASK_USED
    assert circle["e"].session.counts["conflicting_requests"] == 1
    (key,) = kept(circle, "e", EVIDENCE)
    assert msgpack.unpackb(circle["e"].flash[key]) == ["requests", pack(first), pack(second)]


def test_a_refused_request_uses_nothing() -> None:
    circle, updates = joined("abcd")
    masks = masks_of(updates)
    answer(circle.ask("e", circle.request({index: masks[index] for index in (0, 1, 2)})))
    rest = {3: masks[3], **spare_masks(circle, "ab")}
    assert refusal(circle.ask("e", circle.request({3: masks[3], 0: masks[0], 1: masks[1]})))
    assert answer(circle.ask("e", circle.request(rest)))


def test_the_same_conflict_is_counted_and_kept_once_also_after_a_restart() -> None:
    circle, updates = joined("abcd")
    masks = masks_of(updates)
    answer(circle.ask("e", circle.request({index: masks[index] for index in (0, 1, 2)})))
    second = circle.request({index: masks[index] for index in (0, 1, 3)})
    for _ in range(3):
        circle.ask("e", second)
    circle.restart("e")
    circle.ask("e", second)
    assert len(kept(circle, "e", EVIDENCE)) == 1
    assert circle["e"].session.counts["conflicting_requests"] == 0  # known before the restart


def test_evidence_is_bounded_and_counted_beyond() -> None:
    circle, updates = joined("abcd")
    masks = masks_of(updates)
    answer(circle.ask("e", circle.request({index: masks[index] for index in (0, 1, 2)})))
    for number in range(MAX_CASES + 3):
        circle.ask("e", circle.request({0: masks[0], 1: masks[1], 4: number}))
    assert len(kept(circle, "e", EVIDENCE)) == MAX_CASES
    assert circle["e"].session.counts["conflicting_requests"] == MAX_CASES + 3


def test_a_share_that_is_not_held_is_missing_and_nothing_is_used() -> None:
    circle, updates = joined()
    masks = masks_of(updates)
    assert refusal(circle.ask("e", circle.request({**masks, 3: 12345}))) == refusals.SHARES_MISSING
    assert answer(circle.ask("e", circle.request(masks)))


def test_a_mask_that_was_summed_before_its_dealer_used_it_is_never_used() -> None:
    circle, _ = joined("ab")
    masks = {**spare_masks(circle, "ab"), 2: circle.of("c", Dealt)[-1].counters[0]}
    for name in "abcde":
        circle.ask(name, circle.request(masks))
    assert circle.reports("c", DELTA).counter not in masks.values()


# --- requests that no honest aggregator makes ----------------------------------------------------


def tampered(circle: Circle, masks: dict[int, int], at: int, value: object) -> RecoveryRequest:
    """A request whose body has another field, signed all the same."""
    fields = msgpack.unpackb(circle.request(masks).body)
    fields[at] = value
    body: bytes = msgpack.packb(fields)
    return RecoveryRequest(body, keys.sign(circle.cohort.aggregator, keys.REQUEST, body))


TASK, ROSTER, EPOCH, MEMBERS, COUNTERS, WEIGHTS = range(6)


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (TASK, "other", refusals.WRONG_ROSTER),
        (ROSTER, bytes(32), refusals.WRONG_ROSTER),
        (EPOCH, 2, refusals.WRONG_ROSTER),
        (MEMBERS, [1, 0, 2], refusals.WRONG_MEMBERS),
        (MEMBERS, [0, 0, 1], refusals.WRONG_MEMBERS),
        (MEMBERS, [0, 1], refusals.WRONG_MEMBERS),
        (MEMBERS, [0, 1, 77], refusals.WRONG_MEMBERS),
        (WEIGHTS, [1, 1, 0], refusals.WRONG_MEMBERS),
        (WEIGHTS, [1, 1, -1], refusals.WRONG_MEMBERS),
        (WEIGHTS, [1, 1, 64], refusals.WRONG_MEMBERS),
        (WEIGHTS, [1, 1], refusals.WRONG_MEMBERS),
    ],
)
def test_a_request_against_the_rules_is_refused_with_its_reason(
    at: int, value: object, reason: str
) -> None:
    circle, updates = joined()
    masks = masks_of(updates)
    assert refusal(circle.ask("e", tampered(circle, masks, at, value))) == reason
    assert circle["e"].session.counts[f"refused_{reason}"] == 1
    assert answer(circle.ask("e", circle.request(masks)))


def test_too_few_contributors_are_refused() -> None:
    circle, updates = joined()
    masks = masks_of(updates)
    fewer = circle.request({0: masks[0], 1: masks[1]})
    assert refusal(circle.ask("e", fewer)) == refusals.WRONG_MEMBERS


def test_a_request_that_the_roster_s_aggregator_did_not_sign_is_not_answered() -> None:
    circle, updates = joined()
    request = circle.request(masks_of(updates))
    forged = replace(request, signature=keys.sign(bytes(32), keys.REQUEST, request.body))
    garbage = RecoveryRequest(b"\xc1", keys.sign(circle.cohort.aggregator, keys.REQUEST, b"\xc1"))
    assert circle.ask("e", forged) == []
    assert circle.ask("e", garbage) == []
    assert circle["e"].session.counts["refused_bad_signature"] == 1
    assert circle["e"].session.counts["refused_malformed"] == 1


def test_a_request_of_an_epoch_that_is_over_is_refused() -> None:
    circle, updates = joined()
    request = circle.request(masks_of(updates))
    circle.hear_roster(circle["e"], cohort(NAMES, epoch=2, size=7))
    assert circle.ask("e", request) == []
    assert circle["e"].session.counts["refused_not_enrolled"] == 1


# --- what is remembered --------------------------------------------------------------------------


def noted(
    answers: Answers, masks: dict[int, int], *others: tuple[int, int], group: int = 0
) -> list[Action]:
    """Note an answer over these masks, out of a buffer that also has the others."""
    buffer = {**masks, **dict(others)}
    request = make_request(COHORT.roster, buffer, COHORT.aggregator, group=group)
    asked = Asked(buffer, group, masks)
    return answers.add(request_hash(request), request, b"elements", asked)[1]


def test_used_masks_are_known_long_after_their_answers_are_gone() -> None:
    stored: dict[str, bytes] = {}
    answers = Answers(bytes(32), stored)
    num_requests = 3 * MAX_ANSWERS
    for number in range(num_requests):
        masks = {0: 7 << 32 | number, 1: 9 << 32 | number}
        for action in noted(answers, masks):
            if isinstance(action, Store):
                stored[action.key] = action.data
            elif isinstance(action, Delete):
                stored.pop(action.key)
    for known in (answers, Answers(bytes(32), stored)):
        assert MAX_ANSWERS <= len(list(known)) < MAX_ANSWERS + 8
        assert all(known.is_used((0, 7 << 32 | number)) for number in range(num_requests))
        assert not known.is_used((0, 7 << 32 | num_requests))
        assert not known.is_used((0, 8 << 32))
        assert not known.is_used((2, 7 << 32))
    assert not list(Answers(b"\1" * 32, stored))


def test_masks_that_are_skipped_can_still_be_used_within_the_window() -> None:
    answers = Answers(bytes(32), {})
    noted(answers, {0: 10})
    assert [answers.is_used((0, number)) for number in (9, 10, 11)] == [False, True, False]
    noted(answers, {0: 9, 1: 100})
    assert [answers.is_used((0, number)) for number in (8, 9, 10)] == [False, True, True]
    noted(answers, {0: 200})
    assert answers.is_used((0, 8))  # too far behind to be one that is alive
    assert not answers.is_used((0, 199))


# --- buffers that are summed in groups -----------------------------------------------------------

TEN = tuple("abcdefghij")


def grouped(names: str = "abcdefghi") -> tuple[Circle, dict[int, int]]:
    """A circle of ten in groups of three in which some have sent an update; the masks of these."""
    circle = Circle(TEN, group=3)
    circle.join()
    return circle, masks_of({circle.index(name): circle.reports(name, DELTA) for name in names})


def group_request(circle: Circle, masks: dict[int, int], number: int) -> RecoveryRequest:
    return make_request(circle.cohort.roster, masks, circle.cohort.aggregator, group=number)


def test_each_group_of_a_buffer_is_answered_once_and_alone() -> None:
    circle, masks = grouped()
    requests = [group_request(circle, masks, number) for number in (1, 2, 3)]
    answers = [answer(circle.ask("j", request)) for request in requests]
    assert len(set(answers)) == 3
    circle.restart("j")
    assert [answer(circle.ask("j", request)) for request in requests] == answers


def test_the_first_answer_binds_the_masks_of_the_whole_buffer() -> None:
    """Else whoever has seen the sum of one group could have the others drawn anew."""
    circle, masks = grouped("abcdefghij")
    fewer = {dealer: mask for dealer, mask in masks.items() if dealer != 9}
    answer(circle.ask("j", group_request(circle, masks, 1)))
    for _ in range(2):
        for number in (1, 2, 3):
            other = group_request(circle, fewer, number)
            assert refusal(circle.ask("j", other)) == refusals.MASK_USED
        circle.restart("j")
    assert answer(circle.ask("j", group_request(circle, masks, 2)))
    assert len(kept(circle, "j", EVIDENCE)) == 3


def test_groups_of_another_size_or_everybody_are_refused() -> None:
    circle, masks = grouped()
    assert refusal(circle.ask("j", circle.request(masks))) == refusals.WRONG_MEMBERS
    assert refusal(circle.ask("j", group_request(circle, masks, 4))) == refusals.WRONG_MEMBERS
    few = dict(list(masks.items())[:8])
    assert refusal(circle.ask("j", group_request(circle, few, 1))) == refusals.WRONG_MEMBERS
    assert answer(circle.ask("j", group_request(circle, masks, 1)))


def test_a_mask_that_is_bound_is_not_used_by_its_dealer_any_more() -> None:
    circle, masks = grouped("abcdefgh")
    masks[9] = spare_masks(circle, "j")[9]
    answer(circle.ask("j", group_request(circle, masks, 1)))
    answer(circle.ask("j", group_request(circle, masks, 2)))
    assert circle.reports("j", DELTA).counter != masks[9]


def test_masks_of_a_buffer_that_is_forgotten_count_as_used() -> None:
    stored: dict[str, bytes] = {}
    answers = Answers(bytes(32), stored)
    for number in range(3 * MAX_ANSWERS):
        for action in noted(answers, {0: number}, (1, number), (2, number), group=1):
            if isinstance(action, Store):
                stored[action.key] = action.data
            elif isinstance(action, Delete):
                stored.pop(action.key)
    for known in (answers, Answers(bytes(32), stored)):
        assert known.is_used((1, 0))
        assert not known.is_used((1, 3 * MAX_ANSWERS - 1))  # bound, and not asked for yet
        newest = dict.fromkeys(range(3), 3 * MAX_ANSWERS - 1)
        assert known.overlapping(Asked(newest, 2, {1: newest[1]})) is None
        assert known.overlapping(Asked({**newest, 3: 5}, 1, {})) is not None


def test_the_groups_of_one_buffer_are_kept_together_however_many() -> None:
    answers = Answers(bytes(32), {})
    buffer = [(dealer, 1) for dealer in range(60)]
    for mask in buffer:
        noted(answers, dict([mask]), *buffer, group=1 + mask[0])
    assert len(list(answers)) == 60
