"""Bytes to messages and back."""

import contextlib
import json
from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.codec import (
    decode,
    decode_update,
    encode,
    encode_update,
    open_envelope,
    pack,
    seal,
    unpack,
)
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Signer, check_envelope, identity_public
from protocol.messages import (
    AGGREGATOR,
    CheckIn,
    Envelope,
    Held,
    Lease,
    Receipt,
    Update,
    UpdateChunk,
)
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import MaskedUpdate
from tests.support.messages import KINDS, masked_updates, messages, updates
from tests.vectors import make_messages

ALL = tuple(KINDS)
IDENTITY = bytes(32)
PUBLIC = identity_public(IDENTITY)
SIGNER = Signer(IDENTITY, "p")
TOPIC = "p/t/dev/a/out"


def check(data: bytes, public: bytes = PUBLIC, topic: str = TOPIC) -> None:
    check_envelope(public, data, topic=topic, prefix="p")


def signed(message: Message) -> bytes:
    return encode(
        message,
        task="t",
        sender="s",
        counter=7,
        sign=SIGNER.on(TOPIC),
    )


@given(messages)
def test_decode_inverts_encode(message: Message) -> None:
    data = encode(message, task="t", sender="s", counter=7)
    assert decode(data, ALL, task="t", sender="s") == message


@given(updates)
def test_an_update_survives_its_bytes(update: Update) -> None:
    assert decode_update(encode_update(update)) == update


@given(masked_updates)
def test_a_masked_update_survives_its_bytes(update: MaskedUpdate) -> None:
    assert unpack(encode_update(update), MaskedUpdate) == update


@given(st.binary())
def test_garbage_is_refused_and_raises_nothing_else(data: bytes) -> None:
    for read in (
        lambda: decode(data, ALL, task="t", sender="s"),
        lambda: decode_update(data),
        lambda: unpack(data, MaskedUpdate),
    ):
        with contextlib.suppress(RemoteProtocolError):
            read()


@given(messages)
def test_a_signed_message_reads_as_an_unsigned_one(message: Message) -> None:
    assert decode(signed(message), ALL, task="t", sender="s") == message
    check(signed(message))


