"""A dealer that chooses the root of its test, and fits inconsistent shares to it."""

import numpy as np

from aggregator.holdings import HoldingsBook
from protocol.secagg import scheme
from protocol.secagg.consistency import (
    commitment,
    commitments,
    consistent_holders,
    receipt,
    root,
    witness,
)
from protocol.secagg.field import Elements, matmul, uniform
from protocol.secagg.messages import Dealt, Holdings
from protocol.secagg.shares import TEST_COLUMNS, deal
from protocol.stream import derive
from tests.support.enrolment import cohort

NAMES = tuple(f"device-{number:02}" for number in range(12))
GIVEN = cohort(NAMES, num_noise=6, num_answers=8).roster  # N, t, T, U = 12, 1, 6, 8
SHARING = scheme("seedmask").sharing(GIVEN.parameters)
P = SHARING.modulus
DEALER, VICTIM, COUNTER = 0, 5, 7
CHOSEN = bytes(range(32))


def fitted() -> Elements:
    """Rows of which the victim's is off, yet passes the test that ``CHOSEN`` makes."""
    rows = deal(np.arange(1024), SHARING, bytes(32))
    size = rows.shape[1] - TEST_COLUMNS
    factors = uniform(derive(CHOSEN, "receipt"), (TEST_COLUMNS, size), P)
    passed = rows[VICTIM, size:] + matmul(factors, rows[VICTIM, :size], P)
    rows[VICTIM, 0] += 1
    rows[VICTIM, size:] = (passed - matmul(factors, rows[VICTIM, :size], P)) % P
    return rows


def book(rows: Elements, test_root: bytes) -> HoldingsBook:
    """What the aggregator knows when every holder was given this root."""
    made = HoldingsBook(GIVEN, SHARING)
    mask_id = GIVEN.mask_id(DEALER, COUNTER)
    made.dealt(DEALER, Dealt(GIVEN.hash, (COUNTER,), b"".join(commitments(mask_id, rows, P))))
    for holder, row in enumerate(rows):
        said = receipt(test_root, row, P)
        said += witness(commitment(mask_id, holder, row, P), test_root)
        made.held(holder, Holdings(GIVEN.hash, 1, (DEALER,), (COUNTER,), said))
    return made


def test_a_root_that_was_chosen_first_would_hide_an_inconsistent_share() -> None:
    """The control: without witnesses the victim would be named for its dealer's lie."""
    receipts = {holder: receipt(CHOSEN, row, P) for holder, row in enumerate(fitted())}
    assert consistent_holders(receipts, SHARING) == frozenset(range(12))


def test_holders_that_were_given_another_root_do_not_count() -> None:
    assert book(fitted(), CHOSEN).holders(DEALER, COUNTER) == frozenset()


def test_under_the_right_root_only_the_victim_is_left_out() -> None:
    rows = fitted()
    right = root(
        GIVEN.mask_id(DEALER, COUNTER), commitments(GIVEN.mask_id(DEALER, COUNTER), rows, P)
    )
    assert book(rows, right).holders(DEALER, COUNTER) == frozenset(range(12)) - {VICTIM}
