"""Keys of devices, aggregator and enrolment in secure tasks: what each signs, agreed keys.

Identities sign as in `protocol.identity`; X25519 (RFC 7748, libsodium's) agrees on keys. What a
signature is for stands before what it signs, so that none can be passed off as another. Secret keys
are 32-byte seeds; whoever calls draws them.
"""

from typing import Final

from nacl.bindings import crypto_box_beforenm, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import check_signature, identity_public, sign
from protocol.messages import KEY_BYTES
from protocol.stream import derive

__all__ = ["check_signature", "identity_public", "sign"]  # beside what is defined here

#: What a key may sign, as the bytes that stand before what is signed.
ROSTER: Final = b"fedbus/1 roster\0"
EPOCH_KEY: Final = b"fedbus/1 epoch key\0"
SHARES: Final = b"fedbus/1 shares\0"
REQUEST: Final = b"fedbus/1 recovery request\0"


def epoch_public(secret: bytes) -> bytes:
    """Return the public key of an epoch secret."""
    _check_length(secret)
    return crypto_scalarmult_base(secret)


def check_epoch_key(public: bytes) -> None:
    """Raise RemoteProtocolError (``malformed``) for a key that nothing can be agreed with."""
    agree(b"\1" * KEY_BYTES, public)


def endorsed(task: str, epoch: int, public: bytes) -> bytes:
    """Return what an identity signs to make an epoch key its own."""
    return derive(bytes(KEY_BYTES), "epoch key", task, epoch, public)


def agree(secret: bytes, public: bytes, *context: str | bytes | int) -> bytes:
    """Return the 32-byte key that two devices share for the purpose that ``context`` names.

    Raises RemoteProtocolError (``malformed``) for a public key that no honest device has.
    """
    _check_length(secret)
    try:
        shared = crypto_box_beforenm(public, secret)
    except (CryptoError, ValueError, TypeError):
        raise RemoteProtocolError(refusals.MALFORMED, "an epoch key that is none") from None
    return derive(shared, "agreed", *context)


def _check_length(secret: bytes) -> None:
    if len(secret) != KEY_BYTES:
        raise LocalProtocolError(f"a secret key has {KEY_BYTES} bytes, not {len(secret)}")
