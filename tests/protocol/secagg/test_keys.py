"""Keys: what is signed for one purpose serves no other, and agreed keys are two devices' own."""

import contextlib
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import ENVELOPE
from protocol.secagg import keys

PURPOSES = (keys.ROSTER, keys.EPOCH_KEY, keys.SHARES, keys.REQUEST, ENVELOPE)
SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
PUBLIC = keys.identity_public(SECRET)

#: The points of low order on Curve25519 (cr.yp.to/ecdh.html), some spelled above the prime.
LOW_ORDER_X25519 = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
#: Points of order 1, 2, 4 and 8 on the curve of Ed25519.
LOW_ORDER_ED25519 = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
]


def refused(public: bytes, purpose: bytes, data: bytes, signature: bytes) -> bool:
    with pytest.raises(RemoteProtocolError) as raised:
        keys.check_signature(public, purpose, data, signature)
    return raised.value.reason == refusals.BAD_SIGNATURE


@pytest.mark.parametrize(("signed_for", "shown_for"), list(permutations(PURPOSES, 2)))
def test_a_signature_serves_its_purpose_only(signed_for: bytes, shown_for: bytes) -> None:
    signature = keys.sign(SECRET, signed_for, b"data")
    keys.check_signature(PUBLIC, signed_for, b"data", signature)
    assert refused(PUBLIC, shown_for, b"data", signature)


def test_no_purpose_begins_another() -> None:
    assert not [(a, b) for a, b in permutations(PURPOSES, 2) if a.startswith(b)]


def test_a_signature_is_of_one_key_over_one_text() -> None:
    signature = keys.sign(SECRET, keys.ROSTER, b"data")
    assert refused(keys.identity_public(OTHER), keys.ROSTER, b"data", signature)
    assert refused(PUBLIC, keys.ROSTER, b"date", signature)


@given(st.integers(0, 63), st.integers(1, 255))
def test_a_flipped_signature_is_refused(place: int, flip: int) -> None:
    signature = bytearray(keys.sign(SECRET, keys.ROSTER, b"data"))
    signature[place] ^= flip
    assert refused(PUBLIC, keys.ROSTER, b"data", bytes(signature))


@pytest.mark.parametrize("public", LOW_ORDER_ED25519)
def test_an_identity_of_low_order_signs_nothing(public: str) -> None:
    """With one, the signature R = point, S = 0 would hold for many texts."""
    point = bytes.fromhex(public)
    for text in (b"", b"a", b"b", b"c"):
        assert refused(point, keys.ROSTER, text, point + bytes(32))


@given(st.binary(max_size=70), st.binary(max_size=70), st.binary(max_size=70))
def test_garbage_for_a_key_or_a_signature_is_refused(
    public: bytes, data: bytes, signature: bytes
) -> None:
    assert refused(public, ENVELOPE, data, signature)
    assert refused(PUBLIC, ENVELOPE, data, signature)
    with contextlib.suppress(RemoteProtocolError):
        keys.agree(SECRET, public)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_a_secret_of_another_length_is_our_bug(length: int) -> None:
    for use in (
        lambda secret: keys.sign(secret, keys.ROSTER, b""),
        keys.identity_public,
        keys.epoch_public,
        lambda secret: keys.agree(secret, PUBLIC),
    ):
        with pytest.raises(LocalProtocolError, match="32 bytes"):
            use(bytes(length))


def test_keys_are_those_of_the_rfcs() -> None:
    """RFC 8032 section 7.1 test 1; RFC 7748 section 6.1."""
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert keys.identity_public(bytes.fromhex(seed)).hex() == public
    secret = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"  # noqa: S105
    public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert keys.epoch_public(bytes.fromhex(secret)).hex() == public


def test_two_devices_agree_on_a_key_for_each_purpose() -> None:
    ours, theirs = keys.epoch_public(SECRET), keys.epoch_public(OTHER)
    assert keys.agree(SECRET, theirs, "shares", 1) == keys.agree(OTHER, ours, "shares", 1)
    different = [
        keys.agree(SECRET, theirs, "shares", 1),
        keys.agree(SECRET, theirs, "shares", 2),
        keys.agree(SECRET, theirs, "shares"),
        keys.agree(SECRET, theirs, "mask", 1),
        keys.agree(SECRET, ours, "shares", 1),
        keys.agree(OTHER, theirs, "shares", 1),
    ]
    assert len(set(different)) == len(different)


@pytest.mark.parametrize("public", LOW_ORDER_X25519)
@pytest.mark.parametrize("sign_bit", [0, 0x80])
def test_no_key_is_agreed_with_a_point_of_low_order(public: str, sign_bit: int) -> None:
    """The agreed key would be known to everybody."""
    point = bytearray.fromhex(public)
    point[31] |= sign_bit
    for use in (lambda key: keys.agree(SECRET, key), keys.check_epoch_key):
        with pytest.raises(RemoteProtocolError) as raised:
            use(bytes(point))
        assert raised.value.reason == refusals.MALFORMED


def test_an_endorsement_is_for_one_key_of_one_epoch_of_one_task() -> None:
    texts = {
        keys.endorsed("t", 1, PUBLIC),
        keys.endorsed("u", 1, PUBLIC),
        keys.endorsed("t", 2, PUBLIC),
        keys.endorsed("t", 1, SECRET),
    }
    assert len(texts) == 4
