"""Sealed shares: from this dealer, for this holder, under this roster, or refused."""

import contextlib
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from protocol import refusals
from protocol.codec import encode, pack, unpack
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import ENVELOPE
from protocol.messages import CHUNK_BYTES, MAX_COHORT
from protocol.secagg import keys
from protocol.secagg.consistency import commitment_to
from protocol.secagg.messages import Shares
from protocol.secagg.roster import Roster
from protocol.secagg.sealing import (
    Boxes,
    ShareBatch,
    _header,
    _key,
    _SignedBatch,
    commit,
    digest,
    open_shares,
    seal,
)
from tests.support.enrolment import Cohort, cohort
from tests.support.messages import of_class

DEVICES = ("a", "b", "c", "d", "e")
COHORT = cohort(DEVICES)
ROSTER = COHORT.roster
NONCE = bytes(range(24))
BATCH = ShareBatch("t", ROSTER.hash, 1, 0, 1, (7, 8), bytes(64), b"rows of two masks.")
#: The header inside, a field at a time: what a dealer could lie about.
LIES: dict[str, Any] = {
    "task": "u",
    "roster_hash": bytes(32),
    "epoch": 2,
    "dealer": 2,
    "holder": 2,
}


def sealed(batch: ShareBatch = BATCH, enrolled: Cohort = COHORT, **changes: bytes) -> Shares:
    dealer = enrolled.roster.members[batch.dealer].device
    given = {
        "identity": enrolled.identity(dealer),
        "epoch_secret": enrolled.epoch_secret(dealer),
        "nonce": NONCE,
    }
    return seal(enrolled.roster, batch, **{**given, **changes})


def encrypted(plain: bytes, dealer: int = 0, holder: int = 1) -> Shares:
    """Seal any bytes as a dealer can that has another program."""
    secret = COHORT.epoch_secret(DEVICES[dealer])
    key = _key(ROSTER, dealer, holder, secret, own=dealer)
    header = _header(ROSTER, dealer, holder)
    boxed = crypto_aead_xchacha20poly1305_ietf_encrypt(plain, header, NONCE, key)
    return Shares(ROSTER.hash, NONCE, boxed)


def signed(body: bytes, identity: bytes | None = None, purpose: bytes = keys.SHARES) -> bytes:
    """Sign any bytes, as what a holder takes them for."""
    secret = COHORT.identity("a") if identity is None else identity
    said = bytes(32)
    with contextlib.suppress(RemoteProtocolError):
        said = digest(body, commit(ROSTER, unpack(body, ShareBatch)))
    return pack(_SignedBatch(body, keys.sign(secret, purpose, said)))


def opened(
    shares: Shares, *, dealer: int = 0, holder: int = 1, by: str = "", roster: Roster = ROSTER
) -> ShareBatch:
    secret = COHORT.epoch_secret(by or DEVICES[holder])
    return open_shares(roster, shares, dealer=dealer, holder=holder, epoch_secret=secret)


def reason(shares: Shares, **places: Any) -> str:
    with pytest.raises(RemoteProtocolError) as refused:
        opened(shares, **places)
    return refused.value.reason


def test_the_holder_reads_what_the_dealer_sealed() -> None:
    assert opened(sealed()) == BATCH


@pytest.mark.parametrize("by", ["a", "c", "d", "e"])
def test_nobody_but_the_holder_reads_them_as_the_holder(by: str) -> None:
    # The dealer shares the key; that it can read what it wrote takes nothing from anybody.
    assert reason(sealed(), by=by) == refusals.BAD_SIGNATURE


@pytest.mark.parametrize("holder", [0, 2, 3, 4])
def test_shares_are_for_one_holder(holder: int) -> None:
    assert reason(sealed(), holder=holder) == refusals.BAD_SIGNATURE


@pytest.mark.parametrize("dealer", [1, 2, 3, 4])
def test_shares_are_from_one_dealer(dealer: int) -> None:
    """The broker puts the message on another device's topic."""
    assert reason(sealed(), dealer=dealer) == refusals.BAD_SIGNATURE


