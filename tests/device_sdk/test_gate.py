"""What a device believes: its aggregator's signature, on the right topic, and nothing older."""

from collections.abc import Mapping

import msgpack
import pytest

from device_sdk.actions import Store
from device_sdk.gate import HEARD, Gate
from protocol import refusals
from protocol.codec import encode
from protocol.errors import RemoteProtocolError
from protocol.identity import Signer, identity_public
from protocol.messages import AGGREGATOR, Manifest, ModelChunk, Plan, Receipt
from protocol.topics import Kind, Topics

TOPICS = Topics("fedbus/1", "t")
SECRET = bytes(range(32))
SIGNER = Signer(SECRET, "fedbus/1")
PUBLIC = identity_public(SECRET)
INTO = TOPICS.into("a")
RECEIPT = Receipt(bytes(16), 1)
PLAN = Plan("{}", "{}", "dense/float32")


def gate(stored: Mapping[str, bytes] | None = None, key: bytes = PUBLIC) -> Gate:
    return Gate(TOPICS, stored or {}, key)


def said(
    message: Receipt | Plan | Manifest | ModelChunk,
    counter: int = 5,
    *,
    topic: str = INTO,
    signer: Signer | None = SIGNER,
    named: bool = True,
) -> bytes:
    return encode(
        message,
        task="t",
        sender=AGGREGATOR,
        counter=counter,
        sign=None if signer is None else signer.on(topic),
        key_id=signer.key_id if signer is not None and named else b"",
    )


def refused(own: Gate, topic: str, kind: Kind, payload: bytes) -> str:
    with pytest.raises(RemoteProtocolError) as error:
        own.open(topic, kind, payload)
    return error.value.reason


def test_what_the_aggregator_signed_is_believed() -> None:
    assert gate().open(INTO, Kind.IN, said(RECEIPT)).counter == 5


def test_what_nobody_or_somebody_else_signed_is_not() -> None:
    other = Signer(bytes(32), "fedbus/1")
    assert refused(gate(), INTO, Kind.IN, said(RECEIPT, signer=None)) == refusals.BAD_SIGNATURE
    assert refused(gate(), INTO, Kind.IN, said(RECEIPT, signer=other)) == refusals.UNKNOWN_KEY
    posing = said(RECEIPT, signer=other, named=False)
    assert refused(gate(), INTO, Kind.IN, posing) == refusals.BAD_SIGNATURE


def test_what_was_said_to_another_device_is_not_for_this_one() -> None:
    payload = said(RECEIPT, topic=TOPICS.into("b"))
    assert refused(gate(), INTO, Kind.IN, payload) == refusals.BAD_SIGNATURE


def test_what_was_said_before_is_ignored_on_its_own_topic() -> None:
    own = gate()
    own.open(INTO, Kind.IN, said(RECEIPT, 5))
    for counter in (4, 5):
        assert refused(own, INTO, Kind.IN, said(RECEIPT, counter)) == refusals.REPLAYED
    own.open(INTO, Kind.IN, said(RECEIPT, 6))


def test_what_is_retained_may_come_again_but_nothing_older() -> None:
    own, topic = gate(), TOPICS.plan()
    for _ in range(2):
        own.open(topic, Kind.PLAN, said(PLAN, 5, topic=topic))
    assert refused(own, topic, Kind.PLAN, said(PLAN, 4, topic=topic)) == refusals.REPLAYED


def test_after_a_reboot_nothing_older_is_believed_either() -> None:
    own, topic = gate(), TOPICS.plan()
    own.open(topic, Kind.PLAN, said(PLAN, 5, topic=topic))
    own.check_version(9)
    (store,) = own.kept()
    assert isinstance(store, Store)
    assert own.kept() == []
    again = gate({HEARD: store.data})
    assert refused(again, topic, Kind.PLAN, said(PLAN, 4, topic=topic)) == refusals.REPLAYED
    again.open(topic, Kind.PLAN, said(PLAN, 5, topic=topic))
    with pytest.raises(RemoteProtocolError, match="version 8, and 9"):
        again.check_version(8)
    again.check_version(9)


def test_a_lease_that_was_trained_for_is_not_believed_after_a_reboot() -> None:
    """What a session stores as training begins: else a broker has it train once more."""
    own = gate()
    own.open(INTO, Kind.IN, said(RECEIPT, 5))
    (store,) = own.kept()
    assert isinstance(store, Store)
    again = gate({HEARD: store.data})
    assert refused(again, INTO, Kind.IN, said(RECEIPT, 5)) == refusals.REPLAYED
    again.open(INTO, Kind.IN, said(RECEIPT, 6))


def test_what_an_older_program_stored_is_read() -> None:
    again, topic = gate({HEARD: msgpack.packb((5, 9))}), TOPICS.plan()
    assert refused(again, topic, Kind.PLAN, said(PLAN, 4, topic=topic)) == refusals.REPLAYED
    again.open(INTO, Kind.IN, said(RECEIPT, 0))


def test_chunks_need_no_signature_for_the_hash_in_a_lease_covers_them() -> None:
    topic = TOPICS.model(1, 0)
    payload = said(ModelChunk(1, 0, b""), topic=topic, signer=None)
    assert gate().open(topic, Kind.MODEL, payload).counter == 5


def test_without_keys_everything_is_believed() -> None:
    own = gate(key=b"")
    for counter in (5, 4):
        own.open(INTO, Kind.IN, said(RECEIPT, counter, signer=None))
    own.check_version(3)
    own.check_version(2)
    assert own.kept() == []
