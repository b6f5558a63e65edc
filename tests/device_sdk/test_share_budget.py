"""A member that writes to another on and on: dropped unread beyond a burst, and nobody else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.budget import BURST, PER_S, Budget
from device_sdk.holding import SHARE
from protocol import refusals
from protocol.codec import encode
from protocol.errors import RemoteProtocolError
from protocol.messages import HASH_BYTES, MAX_STOCK
from protocol.secagg.messages import Shares
from protocol.secagg.sealing import Boxes, ShareBatch, commit
from tests.support.circle import NAMES, Circle

ROW_BYTES = 516 * 4


def joined() -> Circle:
    circle = Circle(stock=2)
    circle.join()
    return circle


def dealt_by_b(circle: Circle, first: int, count: int = 1) -> bytes:
    """Return shares that are right, of masks numbered from ``first``, as ``b`` seals them."""
    roster = circle.cohort.roster
    counters = tuple(range(first, first + count))
    roots, rows = bytes(HASH_BYTES * count), bytes(ROW_BYTES * count)
    batch = ShareBatch("t", roster.hash, roster.epoch, 1, 0, counters, roots, rows)
    shares = Boxes(roster, 1, circle.cohort.epoch_secret("b")).seal(
        commit(roster, batch), identity=circle.cohort.identity("b"), nonce=bytes(24)
    )
    return encode(shares, task="t", sender="b", counter=first)


def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the dealers whose boxes a device tries to open from now on."""
    dealers: list[int] = []
    original = Boxes.open

    def watched(self: Boxes, shares: Shares, dealer: int) -> object:
        dealers.append(dealer)
        return original(self, shares, dealer)

    monkeypatch.setattr(Boxes, "open", watched)
    return dealers


@given(st.lists(st.tuples(st.floats(0.0, 20.0), st.integers(1, MAX_STOCK)), max_size=80))
def test_no_more_is_let_through_than_a_burst_and_the_rate(said: list[tuple[float, int]]) -> None:
    budget, now, num_masks = Budget(), 0.0, 0
    for wait_s, count in said:
        now += wait_s
        try:
            budget.admit(1, now)
        except RemoteProtocolError:
            continue
        budget.charge(1, count, now)
        num_masks += count
        assert num_masks <= BURST + PER_S * now + MAX_STOCK


@given(st.lists(st.floats(1 / PER_S, 100.0), max_size=100))
def test_who_uses_a_mask_now_and_then_is_never_dropped(waits: list[float]) -> None:
    budget, now = Budget(), 0.0
    for wait_s in waits:
        now += wait_s
        budget.admit(1, now)
        budget.charge(1, 1, now)


def test_garbage_of_a_member_is_not_read_beyond_its_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    circle = joined()
    ada, tries = circle["a"], opened(monkeypatch)
    sealed = Shares(circle.cohort.roster.hash, bytes(24), bytes(60_000))
    payload = encode(sealed, task="t", sender="b", counter=1)
    for _ in range(400):
        ada.receive(ada.topics.share("a", "b"), payload)
    assert len(tries) < BURST
    counts = ada.session.counts
    assert counts[f"refused_{refusals.OVER_BUDGET}"] == 400 - len(tries)
    ada.now += 60
    for _ in range(400):
        ada.receive(ada.topics.share("a", "b"), payload)
    assert len(tries) <= BURST + 60 * PER_S


def test_what_a_stranger_writes_is_not_even_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    circle = joined()
    ada, tries = circle["a"], opened(monkeypatch)
    for number in range(500):
        ada.receive(ada.topics.share("a", f"zoe-{number}"), b"\xff" * 1_000)
    assert tries == []
    assert ada.session.counts[f"refused_{refusals.WRONG_SENDER}"] == 500


def test_right_shares_without_end_wear_out_no_flash() -> None:
    """The worst that a member can do: each message brings masks that were never seen."""
    circle = joined()
    ada = circle["a"]
    written = sum(1 for action in ada.log if getattr(action, "key", "").startswith(SHARE))
    for number in range(40):
        ada.receive(ada.topics.share("a", "b"), dealt_by_b(circle, 1 << 40 | 16 * number, 16))
    touched = sum(1 for action in ada.log if getattr(action, "key", "").startswith(SHARE))
    # One write and, MAX_STOCK later, one deletion a mask.
    assert touched - written <= 2 * (BURST + MAX_STOCK)
    held = [key for key in ada.flash if key.startswith(f"{SHARE}1-")]
    assert len(held) == MAX_STOCK


def test_a_flood_of_one_member_keeps_no_other_from_dealing() -> None:
    circle = joined()
    for _ in range(400):
        circle["a"].receive(circle["a"].topics.share("a", "b"), b"\xff")
    circle.restart("c")
    index = NAMES.index("c")
    held = {key for key in circle["a"].flash if key.startswith(f"{SHARE}{index}-")}
    assert len(held) == 4  # of its two lives