def test_shares_cannot_be_sent_back_to_their_dealer() -> None:
    """The two epoch keys agree on one secret; each direction has a key of its own."""
    assert reason(sealed(), dealer=1, holder=0) == refusals.BAD_SIGNATURE


@given(st.data())
def test_no_byte_on_the_way_can_be_changed(data: Any) -> None:
    shares = sealed()
    field = data.draw(st.sampled_from(("roster_hash", "nonce", "sealed")))
    raw = bytearray(getattr(shares, field))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    wanted = refusals.WRONG_ROSTER if field == "roster_hash" else refusals.BAD_SIGNATURE
    assert reason(replace(shares, **{field: bytes(raw)})) == wanted


@given(st.integers(0, 200))
def test_shares_cut_off_are_refused(length: int) -> None:
    shares = sealed()
    cut = replace(shares, sealed=shares.sealed[: min(length, len(shares.sealed) - 1)])
    assert reason(cut) == refusals.BAD_SIGNATURE


def test_shares_of_another_epoch_are_refused_even_with_its_hash_replaced() -> None:
    later = cohort(DEVICES, epoch=2)
    batch = replace(BATCH, roster_hash=later.roster.hash, epoch=2)
    shares = sealed(batch, later)
    assert reason(shares) == refusals.WRONG_ROSTER
    assert reason(replace(shares, roster_hash=ROSTER.hash)) == refusals.BAD_SIGNATURE


def test_shares_of_another_roster_with_the_same_keys_are_refused() -> None:
    """The operator changed a number and forgot the epoch: still not the same masks."""
    other = COHORT._replace(roster=replace(ROSTER, valid_s=1))
    shares = sealed(replace(BATCH, roster_hash=other.roster.hash), other)
    assert reason(shares) == refusals.WRONG_ROSTER
    assert reason(replace(shares, roster_hash=ROSTER.hash)) == refusals.BAD_SIGNATURE


@pytest.mark.parametrize("field", LIES)
def test_a_header_inside_that_says_otherwise_is_refused(field: str) -> None:
    body = pack(replace(BATCH, **{field: LIES[field]}))
    assert reason(encrypted(signed(body))) == refusals.WRONG_ROSTER


def test_every_field_of_the_header_was_lied_about() -> None:
    assert set(LIES) == set(ShareBatch.__dataclass_fields__) - {"counters", "roots", "rows"}


def test_a_stolen_epoch_key_seals_nothing_without_the_identity() -> None:
    body = pack(BATCH)
    for identity in (COHORT.identity("b"), COHORT.identity("c"), COHORT.aggregator):
        assert reason(encrypted(signed(body, identity))) == refusals.BAD_SIGNATURE


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": b"rows of two Masks."},
        {"rows": b"rows of two masks" * 2},
        {"roots": bytes(63) + b"\1"},
        {"counters": (7, 9)},
        {"counters": (8, 7)},
    ],
)
def test_a_signature_is_for_every_row_and_root_and_mask(changed: dict[str, Any]) -> None:
    """What the epoch key alone can do with a batch that was signed before."""
    _, signature = msgpack.unpackb(signed(pack(BATCH)))
    body = pack(replace(BATCH, **changed))
    assert reason(encrypted(pack(_SignedBatch(body, signature)))) == refusals.BAD_SIGNATURE
    assert opened(encrypted(pack(_SignedBatch(pack(BATCH), signature)))) == BATCH


def test_rows_of_different_lengths_are_malformed() -> None:
    with pytest.raises(RemoteProtocolError, match="lengths"):
        sealed(replace(BATCH, rows=b"rows of two masks"))
    assert reason(encrypted(signed(pack(replace(BATCH, rows=b"odd"))))) == refusals.MALFORMED


def test_commitments_come_with_what_was_opened() -> None:
    secret = COHORT.epoch_secret("b")
    committed = Boxes(ROSTER, 1, secret).open(sealed(), 0)
    masks = [ROSTER.mask_id(0, counter) for counter in BATCH.counters]
    rows = BATCH.rows[:9], BATCH.rows[9:]
    wanted = [commitment_to(mask, 1, row) for mask, row in zip(masks, rows, strict=True)]
    assert committed.batch == BATCH
    assert list(committed.commitments) == wanted


