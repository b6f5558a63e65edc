"""The three places where we reach into paho, and what comes in through them."""

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import Client

from tests.support.fake_broker import CONNACK, PUBLISH, packet, publish
from transport import BrokerSettings
from transport.client import Received, StreamClient
from transport.stream import Stream

SETTINGS = BrokerSettings(client_id="a")


def nothing(*_: object) -> None: ...


class Wire:
    """A client on one end of a socket pair, the test on the other."""

    def __init__(self, protocol: str) -> None:
        ours, self.theirs = socket.socketpair()
        ours.settimeout(0)
        self.stream = Stream(ours, nothing)
        self.stream.established = True
        self.received: list[Received] = []
        self.client = StreamClient(SETTINGS, protocol, self.stream, self.received.append)
        self.client.open(SETTINGS)

    def feed(self, data: bytes) -> None:
        self.theirs.sendall(data)
        self.stream.moisten()
        while self.stream.pending and self.client.socket() is not None:
            self.client.loop_read()

    def close(self) -> None:
        self.stream.close()
        self.theirs.close()


@pytest.fixture(params=["5", "3.1.1"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    running = Wire(request.param)
    yield running
    running.close()


@pytest.mark.parametrize("name", ["_create_socket", "_handle_publish"])
def test_paho_still_has_the_methods_we_override(name: str) -> None:
    assert callable(getattr(Client, name))


def test_paho_still_keeps_the_unanswered_ping_where_we_forgive_it(wire: Wire) -> None:
    assert wire.client._ping_t == 0.0
    wire.client._send_pingreq()
    assert wire.client._ping_t > 0.0
    wire.client.forgive_ping()
    assert wire.client._ping_t == 0.0


def test_publish_packets_reach_us_and_not_the_slow_path(wire: Wire) -> None:
    mqtt_5 = wire.client._mqtt_5
    slow: list[object] = []
    wire.client.on_message = lambda *call: slow.append(call)
    data = publish(b"a/b", b"payload", 258, mqtt_5=mqtt_5)
    wire.feed(data + publish(b"c", b"", mqtt_5=mqtt_5))
    assert wire.received == [
        Received(b"a/b", b"payload", retain=False, packet_id=258, size_bytes=len(data)),
        Received(b"c", b"", retain=False, packet_id=0, size_bytes=5 + mqtt_5),
    ]
    assert slow == []


def test_properties_of_any_length_are_skipped() -> None:
    wire = Wire("5")
    user_property = b"\x26\0\1k" + struct.pack(">H", 200) + b"v" * 200
    length = len(user_property)
    properties = bytes([length & 0x7F | 0x80, length >> 7]) + user_property
    wire.feed(packet(PUBLISH, b"\0\1t" + properties + b"payload", 1))
    assert wire.received[0].payload == b"payload"
    assert wire.received[0].retain
    wire.close()


def test_packets_may_arrive_byte_by_byte(wire: Wire) -> None:
    data = publish(b"topic", b"x" * 300, 1, mqtt_5=wire.client._mqtt_5)
    for byte in data:
        wire.feed(bytes([byte]))
    assert [each.payload for each in wire.received] == [b"x" * 300]


@given(st.binary(max_size=300), st.sampled_from(["5", "3.1.1"]))
@example(packet(CONNACK, b"\0"), "5")
@example(packet(PUBLISH, b"\0\1t", 2), "3.1.1")
@example(packet(PUBLISH, b"\0\1t\xff\xff\xff\xff\x7f"), "5")
@example(packet(PUBLISH, b"\0\1t\x05"), "5")
def test_garbage_raises_only_what_the_connection_expects(data: bytes, protocol: str) -> None:
    wire = Wire(protocol)
    try:
        wire.feed(data)
    except (struct.error, ValueError):
        assert True
    finally:
        wire.close()


def test_acknowledgements_leave_together(wire: Wire) -> None:
    wire.client.loop_write()
    wire.stream.flush()
    wire.theirs.recv(1_000)
    for packet_id in (1, 2, 3):
        wire.client.acknowledge(packet_id)
    wire.stream.flush()
    assert wire.theirs.recv(1_000) == b"\x40\2\0\1" + b"\x40\2\0\2" + b"\x40\2\0\3"


def test_acknowledgements_wait_when_the_stream_is_full(wire: Wire) -> None:
    wire.client.loop_write()
    wire.stream.send(bytes(100_000))
    wire.client.acknowledge(1)
    assert wire.client.want_write()
