"""Certificates, signatures over topics, sealed updates."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import (
    SEAL_BYTES,
    Certificate,
    Signer,
    certify,
    check_envelope,
    check_signature,
    identity_public,
    key_id,
    open_certificate,
    seal,
    sign,
    unseal,
)
from tests.vectors import make_identity

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = identity_public(SECRET)


def refused(call: Any) -> str:
    with pytest.raises(RemoteProtocolError) as error:
        call()
    return error.value.reason


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(1, 255))
def test_a_changed_bit_of_a_certificate_is_noticed(task: bytes, at: int, flip: int) -> None:
    made = Certificate(task.hex() or "t", "d", PUBLIC, 1) if len(task) < 32 else None
    if made is None:
        return
    data = bytearray(certify(made, SECRET))
    assert open_certificate(bytes(data), PUBLIC) == made
    data[at % len(data)] ^= flip
    assert refused(lambda: open_certificate(bytes(data), PUBLIC)) in {
        refusals.BAD_SIGNATURE,
        refusals.MALFORMED,
    }


def test_a_signature_is_for_one_purpose_key_and_text() -> None:
    signature = sign(SECRET, b"one\0", b"text")
    check_signature(PUBLIC, b"one\0", b"text", signature)
    for public, purpose, text, given_ in (
        (identity_public(OTHER), b"one\0", b"text", signature),
        (PUBLIC, b"two\0", b"text", signature),
        (PUBLIC, b"one\0", b"texts", signature),
        (PUBLIC, b"one\0", b"text", signature[:-1]),
        (PUBLIC[:-1], b"one\0", b"text", signature),
        (bytes(32), b"one\0", b"text", signature),
    ):
        assert (
            refused(lambda p=public, u=purpose, t=text, s=given_: check_signature(p, u, t, s))
            == refusals.BAD_SIGNATURE
        )


@given(st.binary(max_size=300), st.binary(min_size=32, max_size=32))
def test_only_the_aggregator_reads_what_is_sealed_to_it(data: bytes, seed: bytes) -> None:
    lease = bytes(range(16))
    sealed = seal(data, PUBLIC, seed, lease)
    assert len(sealed) == len(data) + SEAL_BYTES
    assert sealed == seal(data, PUBLIC, seed, lease)  # sent again, it is the same
    assert unseal(sealed, SECRET, lease) == data
    assert refused(lambda: unseal(sealed, OTHER, lease)) == refusals.MALFORMED
    assert refused(lambda: unseal(sealed, SECRET, bytes(16))) == refusals.MALFORMED


def test_keys_and_seeds_have_their_length() -> None:
    with pytest.raises(LocalProtocolError):
        sign(SECRET[:-1], b"", b"")
    with pytest.raises(LocalProtocolError):
        seal(b"", PUBLIC, bytes(31), bytes(16))


def test_a_signer_shows_no_secret() -> None:
    signer = Signer(SECRET, "p")
    assert SECRET.hex() not in repr(signer)
    assert repr(SECRET)[2:10] not in repr(signer)
    assert signer.key_id == key_id(PUBLIC)


def test_the_frozen_vectors_hold() -> None:
    """If this fails, devices in the field can no longer talk to us."""
    entries = json.loads(make_identity.PATH.read_text(encoding="utf-8"))
    assert make_identity.text() == make_identity.PATH.read_text(encoding="utf-8")
    for entry in entries:
        given_, data = entry["input"], bytes.fromhex(entry["bytes"])
        if entry["expect"] == "ok":
            open_vector(given_, data)
        else:
            assert refused(lambda g=given_, d=data: open_vector(g, d)) == entry["expect"], entry


def open_vector(given_: dict[str, str], data: bytes) -> None:
    match given_["what"]:
        case "certificate":
            opened = open_certificate(data, bytes.fromhex(given_["enrolment_key"]))
            assert opened == make_identity.PLAIN
        case "envelope":
            key = bytes.fromhex(given_["key"])
            check_envelope(key, data, topic=given_["topic"], prefix=make_identity.PREFIX)
        case "sealed":
            secret, lease = bytes.fromhex(given_["secret"]), bytes.fromhex(given_["lease"])
            assert unseal(data, secret, lease).hex() == given_["plain"]