@given(messages, st.data())
def test_a_signature_covers_every_byte_before_it(message: Message, data: Any) -> None:
    raw = bytearray(signed(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        check(bytes(raw))


@given(messages)
def test_a_signature_is_of_one_identity(message: Message) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        check(signed(message), identity_public(bytes(31) + b"1"))
    assert refused.value.reason == refusals.BAD_SIGNATURE


@given(messages)
def test_a_signature_is_for_one_topic(message: Message) -> None:
    """A broker cannot bring it on another device's topic, or another topic of the device's."""
    with pytest.raises(RemoteProtocolError) as refused:
        check(signed(message), topic="p/t/dev/b/out")
    assert refused.value.reason == refusals.BAD_SIGNATURE


def test_a_gateway_may_hang_the_tree_elsewhere() -> None:
    data = signed(Held(bytes(16)))
    check_envelope(PUBLIC, data, topic="site/7/t/dev/a/out", prefix="site/7")


@pytest.mark.parametrize("length", [0, 1, 63])
def test_a_message_without_a_whole_signature_is_not_signed(length: int) -> None:
    data = seal(replace(open_envelope(signed(Held(bytes(16)))), signature=bytes(length)))
    with pytest.raises(RemoteProtocolError) as refused:
        check(data)
    assert refused.value.reason == refusals.BAD_SIGNATURE


def test_what_is_signed_is_what_was_received() -> None:
    """A signature holds for an envelope that another encoder spelled otherwise."""
    envelope = open_envelope(encode(Held(bytes(16)), task="t", sender="s", counter=7))
    packed = msgpack.packb([1, *(getattr(envelope, f.name) for f in fields(Envelope))][:-1])
    spelled = b"\xdc\x00\x08" + packed[1:] + b"\xc5\x00\x40"
    data = spelled + SIGNER.on(TOPIC)(spelled)
    check(data)
    assert decode(data, ALL, task="t", sender="s") == Held(bytes(16))


@given(messages)
def test_unpack_inverts_pack(message: Message) -> None:
    assert unpack(pack(message), type(message)) == message


@given(messages, st.data())
def test_a_mutated_message_is_refused_or_another_message(message: Message, data: Any) -> None:
    raw = bytearray(encode(message, task="t", sender="s", counter=7))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RemoteProtocolError):
        decoded = decode(bytes(raw), ALL, task="t", sender="s")
        assert type(decoded) in KINDS


@given(messages)
def test_every_cut_message_is_refused(message: Message) -> None:
    raw = encode(message, task="t", sender="s", counter=7)
    for end in range(len(raw)):
        with pytest.raises(RemoteProtocolError):
            decode(raw[:end], ALL, task="t", sender="s")


@pytest.mark.parametrize(
    ("task", "sender", "allowed", "reason"),
    [
        ("u", "s", ALL, refusals.WRONG_TASK),
        ("t", "r", ALL, refusals.WRONG_SENDER),
        ("t", "s", (Receipt,), refusals.WRONG_KIND),
    ],
)
def test_a_message_in_the_wrong_place_is_refused_with_its_reason(
    task: str, sender: str, allowed: tuple[type[Message], ...], reason: str
) -> None:
    data = encode(Held(bytes(16)), task="t", sender="s", counter=1)
    with pytest.raises(RemoteProtocolError) as refused:
        decode(data, allowed, task=task, sender=sender)
    assert refused.value.reason == reason


def test_another_wire_version_is_refused_as_such() -> None:
    data = bytearray(encode(Held(bytes(16)), task="t", sender="s", counter=1))
    data[1] = 2
    with pytest.raises(RemoteProtocolError, match="speaks 1") as refused:
        decode(bytes(data), ALL, task="t", sender="s")
    assert refused.value.reason == refusals.WIRE_VERSION


@pytest.mark.parametrize(
    "message",
    [
        Held(bytes(15)),
        Receipt(bytes(16), -1),
        Receipt(bytes(16), 1 << 60),
        UpdateChunk(bytes(16), 0, 0, 0, b""),
        CheckIn(bytes(16), -2, 1, ()),
        CheckIn(bytes(16), 0, 1, ("x" * 65,)),
    ],
)
def test_our_own_messages_outside_their_limits_are_our_bug(message: Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode(message, task="t", sender="s", counter=1)


def test_a_refusal_names_the_field() -> None:
    envelope = open_envelope(encode(Receipt(bytes(16), 3), task="t", sender="s", counter=1))
    bad = seal(replace(envelope, body=msgpack.packb([bytes(16), "three"])))
    with pytest.raises(RemoteProtocolError, match=r"Receipt\.version"):
        decode(bad, ALL, task="t", sender="s")


def test_a_field_that_was_added_is_left_out_while_it_says_nothing() -> None:
    lease = Lease(bytes(16), bytes(16), 3, bytes(32), 40, 1, "dense/float32", 100, 0, 60)
    before = msgpack.packb(msgpack.unpackb(pack(lease))[:12])
    assert pack(lease) == before
    assert unpack(before, Lease) == lease
    later = replace(lease, upload_after_s=7)
    assert len(msgpack.unpackb(pack(later))) == 13
    assert unpack(pack(later), Lease) == later


def test_true_is_no_number() -> None:
    envelope = open_envelope(encode(Receipt(bytes(16), 1), task="t", sender="s", counter=1))
    bad = seal(replace(envelope, body=msgpack.packb([bytes(16), True])))
    with pytest.raises(RemoteProtocolError):
        decode(bad, ALL, task="t", sender="s")


def test_the_frozen_messages_decode_or_are_refused_as_written() -> None:
    """If this fails, devices in the field can no longer talk to us: raise WIRE_VERSION."""
    for vector in json.loads(make_messages.PATH.read_text(encoding="utf-8")):
        place, data = vector["input"], bytes.fromhex(vector["bytes"])
        if vector["expect"] == "ok":
            assert written(read(place, data), place, data) == data, vector["name"]
            continue
        with pytest.raises(RemoteProtocolError) as refused:
            read(place, data)
        assert refused.value.reason == vector["expect"], vector["name"]


def read(place: dict[str, str], data: bytes) -> Any:
    """Read a vector as its receiver does: an update from its chunks, a signature as it names."""
    named = {each.__name__: each for each in (*KINDS, Update, MaskedUpdate)}
    cls: Any = named[place["kind"]]
    if cls is MaskedUpdate:
        return unpack(data, MaskedUpdate)
    if "identity" in place:
        identity, topic = bytes.fromhex(place["identity"]), place["topic"]
        check_envelope(identity, data, topic=topic, prefix="fedbus/1")
    return decode(data, (cls,), task=place["task"], sender=place["sender"])


def written(message: Any, place: dict[str, str], data: bytes) -> bytes:
    """Write a vector again, with the counter and the signature that it has."""
    if isinstance(message, MaskedUpdate):
        return encode_update(message)
    envelope = open_envelope(data)
    return encode(
        message,
        task=place["task"],
        sender=place["sender"],
        counter=envelope.counter,
        sign=(lambda _: envelope.signature) if envelope.signature else None,
    )


def test_making_the_message_vectors_again_changes_nothing() -> None:
    assert make_messages.PATH.read_text(encoding="utf-8") == make_messages.text()


def test_every_message_has_a_frozen_vector() -> None:
    assert {type(message) for _, message in make_messages.GOOD} == set(KINDS)


def test_the_aggregators_name_is_no_device() -> None:
    lease = Lease(bytes(16), bytes(16), 0, bytes(32), 4, 1, "dense/float32", 1, 0, 1)
    data = encode(lease, task="t", sender=AGGREGATOR, counter=1)
    with pytest.raises(RemoteProtocolError):
        decode(data, ALL, task="t", sender="device-1")
