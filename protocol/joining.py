"""How a device that has made its own keys gets certificates for them: by a one-time token.

The operator carries a token to the device: 32 secret bytes, and where the broker is. The device
asks (`Request`), the operator's machine answers (`Reply`), over topics that let one device speak
to another. Both messages carry a BLAKE2b code under the token, so that neither the broker nor
another device can ask in its place or hand it other keys to trust; the request is also signed by
the identity that is to be certified. A token is good for one identity: who asks again with it gets
the same answer, anybody else none.
"""

import hmac
from base64 import b64encode
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Annotated, Final, TypeVar

from nacl.bindings import crypto_sign_seed_keypair

from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import RemoteProtocolError
from protocol.identity import Key, check_signature, identity_public, sign
from protocol.messages import KEY_BYTES, Limit, Word

#: The account by which the operator's machine is known to the broker; no device has this name.
OPERATOR: Final = "operator"
#: Before the names of accounts that do nothing but ask with a token.
NEWCOMER: Final = "join-"
TOKEN_BYTES: Final = KEY_BYTES
#: What an identity signs when it asks.
REQUEST: Final = b"fedbus/1 join request\0"
_REPLY: Final = b"fedbus/1 join reply\0"
_CODE_BYTES: Final = 32
#: RFC 8410: an Ed25519 private key as PKCS #8, before its 32 bytes.
_PKCS8: Final = bytes.fromhex("302e020100300506032b657004220420")

Code = Annotated[bytes, Limit(0, _CODE_BYTES)]


@dataclass(frozen=True, slots=True)
class Request:
    """A device asks: these are its public keys.

    ``tls`` is the Ed25519 key it connects with; ``epoch_key`` and ``endorsement`` (empty in a task
    without masks) are those of its token's epoch. ``signature`` is the identity's over the rest.
    """

    task: Word
    device: Word
    identity: Key
    tls: Key
    epoch: Annotated[int, Limit(0, (1 << 31) - 1)]
    epoch_key: Annotated[bytes, Limit(0, KEY_BYTES)]
    endorsement: Annotated[bytes, Limit(0, 64)]
    signature: Annotated[bytes, Limit(0, 64)] = b""
    code: Code = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """The operator answers: certificates, and whom to trust. ``problem`` says why there are none.

    ``certificate`` as `protocol.identity.certify` writes it, ``tls_certificate`` in PEM.
    """

    identity: Key
    certificate: Annotated[bytes, Limit(0, 400)]
    tls_certificate: Annotated[bytes, Limit(0, 8_000)]
    enrolment: Key
    aggregator: Key
    problem: Annotated[str, Limit(0, 300)]
    code: Code = b""


M = TypeVar("M", Request, Reply)


def ask(request: Request, identity: bytes, token: bytes) -> bytes:
    """Return a request as it travels, signed by the secret ``identity`` and under ``token``."""
    bare = replace(request, signature=b"", code=b"")
    signed = replace(bare, signature=sign(identity, REQUEST, pack(bare)))
    return pack(_coded(signed, token, REQUEST))


def open_request(data: bytes, token: bytes) -> Request:
    """Return a request whose code and signature are right.

    Raises RemoteProtocolError: ``malformed`` or ``bad_signature``.
    """
    request = _checked(unpack(data, Request), token, REQUEST)
    bare = replace(request, signature=b"", code=b"")
    check_signature(request.identity, REQUEST, pack(bare), request.signature)
    return request


def asked_for(data: bytes) -> str:
    """Return the device that a request names, unchecked. Raises RemoteProtocolError."""
    return unpack(data, Request).device


def answer(reply: Reply, token: bytes) -> bytes:
    """Return a reply as it travels, under ``token``."""
    return pack(_coded(replace(reply, code=b""), token, _REPLY))


def open_reply(data: bytes, token: bytes, identity: bytes) -> Reply:
    """Return a reply to the owner of the secret ``identity`` whose code is right.

    Raises RemoteProtocolError: ``malformed`` or ``bad_signature``.
    """
    reply = _checked(unpack(data, Reply), token, _REPLY)
    if reply.identity != identity_public(identity):
        raise _not_right()
    return reply


def private_pem(seed: bytes) -> bytes:
    """Return an Ed25519 secret key in PEM (PKCS #8, RFC 8410), as OpenSSL reads it."""
    text = b64encode(_PKCS8 + seed)
    return b"-----BEGIN PRIVATE KEY-----\n" + text + b"\n-----END PRIVATE KEY-----\n"


def tls_public(seed: bytes) -> bytes:
    """Return the public half of a key that `private_pem` writes."""
    return crypto_sign_seed_keypair(seed)[0]


def _coded(message: M, token: bytes, purpose: bytes) -> M:
    return replace(message, code=_code(pack(replace(message, code=b"")), token, purpose))


def _checked(message: M, token: bytes, purpose: bytes) -> M:
    expected = _code(pack(replace(message, code=b"")), token, purpose)
    if not hmac.compare_digest(expected, message.code):
        raise _not_right()
    return message


def _code(data: bytes, token: bytes, purpose: bytes) -> bytes:
    return blake2b(purpose + data, key=token, digest_size=_CODE_BYTES).digest()


def _not_right() -> RemoteProtocolError:
    return RemoteProtocolError(refusals.BAD_SIGNATURE, "not made with this token")
