"""Who holds shares of which masks. N, t, T, U = 8, 1, 4, 6."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from aggregator.holdings import MAX_RECEIPTS, MAX_USED, HoldingsBook
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.secagg import scheme
from protocol.secagg.consistency import commitment, commitments, receipt, root, witness
from protocol.secagg.field import Elements
from protocol.secagg.messages import Dealt, Holdings
from protocol.secagg.shares import deal
from protocol.stream import derive
from tests.support.enrolment import cohort

ROSTER = cohort(tuple("abcdefgh"), num_noise=4, num_answers=6, scheme="lightsecagg", size=8).roster
SHARING = scheme("lightsecagg").sharing(ROSTER.parameters)
P = SHARING.modulus
EVERYBODY = frozenset(range(8))


@dataclass
class Mask:
    """A mask of one dealer, with all rows."""

    dealer: int
    counter: int
    rows: Elements

    @property
    def id(self) -> bytes:
        return ROSTER.mask_id(self.dealer, self.counter)

    @property
    def committed(self) -> tuple[bytes, ...]:
        return commitments(self.id, self.rows, P)

    def receipt(self, holder: int) -> bytes:
        """What a holder says of it."""
        test_root = root(self.id, self.committed)
        own = commitment(self.id, holder, self.rows[holder], P)
        return receipt(test_root, self.rows[holder], P) + witness(own, test_root)


def mask(dealer: int, counter: int) -> Mask:
    seed = derive(bytes(32), "mask", dealer, counter)
    secret = scheme("lightsecagg").secret(ROSTER.parameters, seed)
    return Mask(dealer, counter, deal(secret, SHARING, seed))


def dealt(*masks: Mask) -> Dealt:
    committed = b"".join(b"".join(each.committed) for each in masks)
    return Dealt(ROSTER.hash, tuple(each.counter for each in masks), committed)


def holdings(holder: int, masks: Sequence[Mask], *, whole: bool = False) -> Holdings:
    return Holdings(
        ROSTER.hash,
        int(whole),
        tuple(each.dealer for each in masks),
        tuple(each.counter for each in masks),
        b"".join(each.receipt(holder) for each in masks),
    )


def told(book: HoldingsBook, masks: Sequence[Mask], holders: Collection[int]) -> None:
    for holder in holders:
        book.held(holder, holdings(holder, masks))


@pytest.fixture
def book() -> HoldingsBook:
    return HoldingsBook(ROSTER, SHARING)


# --- who holds ---------------------------------------------------------------------------------


def test_a_mask_is_held_by_those_who_say_so(book: HoldingsBook) -> None:
    one = mask(0, 1)
    book.dealt(0, dealt(one))
    assert book.holders(0, 1) == frozenset()
    told(book, [one], (0, 2, 5))
    assert book.holders(0, 1) == {0, 2, 5}
    told(book, [one], EVERYBODY)
    assert book.holders(0, 1) == EVERYBODY


def test_dealers_and_holders_may_speak_in_any_order(book: HoldingsBook) -> None:
    one = mask(0, 1)
    told(book, [one], EVERYBODY)
    book.dealt(0, dealt(one))
    assert book.holders(0, 1) == EVERYBODY
    assert book.is_ready(0)
    assert book.was_tested(0, 1)


def test_a_device_is_ready_when_enough_hold_the_mask_it_uses_next(book: HoldingsBook) -> None:
    first, second = mask(0, 1), mask(0, 2)
    book.dealt(0, dealt(first, second))
    told(book, [second], EVERYBODY)
    assert not book.is_ready(0)
    told(book, [first], range(5))
    assert not book.is_ready(0)
    told(book, [first], (5,))
    assert book.is_ready(0)
    book.used(0, 1)
    assert book.is_ready(0)
    book.used(0, 2)
    assert not book.is_ready(0)


def test_a_dealer_is_tested_when_more_agree_than_u(book: HoldingsBook) -> None:
    one = mask(0, 1)
    book.dealt(0, dealt(one))
    told(book, [one], range(6))
    assert not book.was_tested(0, 1)
    told(book, [one], (6,))
    assert book.was_tested(0, 1)


def test_a_dealer_that_committed_to_nothing_is_never_tested(book: HoldingsBook) -> None:
    told(book, [mask(0, 1)], EVERYBODY)
    assert book.holders(0, 1) == EVERYBODY
    assert not book.was_tested(0, 1)


def test_a_share_that_does_not_agree_is_not_held(book: HoldingsBook) -> None:
    bad = mask(0, 1)
    bad.rows[3, 0] = (bad.rows[3, 0] + 1) % P
    book.dealt(0, dealt(bad))
    told(book, [bad], range(6))
    assert book.holders(0, 1) == set(range(6))  # nothing can be said yet
    told(book, [bad], (6, 7))
    assert book.holders(0, 1) == EVERYBODY - {3}


def test_a_share_other_than_was_committed_to_is_not_held(book: HoldingsBook) -> None:
    """The dealer's word to the aggregator and to the holder differ."""
    one, other = mask(0, 1), mask(0, 1)
    other.rows[3, 0] = (other.rows[3, 0] + 1) % P
    book.dealt(0, dealt(one))
    told(book, [one], EVERYBODY - {3})
    book.held(3, holdings(3, [other]))
    assert book.holders(0, 1) == EVERYBODY - {3}


def test_a_holder_that_says_all_it_has_has_no_more(book: HoldingsBook) -> None:
    first, second = mask(0, 1), mask(1, 1)
    told(book, [first, second], EVERYBODY)
    book.held(3, holdings(3, [second], whole=True))
    assert book.holders(0, 1) == EVERYBODY - {3}
    assert book.holders(1, 1) == EVERYBODY


