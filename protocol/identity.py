"""Identities: who certifies them, how every message is signed, how an update is sealed.

An identity is an Ed25519 key (RFC 8032). The operator's enrolment key certifies a device's. What a
signature is for stands before what it signs; for a message that is also the topic, so that nobody
on the way can pass one device's message off as another's, or one topic's as another's. Secret keys
are 32-byte seeds; whoever calls draws them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Final

from nacl.bindings import (
    crypto_box,
    crypto_box_seal_open,
    crypto_box_SEALBYTES,
    crypto_scalarmult_base,
    crypto_sign,
    crypto_sign_BYTES,
    crypto_sign_ed25519_pk_to_curve25519,
    crypto_sign_ed25519_sk_to_curve25519,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError

from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    KEY_BYTES,
    LEASE_ID_BYTES,
    NONCE_BYTES,
    Counter,
    Limit,
    Signature,
    Word,
)

#: What a key may sign, as the bytes that stand before what is signed.
ENVELOPE: Final = b"fedbus/1 envelope\0"
CERTIFICATE: Final = b"fedbus/1 certificate\0"
#: An envelope names the key that signed it by so many bytes of the key's hash.
KEY_ID_BYTES: Final = 8
#: What sealing adds to an update.
SEAL_BYTES: Final = crypto_box_SEALBYTES + LEASE_ID_BYTES

Key = Annotated[bytes, Limit(KEY_BYTES, KEY_BYTES)]


@dataclass(frozen=True, slots=True)
class Certificate:
    """This identity is the device's, in this task; one with a higher ``serial`` takes its place."""

    task: Word
    device: Word
    identity: Key
    serial: Counter


@dataclass(frozen=True, slots=True)
class SignedCertificate:
    """A packed `Certificate`, and the enrolment key's signature over it."""

    body: Annotated[bytes, Limit(1, 300)]
    signature: Signature


# --- signatures ------------------------------------------------------------------------------


def sign(secret: bytes, purpose: bytes, data: bytes) -> bytes:
    """Return the 64-byte signature of the identity ``secret`` over ``data``."""
    return crypto_sign(purpose + data, _key_pair(secret)[1])[:crypto_sign_BYTES]


def check_signature(public: bytes, purpose: bytes, data: bytes, signature: bytes) -> None:
    """Raise RemoteProtocolError (``bad_signature``) unless ``public`` signed it."""
    if len(public) != KEY_BYTES or len(signature) != crypto_sign_BYTES:
        raise _bad_signature()
    try:
        crypto_sign_open(signature + purpose + data, public)
    except (CryptoError, ValueError, TypeError):
        raise _bad_signature() from None


def identity_public(secret: bytes) -> bytes:
    """Return the public key of an identity."""
    return _key_pair(secret)[0]


def key_id(public: bytes) -> bytes:
    """Return what an envelope names a key by."""
    return blake2b(public, digest_size=KEY_ID_BYTES).digest()


# --- certificates ----------------------------------------------------------------------------


def certify(certificate: Certificate, enrolment_secret: bytes) -> bytes:
    """Return a certificate as it travels, signed by the operator's enrolment key."""
    body = pack(certificate)
    return pack(SignedCertificate(body, sign(enrolment_secret, CERTIFICATE, body)))


def open_certificate(data: bytes, enrolment_key: bytes) -> Certificate:
    """Return a certificate that the operator signed.

    Raises RemoteProtocolError: ``malformed`` or ``bad_signature``.
    """
    signed = unpack(data, SignedCertificate)
    check_signature(enrolment_key, CERTIFICATE, signed.body, signed.signature)
    return unpack(signed.body, Certificate)


# --- messages --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """Signs what one party says on topics below ``prefix``."""

    secret: bytes
    prefix: str

    @property
    def key_id(self) -> bytes:
        """What its envelopes name the key by."""
        return _own_key_id(self.secret)

    def on(self, topic: str) -> Callable[[bytes], bytes]:
        """Return what makes the signature of an envelope that goes to ``topic``."""
        purpose = _purpose(topic, self.prefix)
        return lambda data: sign(self.secret, purpose, data)


def check_envelope(public: bytes, payload: bytes, *, topic: str, prefix: str) -> None:
    """Check the signature that an envelope from ``topic`` ends with.

    Raises RemoteProtocolError (``bad_signature``).
    """
    signed, signature = payload[:-crypto_sign_BYTES], payload[-crypto_sign_BYTES:]
    check_signature(public, _purpose(topic, prefix), signed, signature)


def _purpose(topic: str, prefix: str) -> bytes:
    """A gateway may hang the tree elsewhere: what is signed is the topic below the prefix."""
    return ENVELOPE + topic.removeprefix(f"{prefix}/").encode() + b"\0"


# --- sealing ---------------------------------------------------------------------------------


def seal(data: bytes, public: bytes, seed: bytes, lease_id: bytes) -> bytes:
    """Return ``data`` for the owner of an identity alone: libsodium's sealed box.

    The lease stands inside: else whoever sees the box could send it on as an update of its own, and
    one device's data would be in a sum twice. ``seed`` is 32 secret bytes that are used for nothing
    else. `SEAL_BYTES` longer than ``data``.
    """
    _check_length(seed)
    to, own = crypto_sign_ed25519_pk_to_curve25519(public), crypto_scalarmult_base(seed)
    nonce = blake2b(own + to, digest_size=NONCE_BYTES).digest()
    return own + crypto_box(lease_id + data, nonce, to, seed)


def unseal(data: bytes, secret: bytes, lease_id: bytes) -> bytes:
    """Return what was sealed for this identity, under this lease.

    Raises RemoteProtocolError (``malformed``).
    """
    try:
        opened = crypto_box_seal_open(data, *_box_keys(secret))
    except (CryptoError, ValueError, TypeError):
        raise RemoteProtocolError(refusals.MALFORMED, "not sealed for this aggregator") from None
    if opened[:LEASE_ID_BYTES] != lease_id:
        raise RemoteProtocolError(refusals.MALFORMED, "sealed under another lease")
    return opened[LEASE_ID_BYTES:]


# --- keys ------------------------------------------------------------------------------------


@lru_cache(maxsize=4)  # who signs a message has signed others, and will
def _key_pair(secret: bytes) -> tuple[bytes, bytes]:
    _check_length(secret)
    return crypto_sign_seed_keypair(secret)


@lru_cache(maxsize=4)
def _own_key_id(secret: bytes) -> bytes:
    return key_id(identity_public(secret))


@lru_cache(maxsize=1)
def _box_keys(secret: bytes) -> tuple[bytes, bytes]:
    public, pair = _key_pair(secret)
    return crypto_sign_ed25519_pk_to_curve25519(public), crypto_sign_ed25519_sk_to_curve25519(pair)


def _check_length(secret: bytes) -> None:
    if len(secret) != KEY_BYTES:
        raise LocalProtocolError(f"a secret key has {KEY_BYTES} bytes, not {len(secret)}")


def _bad_signature() -> RemoteProtocolError:
    reason = refusals.BAD_SIGNATURE
    return RemoteProtocolError(reason, refusals.MEANING[reason])
