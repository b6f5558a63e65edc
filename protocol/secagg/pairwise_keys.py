"""`pairwise`, steps 1 and 2: a round's keys, and the shares of what removes a device's masks.

All secrets of a device in one round come from one 32-byte seed, so that this is all it stores, and
so that whatever is made again after a restart is the same again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import KEY_BYTES
from protocol.secagg import field, graph, keys, shamir
from protocol.secagg.field import Q31
from protocol.secagg.roster import Roster
from protocol.stream import derive

#: Purpose of a signature (`keys.sign`).
ADVERTISEMENT: Final = b"fedbus/1 pairwise advertisement\0"
#: Shares of one dealer for one holder: of its mask key, then of its self mask's seed.
PAIR_BYTES: Final = 2 * shamir.SHARE_BYTES
#: The same, sealed.
SEALED_BYTES: Final = PAIR_BYTES + 16
PUBLICS_BYTES: Final = 3 * KEY_BYTES

_NONCE: Final = bytes(24)  # every box has a key of its own, which encrypts one message
_NO_SEED: Final = bytes(KEY_BYTES)


@dataclass(frozen=True)
class Round:
    """Round ``number`` of the cohort of ``roster``; no number is ever used again."""

    roster: Roster
    number: int

    @cached_property
    def context(self) -> tuple[str, bytes, int]:
        """What everything derived in this round depends on."""
        return self.roster.task, self.roster.hash, self.number

    @cached_property
    def graph(self) -> graph.Graph:
        """Who masks with whom."""
        seed = derive(self.roster.public_seed, "pairwise graph", self.number)
        given = self.roster.parameters
        return graph.graph(seed, given.num_devices, given.num_malicious, given.num_answers)

    @property
    def quorum(self) -> int:
        """More than half of the roster and of those who may lie: (N + t) / 2 < T + 1."""
        return self.roster.parameters.num_noise + 1

    def dealers_of(self, holder: int, dealers: Sequence[int]) -> tuple[int, ...]:
        """Return those of ``dealers`` that dealt to ``holder``, itself among them."""
        near = self.graph.holders(holder)
        return tuple(dealer for dealer in dealers if dealer in near)


@dataclass(frozen=True, slots=True)
class Publics:
    """What a device advertises: two X25519 keys, and a commitment to its self mask's seed."""

    box_key: bytes
    mask_key: bytes
    commitment: bytes

    def to_bytes(self) -> bytes:
        """Return the 96 bytes that are signed and hashed."""
        return self.box_key + self.mask_key + self.commitment

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote: `PUBLICS_BYTES`."""
        return cls(*split(data, KEY_BYTES, 3))


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a device keeps for one round; all of it comes from one seed (`make_keys`)."""

    box_key: bytes
    mask_key: bytes
    self_seed: bytes
    share_seed: bytes

    def publics(self) -> Publics:
        """Return what may be known of it."""
        return Publics(
            keys.epoch_public(self.box_key),
            keys.epoch_public(self.mask_key),
            commit(self.self_seed),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """The part that the device with index ``own`` has in a round."""

    round: Round
    own: int
    secrets: Secrets


def make_keys(seed: bytes) -> Secrets:
    """Return the secrets of a device in one round, from 32 bytes that are fresh for it."""
    names = ("box key", "mask key", "self seed", "share seed")
    return Secrets(*(derive(seed, "pairwise", name) for name in names))


def keys_message(round_: Round, device: int, publics: Publics) -> bytes:
    """Return what ``device`` signs for `ADVERTISEMENT`."""
    return derive(_NO_SEED, *round_.context, device, publics.to_bytes())


def agree(
    round_: Round, secret: bytes, public: bytes, purpose: str, pair: tuple[int, int]
) -> bytes:
    """Return the 32-byte seed that two devices share in this round, for one purpose only.

    Both name the two in the same order. Raises RemoteProtocolError (``malformed``) for a key that
    no honest device has.
    """
    return keys.agree(secret, public, "pairwise", purpose, *round_.context, *pair)


def make_shares(part: Part) -> dict[int, bytes]:
    """Return the `PAIR_BYTES` that each holder gets, its own among them; always the same ones."""
    net, secrets = part.round.graph, part.secrets
    holders = net.holders(part.own)
    points = tuple(holder + 1 for holder in holders)
    both = (secrets.mask_key, secrets.self_seed)
    rows = shamir.deal(both, points, net.threshold, secrets.share_seed)
    return {holder: field.to_bytes(row, Q31) for holder, row in zip(holders, rows, strict=True)}


def seal(part: Part, holder: int, public: Publics, pair: bytes) -> bytes:
    """Encrypt the shares for ``holder`` (XChaCha20-Poly1305); call it for `make_shares` only."""
    key = agree(part.round, part.secrets.box_key, public.box_key, "box", (part.own, holder))
    return crypto_aead_xchacha20poly1305_ietf_encrypt(pair, None, _NONCE, key)


def open_sealed(part: Part, dealer: int, public: Publics, sealed: bytes) -> bytes:
    """Return the shares that ``dealer`` sealed for us.

    Raises RemoteProtocolError: ``bad_signature`` if it did not, ``malformed`` if these are none.
    """
    key = agree(part.round, part.secrets.box_key, public.box_key, "box", (dealer, part.own))
    try:
        pair = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, None, _NONCE, key)
    except (CryptoError, ValueError):
        detail = "shares that were not sealed by this dealer for this holder"
        raise RemoteProtocolError(refusals.BAD_SIGNATURE, detail) from None
    field.from_bytes(pair, Q31, 2 * shamir.LIMBS)
    return pair


def pair_seed(round_: Round, own: int, mask_key: bytes, other: int, public: Publics) -> bytes:
    """Return the seed of the mask between two neighbours, from the secret key of one of them."""
    return agree(round_, mask_key, public.mask_key, "mask", (min(own, other), max(own, other)))


def split(data: bytes, size: int, count: int) -> list[bytes]:
    """Return ``count`` pieces of ``size`` bytes. Raises RemoteProtocolError (``malformed``)."""
    if len(data) != size * count:
        raise RemoteProtocolError(refusals.MALFORMED, f"{len(data)} bytes, not {size * count}")
    return [data[at : at + size] for at in range(0, len(data), size)]


def commit(self_seed: bytes) -> bytes:
    """Return the commitment to the seed of a self mask."""
    return derive(self_seed, "pairwise commitment")