def test_nothing_of_an_excluded_holder_counts(book: HoldingsBook) -> None:
    one = mask(0, 1)
    told(book, [one], EVERYBODY)
    book.exclude(3)
    told(book, [one], (3,))
    assert book.holders(0, 1) == EVERYBODY - {3}


def test_what_a_holder_lacks_is_known(book: HoldingsBook) -> None:
    stock = [mask(0, 1), mask(0, 2)]
    book.dealt(0, dealt(*stock))
    book.dealt(1, dealt(mask(1, 7)))
    told(book, stock[:1], (5,))
    assert book.missing(5) == {0: (2,), 1: (7,)}
    assert book.missing(1) == {0: (1, 2)}
    assert book.lacking(0)[5] == (2,)
    assert 0 not in book.lacking(0)
    assert book.is_short(0)
    assert not book.is_short(2)


# --- what is over ------------------------------------------------------------------------------


def test_a_used_mask_is_not_dealt_again(book: HoldingsBook) -> None:
    one = mask(0, 1)
    book.dealt(0, dealt(one))
    told(book, [one], EVERYBODY)
    book.used(0, 1)
    book.dealt(0, dealt(one))  # delivered again
    assert book.is_used(0, 1)
    assert not book.is_ready(0)
    assert book.holders(0, 1) == EVERYBODY  # its update is under way


def test_that_a_mask_was_used_is_known_for_long_but_not_for_ever(book: HoldingsBook) -> None:
    for counter in range(MAX_USED + 1):
        book.used(0, counter)
        book.settled([(0, counter)])
    assert not book.is_used(0, 0)
    assert all(book.is_used(0, counter) for counter in range(1, MAX_USED + 1))


def test_masks_that_a_dealer_names_no_more_are_at_hand_no_more(book: HoldingsBook) -> None:
    lost, new = mask(0, 1), mask(0, 2)
    book.dealt(0, dealt(lost))
    told(book, [lost, new], EVERYBODY)
    book.dealt(0, dealt(new))
    assert book.missing(5) == {}
    assert book.is_ready(0)
    assert not book.was_tested(0, 1)


def test_an_update_that_comes_after_its_mask_was_named_no_more_is_still_held(
    book: HoldingsBook,
) -> None:
    """The dealer used it, dealt another one and said so before its update had come."""
    used, new = mask(0, 1), mask(0, 2)
    book.dealt(0, dealt(used))
    told(book, [used], EVERYBODY)
    book.dealt(0, dealt(new))
    assert book.holders(0, 1) == EVERYBODY


# --- bounds ------------------------------------------------------------------------------------


def num_kept(book: HoldingsBook) -> int:
    return len(book._witnesses) + len(book._judged) + sum(map(len, book._receipts))


def test_a_holder_that_names_masks_without_end_pushes_out_its_own(book: HoldingsBook) -> None:
    one = mask(0, 1)
    book.dealt(0, dealt(one))
    told(book, [one], EVERYBODY)
    size = len(one.receipt(7))
    for start in range(0, 5_000, 1_000):
        counters = tuple(range(10 + start, 1_010 + start))
        book.held(7, Holdings(ROSTER.hash, 0, (0,) * 1_000, counters, bytes(1_000 * size)))
    assert book.holders(0, 1) == EVERYBODY - {7}
    assert num_kept(book) <= MAX_RECEIPTS * 8 + 10


def test_a_dealer_that_names_masks_without_end_is_remembered_by_its_last(
    book: HoldingsBook,
) -> None:
    for counter in range(1_000):
        book.dealt(0, Dealt(ROSTER.hash, (counter,), bytes(16 * 8)))
        book.is_ready(0)
    assert num_kept(book) <= 3


def test_settled_masks_leave_nothing_behind(book: HoldingsBook) -> None:
    for counter in range(100):
        one = mask(0, counter)
        book.dealt(0, dealt(one))
        told(book, [one], EVERYBODY)
        book.used(0, counter)
        assert book.holders(0, counter) == EVERYBODY
        book.settled([(0, counter)])
    assert num_kept(book) == 0


@pytest.mark.parametrize(
    "message",
    [
        Dealt(ROSTER.hash, (1,), b""),
        Dealt(ROSTER.hash, (1, 2), bytes(16 * 8)),
        Holdings(ROSTER.hash, 0, (0,), (), bytes(24)),
        Holdings(ROSTER.hash, 0, (0,), (1,), bytes(23)),
        Holdings(ROSTER.hash, 0, (0, 1), (1,), bytes(24)),
        Holdings(ROSTER.hash, 1, (8,), (1,), bytes(24)),
    ],
)
def test_messages_that_do_not_add_up_are_refused_and_change_nothing(
    book: HoldingsBook, message: Dealt | Holdings
) -> None:
    one = mask(0, 1)
    book.dealt(0, dealt(one))
    told(book, [one], EVERYBODY)
    take = book.dealt if isinstance(message, Dealt) else book.held
    with pytest.raises(RemoteProtocolError) as caught:
        take(0, message)  # type: ignore[arg-type] # each takes its own kind
    assert caught.value.reason == refusals.MALFORMED
    assert book.is_ready(0)
    assert book.holders(0, 1) == EVERYBODY


def test_receipts_that_are_garbage_count_as_none(book: HoldingsBook) -> None:
    one = mask(0, 1)
    told(book, [one], range(7))
    draw = np.random.default_rng(0)
    for _ in range(20):
        noise = draw.bytes(len(one.receipt(7)))
        book.held(7, Holdings(ROSTER.hash, 0, (0,), (1,), noise))
        assert book.holders(0, 1) == set(range(7))
    book.held(7, Holdings(ROSTER.hash, 0, (0,), (1,), b"\xff" * len(one.receipt(7))))
    assert book.holders(0, 1) == set(range(7))