def test_a_signature_for_another_purpose_is_none() -> None:
    body = pack(BATCH)
    for purpose in (ENVELOPE, keys.EPOCH_KEY, keys.REQUEST, keys.ROSTER):
        assert reason(encrypted(signed(body, purpose=purpose))) == refusals.BAD_SIGNATURE


@pytest.mark.parametrize(
    "batch",
    [
        replace(BATCH, roots=bytes(32)),
        replace(BATCH, roots=bytes(96)),
        replace(BATCH, roots=bytes(63)),
        replace(BATCH, counters=(7, 7)),
    ],
)
def test_a_batch_has_a_root_for_each_mask_and_each_mask_once(batch: ShareBatch) -> None:
    assert reason(sealed(batch)) == refusals.MALFORMED


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc0", msgpack.packb([]), pack(BATCH) + b"\0", msgpack.packb(["t", 1, 2])],
)
def test_a_signed_body_that_is_no_batch_is_malformed(body: bytes) -> None:
    assert reason(encrypted(signed(body))) == refusals.MALFORMED


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_garbage_is_refused_and_raises_nothing_else(garbage: bytes, nonce: bytes) -> None:
    assert reason(Shares(ROSTER.hash, NONCE, garbage)) == refusals.BAD_SIGNATURE
    assert reason(Shares(ROSTER.hash, nonce, garbage)) == refusals.BAD_SIGNATURE
    assert reason(encrypted(garbage)) in {refusals.MALFORMED, refusals.BAD_SIGNATURE}
    assert reason(encrypted(signed(garbage))) == refusals.MALFORMED


@given(of_class(ShareBatch))
def test_any_signed_batch_opens_or_is_refused(batch: ShareBatch) -> None:
    with contextlib.suppress(RemoteProtocolError):
        opened(encrypted(signed(pack(batch))))
    right = replace(batch, task="t", roster_hash=ROSTER.hash, epoch=1, dealer=0, holder=1)
    with contextlib.suppress(RemoteProtocolError):
        assert opened(encrypted(signed(pack(right)))) == right


def test_one_nonce_and_key_for_each_direction_and_roster() -> None:
    later = cohort(DEVICES, epoch=2).roster
    secret, other = COHORT.epoch_secret("a"), COHORT.epoch_secret("b")
    given_keys = {
        _key(ROSTER, 0, 1, secret, own=0),
        _key(ROSTER, 1, 0, secret, own=0),
        _key(ROSTER, 0, 2, secret, own=0),
        _key(later, 0, 1, secret, own=0),
    }
    assert len(given_keys) == 4
    assert _key(ROSTER, 0, 1, other, own=1) == _key(ROSTER, 0, 1, secret, own=0)


def test_the_largest_cohort_fits_a_packet() -> None:
    """A stock of 16 masks of 1024 4-byte elements, in blocks of U - T, and 4 test elements each."""
    names = [f"{number:03}" + "x" * 61 for number in range(MAX_COHORT)]
    enrolled = cohort(names, "t" * 64)
    given = enrolled.roster.parameters
    num_columns = -(-1024 // (given.num_answers - given.num_noise)) + 4
    batch = ShareBatch(
        task="t" * 64,
        roster_hash=enrolled.roster.hash,
        epoch=1,
        dealer=126,
        holder=127,
        counters=tuple(range(1 << 62, (1 << 62) + 16)),
        roots=bytes(32 * 16),
        rows=bytes(4 * num_columns * 16),
    )
    data = encode(sealed(batch, enrolled), task="t" * 64, sender=names[126], counter=1 << 62)
    assert len(data) < CHUNK_BYTES


def test_more_rows_than_a_message_holds_are_our_bug() -> None:
    with pytest.raises(LocalProtocolError, match="rows"):
        sealed(replace(BATCH, rows=bytes(60_002)))
