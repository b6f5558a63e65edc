"""Keys of devices, aggregator and enrolment: signatures, agreed keys, and what each is for.

Ed25519 (RFC 8032) signs, X25519 (RFC 7748) agrees on keys; both are libsodium's. What a signature
is for stands before what it signs, so that none can be passed off as another. Secret keys are
32-byte seeds; whoever calls draws them.
"""

from functools import lru_cache
from typing import Final

from nacl.bindings import crypto_box_beforenm, crypto_scalarmult_base
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey

from protocol import refusals
from protocol.codec import split_signature
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import KEY_BYTES
from protocol.stream import derive

#: What a key may sign, as the bytes that stand before what is signed.
ROSTER: Final = b"fedbus/1 roster\0"
EPOCH_KEY: Final = b"fedbus/1 epoch key\0"
SHARES: Final = b"fedbus/1 shares\0"
REQUEST: Final = b"fedbus/1 recovery request\0"
ENVELOPE: Final = b"fedbus/1 envelope\0"


def sign(secret: bytes, purpose: bytes, data: bytes) -> bytes:
    """Return the 64-byte signature of the identity ``secret`` over ``data``."""
    _check_length(secret)
    return _signing_key(secret).sign(purpose + data).signature


def check_signature(public: bytes, purpose: bytes, data: bytes, signature: bytes) -> None:
    """Raise RemoteProtocolError (``bad_signature``) unless ``public`` signed it."""
    try:
        VerifyKey(public).verify(purpose + data, signature)
    except (BadSignatureError, CryptoError, ValueError, TypeError):
        raise RemoteProtocolError(
            refusals.BAD_SIGNATURE, refusals.MEANING[refusals.BAD_SIGNATURE]
        ) from None


def check_envelope(public: bytes, data: bytes) -> None:
    """Check a message's own signature. Raises RemoteProtocolError (``bad_signature``)."""
    signed, signature = split_signature(data)
    check_signature(public, ENVELOPE, signed, signature)


def identity_public(secret: bytes) -> bytes:
    """Return the public key of an identity."""
    _check_length(secret)
    return bytes(_signing_key(secret).verify_key)


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


@lru_cache(maxsize=2)  # who signs a message has signed others, and will
def _signing_key(secret: bytes) -> SigningKey:
    return SigningKey(secret)


def _check_length(secret: bytes) -> None:
    if len(secret) != KEY_BYTES:
        raise LocalProtocolError(f"a secret key has {KEY_BYTES} bytes, not {len(secret)}")
