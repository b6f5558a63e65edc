"""Shares on their way from a dealer to a holder: signed inside, sealed outside.

A batch holds the holder's shares of several masks. The dealer signs it, with the commitments to the
shares in their place, which holder and dealer need anyway. Then it is encrypted with
XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) under the key that X25519 gives the two epoch keys
(so it can come from nobody else, which a sealed box would not prove), the header authenticated
with it. The header is inside too, and compared.
"""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import RemoteProtocolError
from protocol.messages import (
    HASH_BYTES,
    MAX_STOCK,
    Hash,
    Limit,
    Member,
    Signature,
    Small,
    Stock,
    Word,
)
from protocol.secagg import keys
from protocol.secagg.consistency import commitment_to
from protocol.secagg.messages import Shares
from protocol.secagg.roster import Roster


@dataclass(frozen=True, slots=True)
class ShareBatch:
    """The shares of masks ``counters`` of one dealer for one holder.

    ``roots`` has the 32-byte root of each mask's commitments, ``rows`` its share as field
    elements, mask after mask.
    """

    task: Word
    roster_hash: Hash
    epoch: Annotated[int, Limit(1, 1 << 31)]
    dealer: Member
    holder: Member
    counters: Stock
    roots: Annotated[bytes, Limit(HASH_BYTES, HASH_BYTES * MAX_STOCK)]
    rows: Small


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch, and the commitment (`protocol.secagg.consistency`) to each of its rows."""

    batch: ShareBatch
    commitments: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _SignedBatch:
    body: Small
    signature: Signature


class Boxes:
    """The boxes of one member, to and from all others, while an epoch lasts.

    The key that a pair agrees on is made once for each direction, and forgotten with this.
    """

    def __init__(self, roster: Roster, own: int, epoch_secret: bytes) -> None:
        self._roster = roster
        self._own = own
        self._epoch_secret = epoch_secret
        self._keys: dict[tuple[int, int], bytes] = {}

    def seal(self, committed: Committed, *, identity: bytes, nonce: bytes) -> Shares:
        """Return our batch for its holder; ``nonce`` is 24 bytes used once in this epoch."""
        batch = committed.batch
        body = pack(batch)
        signed = _SignedBatch(body, keys.sign(identity, keys.SHARES, digest(body, committed)))
        header = _header(self._roster, batch.dealer, batch.holder)
        key = self._key(batch.dealer, batch.holder)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(pack(signed), header, nonce, key)
        return Shares(self._roster.hash, nonce, sealed)

    def open(self, shares: Shares, dealer: int) -> Committed:
        """Return what ``dealer`` sealed for us.

        Raises RemoteProtocolError: ``wrong_roster``, ``bad_signature`` for anything that was not
        made by this dealer for us, ``malformed``.
        """
        roster, holder = self._roster, self._own
        if shares.roster_hash != roster.hash:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "shares of another roster")
        key, header = self._key(dealer, holder), _header(roster, dealer, holder)
        try:
            opened = crypto_aead_xchacha20poly1305_ietf_decrypt(
                shares.sealed, header, shares.nonce, key
            )
        except (CryptoError, ValueError):
            raise RemoteProtocolError(
                refusals.BAD_SIGNATURE, "shares that were not sealed by this dealer for this holder"
            ) from None
        signed = unpack(opened, _SignedBatch)
        batch = unpack(signed.body, ShareBatch)
        committed = commit(roster, batch)
        said = digest(signed.body, committed)
        identity = roster.members[dealer].identity
        keys.check_signature(identity, keys.SHARES, said, signed.signature)
        named = (batch.task, batch.roster_hash, batch.epoch, batch.dealer, batch.holder)
        if named != (roster.task, roster.hash, roster.epoch, dealer, holder):
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "the shares inside name somebody else")
        if len(batch.roots) != HASH_BYTES * len(batch.counters):
            raise RemoteProtocolError(refusals.MALFORMED, "not a root for each mask")
        if len(set(batch.counters)) != len(batch.counters):
            raise RemoteProtocolError(refusals.MALFORMED, "a mask twice")
        return committed

    def _key(self, dealer: int, holder: int) -> bytes:
        key = self._keys.get((dealer, holder))
        if key is None:
            key = _key(self._roster, dealer, holder, self._epoch_secret, own=self._own)
            self._keys[dealer, holder] = key
        return key


def seal(
    roster: Roster, batch: ShareBatch, *, identity: bytes, epoch_secret: bytes, nonce: bytes
) -> Shares:
    """`Boxes.seal`, for one box."""
    boxes = Boxes(roster, batch.dealer, epoch_secret)
    return boxes.seal(commit(roster, batch), identity=identity, nonce=nonce)


def open_shares(
    roster: Roster, shares: Shares, *, dealer: int, holder: int, epoch_secret: bytes
) -> ShareBatch:
    """`Boxes.open`, for one box."""
    return Boxes(roster, holder, epoch_secret).open(shares, dealer).batch


def _key(roster: Roster, dealer: int, holder: int, secret: bytes, *, own: int) -> bytes:
    other = roster.members[holder if own == dealer else dealer].epoch_key
    return keys.agree(secret, other, "shares", roster.hash, dealer, holder)


def _header(roster: Roster, dealer: int, holder: int) -> bytes:
    return roster.hash + dealer.to_bytes(2, "little") + holder.to_bytes(2, "little")


def commit(roster: Roster, batch: ShareBatch) -> Committed:
    """Compute the commitments to a batch's rows.

    Raises RemoteProtocolError (``malformed``) for rows that are not of one length.
    """
    size, rest = divmod(len(batch.rows), len(batch.counters))
    if rest:
        raise RemoteProtocolError(refusals.MALFORMED, "rows of different lengths")
    rows = (batch.rows[at * size :][:size] for at in range(len(batch.counters)))
    return Committed(
        batch,
        tuple(
            commitment_to(roster.mask_id(batch.dealer, counter), batch.holder, row)
            for counter, row in zip(batch.counters, rows, strict=True)
        ),
    )


def digest(body: bytes, committed: Committed) -> bytes:
    """Return what is signed: BLAKE2b-256 of the batch's bytes, commitments in place of its rows.

    The rows are the last bytes of ``body``. Ed25519 would go over all of them, twice.
    """
    said = blake2b(body[: len(body) - len(committed.batch.rows)], digest_size=HASH_BYTES)
    said.update(b"".join(committed.commitments))
    return said.digest()
