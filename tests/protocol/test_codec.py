"""Bytes to messages and back."""

import contextlib
import json
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages as messages_module
from protocol import refusals
from protocol.codec import decode, decode_update, encode, encode_update, open_envelope, seal
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    AGGREGATOR,
    KINDS,
    CheckIn,
    Held,
    Lease,
    Message,
    Receipt,
    Update,
    UpdateChunk,
)
from tests.support.messages import messages, updates
from tests.vectors import make_messages

ALL = tuple(KINDS)


@given(messages)
def test_decode_inverts_encode(message: Message) -> None:
    data = encode(message, task="t", sender="s", counter=7)
    assert decode(data, ALL, task="t", sender="s") == message


@given(updates)
def test_an_update_survives_its_bytes(update: Update) -> None:
    assert decode_update(encode_update(update)) == update


@given(st.binary())
def test_garbage_is_refused_and_raises_nothing_else(data: bytes) -> None:
    for read in (lambda: decode(data, ALL, task="t", sender="s"), lambda: decode_update(data)):
        with contextlib.suppress(RemoteProtocolError):
            read()


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


def test_true_is_no_number() -> None:
    envelope = open_envelope(encode(Receipt(bytes(16), 1), task="t", sender="s", counter=1))
    bad = seal(replace(envelope, body=msgpack.packb([bytes(16), True])))
    with pytest.raises(RemoteProtocolError):
        decode(bad, ALL, task="t", sender="s")


def test_the_frozen_messages_decode_or_are_refused_as_written() -> None:
    """If this fails, devices in the field can no longer talk to us: raise WIRE_VERSION."""
    for vector in json.loads(make_messages.PATH.read_text(encoding="utf-8")):
        place, data = vector["input"], bytes.fromhex(vector["bytes"])
        cls: Any = getattr(messages_module, place["kind"])
        if vector["expect"] == "ok":
            message = decode(data, (cls,), task=place["task"], sender=place["sender"])
            counter = open_envelope(data).counter
            again = encode(message, task=place["task"], sender=place["sender"], counter=counter)
            assert again == data, vector["name"]
            continue
        with pytest.raises(RemoteProtocolError) as refused:
            decode(data, (cls,), task=place["task"], sender=place["sender"])
        assert refused.value.reason == vector["expect"], vector["name"]


def test_making_the_message_vectors_again_changes_nothing() -> None:
    assert make_messages.PATH.read_text(encoding="utf-8") == make_messages.text()


def test_every_message_has_a_frozen_vector() -> None:
    assert {type(message) for _, message in make_messages.GOOD} == set(KINDS)


def test_the_aggregators_name_is_no_device() -> None:
    lease = Lease(bytes(16), bytes(16), 0, bytes(32), 4, 1, "dense/float32", 1, 0, 1)
    data = encode(lease, task="t", sender=AGGREGATOR, counter=1)
    with pytest.raises(RemoteProtocolError):
        decode(data, ALL, task="t", sender="device-1")
