"""The bounded queue, and the size of what it holds."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from transport import BrokerSettings
from transport.client import StreamClient, expiry
from transport.outbox import Outbox, Outgoing
from transport.stream import Stream


def make(number: int, qos: int = 1) -> Outgoing:
    return Outgoing("t", b"%d" % number, qos, retain=False, expiry_s=None)


def nothing(*_: object) -> None: ...


@pytest.fixture
def stream() -> Iterator[Stream]:
    ours, theirs = socket.socketpair()
    stream = Stream(ours, nothing)
    stream.established = True
    yield stream
    stream.close()
    theirs.close()


@given(
    topic=st.text(st.characters(exclude_characters="+#\0", codec="utf-8"), min_size=1, max_size=40),
    size=st.sampled_from([0, 1, 100, 127, 128, 16_000, 16_383, 70_000, 2_100_000]),
    qos=st.sampled_from([0, 1]),
    expiry_s=st.sampled_from([None, 60]),
    protocol=st.sampled_from(["5", "3.1.1"]),
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_size_is_that_of_the_packet_paho_makes(
    stream: Stream, *, topic: str, size: int, qos: int, expiry_s: int | None, protocol: str
) -> None:
    outgoing = Outgoing(topic, bytes(size), qos, retain=True, expiry_s=expiry_s)
    mqtt_5 = protocol == "5"
    settings = BrokerSettings(client_id="a")
    client = StreamClient(settings, protocol, stream, nothing)
    client.open(settings)
    client.loop_write()
    stream._unsent.clear()
    properties = expiry(expiry_s) if expiry_s is not None and mqtt_5 else None
    client.publish(topic, outgoing.payload, qos, outgoing.retain, properties)
    client.loop_write()
    written = len(stream._unsent)
    stream._unsent.clear()
    client._sock = None  # the stream serves the next example
    assert outgoing.packet_bytes(mqtt_5=mqtt_5) == written


def test_no_more_than_the_window_is_under_way() -> None:
    outbox = Outbox(max_queued=10, window=2)
    for number in range(3):
        outbox.add(make(number))
    for packet_id in (1, 2):
        outgoing = outbox.next()
        assert outgoing is not None
        outbox.sent(packet_id, outgoing)
    assert outbox.next() is None
    assert outbox.done(1) == make(0)
    assert outbox.next() == make(2)


def test_what_is_under_way_counts_against_the_bound() -> None:
    outbox = Outbox(max_queued=2, window=1)
    outbox.add(make(0))
    outbox.sent(1, outbox.next() or make(9))
    assert not outbox.full
    outbox.add(make(1))
    assert outbox.full


def test_after_a_loss_what_was_under_way_goes_first_and_qos_0_is_gone() -> None:
    outbox = Outbox(max_queued=10, window=2)
    for outgoing in (make(0), make(1, qos=0), make(2), make(3, qos=0)):
        outbox.add(outgoing)
    for packet_id in (1, 2):
        outbox.sent(packet_id, outbox.next() or make(9))
    assert outbox.connection_lost() == 2
    assert [outbox.next(), outbox.next(), outbox.next()] == [make(0), make(2), None]


def test_an_unknown_answer_is_nobodys() -> None:
    assert Outbox(max_queued=1, window=1).done(7) is None


def test_what_is_too_large_now_is_taken_out() -> None:
    outbox = Outbox(max_queued=10, window=2)
    large = Outgoing("t", bytes(100), 1, retain=False, expiry_s=None)
    for outgoing in (make(0), large, make(1)):
        outbox.add(outgoing)
    assert outbox.drop_larger(50, mqtt_5=True) == [large]
    assert len(outbox) == 2
