"""Brokers that misbehave, each played by a script on a real socket."""

import random
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.check_transport import Client, settings
from tests.support.fake_broker import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    FakeBroker,
    Peer,
    packet,
    publish,
)
from tests.transport.paho_bus import PahoBus
from transport import (
    BrokerSettings,
    Connected,
    Disconnected,
    PublishRefused,
    Refused,
    SubscribeRefused,
)
from transport.paho import PahoTransport

UNSUPPORTED_VERSION = packet(CONNACK, b"\0\1")
RECEIVE_MAXIMUM_2 = b"\x21\0\2"
MAXIMUM_PACKET_SIZE_500 = b"\x27\0\0\x01\xf4"


def welcome(peer: Peer) -> None:
    peer.accept()
    peer.wait_for_end()


def hang_up(peer: Peer) -> None:
    peer.expect(CONNECT)


def refuse_new_version(peer: Peer) -> None:
    peer.expect(CONNECT)
    peer.send(UNSUPPORTED_VERSION)
    peer.wait_for_end()


Start = Callable[..., tuple[PahoBus, Client]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that connects a client to a scripted broker."""
    buses: list[PahoBus] = []

    def connecting(broker: FakeBroker, wanted: BrokerSettings, protocol: str = "auto") -> object:
        bus = PahoBus(broker.port, protocol)
        buses.append(bus)
        client = bus.client(wanted)
        client.transport.connect()
        return bus, client

    yield connecting  # type: ignore[misc] # Start says more about the arguments than needed
    for bus in buses:
        bus.close()


def protocols(client: Client) -> list[str]:
    return [event.protocol for event in client.events if isinstance(event, Connected)]


def test_a_clean_refusal_of_version_5_falls_back_and_is_remembered(start: Start) -> None:
    def welcome_once(peer: Peer) -> None:
        peer.accept()

    with FakeBroker([refuse_new_version, welcome_once, welcome]) as broker:
        bus, client = start(broker, settings("a"))
        bus.until(lambda: len(protocols(client)) == 2)
        assert protocols(client) == ["3.1.1", "3.1.1"]
        assert broker.num_connections == 3
        assert not any(isinstance(event, Refused) for event in client.events)
        bus.close()


def test_two_closes_before_connack_fall_back(start: Start) -> None:
    with FakeBroker([hang_up, hang_up, welcome]) as broker:
        bus, client = start(broker, settings("a"))
        bus.until(lambda: client.transport.connected)
        assert protocols(client) == ["3.1.1"]
        bus.close()


def test_two_connects_left_unanswered_fall_back(start: Start) -> None:
    quick = settings("a", connect_timeout_s=0.2)
    with FakeBroker([Peer.wait_for_end, Peer.wait_for_end, welcome]) as broker:
        bus, client = start(broker, quick)
        bus.until(lambda: client.transport.connected)
        assert protocols(client) == ["3.1.1"]
        bus.close()


def test_one_close_before_connack_does_not(start: Start) -> None:
    with FakeBroker([hang_up, welcome]) as broker:
        bus, client = start(broker, settings("a"))
        bus.until(lambda: client.transport.connected)
        assert protocols(client) == ["5"]
        bus.close()


def test_a_broker_that_closes_whatever_comes_is_tried_with_both_versions(start: Start) -> None:
    levels: list[int] = []

    def note(peer: Peer) -> None:
        levels.append(peer.expect(CONNECT).body[6])

    with FakeBroker([note]) as broker:
        bus, _client = start(broker, settings("a"))
        bus.until(lambda: len(levels) >= 6)
        assert levels[:6] == [5, 5, 4, 4, 5, 5]
        bus.close()


@pytest.mark.parametrize(
    ("protocol", "code", "permanent"),
    [
        ("5", 0x86, True),
        ("5", 0x87, True),
        ("5", 0x88, False),
        ("3.1.1", 4, True),
        ("3.1.1", 3, False),
    ],
)
def test_a_refusal_says_whether_to_give_up(
    start: Start, protocol: str, code: int, *, permanent: bool
) -> None:
    def refuse(peer: Peer) -> None:
        peer.expect(CONNECT)
        peer.send(packet(CONNACK, bytes([0, code]) + (b"\0" if protocol == "5" else b"")))
        peer.wait_for_end()

    with FakeBroker([refuse]) as broker:
        bus, client = start(broker, settings("a"), protocol)
        bus.until(lambda: bool(client.events))
        assert isinstance(client.events[0], Refused)
        assert client.events[0].permanent is permanent
        bus.close()


def test_a_broker_without_an_answer_is_given_up(start: Start) -> None:
    with FakeBroker([Peer.wait_for_end, welcome]) as broker:
        bus, client = start(broker, settings("a", connect_timeout_s=0.1))
        bus.until(lambda: client.transport.connected)
        assert client.events[0] == Refused("the broker does not answer", permanent=False)
        bus.close()


def test_a_silent_broker_is_noticed_by_keepalive(start: Start) -> None:
    pings: list[int] = []

    def fall_silent(peer: Peer) -> None:
        peer.accept()
        peer.expect(PINGREQ)
        pings.append(1)
        peer.wait_for_end()

    with FakeBroker([fall_silent, welcome]) as broker:
        bus, client = start(broker, settings("a", keepalive_s=1))
        bus.until(lambda: client.num_connects == 2)
        assert pings == [1]
        assert client.num_disconnects == 1
        bus.close()


def test_answered_pings_keep_an_idle_connection(start: Start) -> None:
    num_pings = 0

    def answer_pings(peer: Peer) -> None:
        nonlocal num_pings
        peer.accept()
        while True:
            peer.expect(PINGREQ)
            num_pings += 1
            peer.send(packet(PINGRESP))

    with FakeBroker([answer_pings]) as broker:
        bus, client = start(broker, settings("a", keepalive_s=1))
        bus.until(lambda: num_pings >= 3)
        assert client.num_disconnects == 0
        bus.close()


def test_reading_stops_while_the_queue_is_full_and_pings_do_not(start: Start) -> None:
    """Nobody takes events for longer than the keepalive, twice over; nothing is lost."""
    pings = 0

    def flood(peer: Peer) -> None:
        nonlocal pings
        peer.accept()
        for number in range(100):
            peer.send(publish(b"a", b"%d" % number, number + 1, mqtt_5=True))
        while pings < 2:
            peer.expect(PINGREQ)
            pings += 1
        peer.send(publish(b"a", b"last", 200, mqtt_5=True))
        peer.wait_for_end()

    with FakeBroker([flood]) as broker:
        bus, client = start(broker, settings("a", keepalive_s=1, max_received=10))
        taken = client.transport.events
        client.transport.events = list  # type: ignore[method-assign] # nobody takes any
        bus.until(lambda: pings == 2)
        assert client.transport.counters.received == 9  # and Connected
        client.transport.events = taken  # type: ignore[method-assign]
        client.transport.subscribe(["wake"])
        bus.until(lambda: len(client.messages) == 101)
        assert client.payloads == [*(b"%d" % number for number in range(100)), b"last"]
        assert client.num_disconnects == 0
        bus.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_garbage_ends_the_connection_and_nothing_else(start: Start, protocol: str) -> None:
    seeded = random.Random(20)  # noqa: S311 -- garbage, the same every time
    garbage = [
        b"\xff" * 10,
        packet(PUBLISH, b"\xff\xffshort"),
        packet(PUBLISH, b"\0\1a", 2),
        packet(PUBLISH, b"\0\1a\0\1\xff\xff\xff\xff\xff", 4),
        packet(SUBACK, b""),
        packet(PUBACK, b"\0"),
        packet(CONNACK, b""),
        b"\x30\xff\xff\xff\xff\xff",
        *(seeded.randbytes(200) for _ in range(20)),
    ]

    def throw(data: bytes) -> Callable[[Peer], None]:
        def script(peer: Peer) -> None:
            peer.accept()
            peer.send(data)

        return script

    with FakeBroker([*map(throw, garbage), welcome]) as broker:
        bus, client = start(broker, settings("a", backoff_cap_s=0.05), protocol)
        bus.until(lambda: broker.num_connections == len(garbage) + 1)
        bus.until(lambda: client.transport.connected)
        bus.close()


def test_a_topic_that_is_no_text_is_dropped_counted_and_acknowledged(start: Start) -> None:
    acknowledged: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.accept()
        peer.send(publish(b"\xff\xfe", b"?", 7, mqtt_5=True) + publish(b"a", b"ok", 8, mqtt_5=True))
        acknowledged.append(peer.expect(PUBACK).body)
        peer.wait_for_end()

    with FakeBroker([script]) as broker:
        bus, client = start(broker, settings("a"))
        bus.until(lambda: bool(acknowledged) and bool(client.payloads))
        assert client.payloads == [b"ok"]
        assert acknowledged == [b"\0\7"]
        assert client.transport.counters.malformed == 1
        bus.close()


def test_the_limit_of_the_broker_is_learnt_and_kept(start: Start) -> None:
    sizes: list[int] = []

    def strict(peer: Peer) -> None:
        peer.accept(MAXIMUM_PACKET_SIZE_500)
        body = peer.expect(PUBLISH).body
        sizes.append(len(body))
        peer.wait_for_end()

    with FakeBroker([strict]) as broker:
        bus, client = start(broker, settings("a"))
        bus.until(lambda: client.transport.connected)
        assert client.transport.max_packet_bytes == 500
        overhead = 1 + 2 + 2 + 1 + 2 + 1  # type, length, topic's length, topic, id, properties
        client.transport.publish("t", b"x" * (500 - overhead))
        bus.until(lambda: bool(sizes))
        assert sizes == [500 - 3]
        bus.close()


def test_what_a_new_limit_forbids_is_dropped_and_does_not_block_the_rest(start: Start) -> None:
    payloads: list[bytes] = []

    def take_nothing(peer: Peer) -> None:
        peer.accept()
        peer.expect(PUBLISH)

    def strict(peer: Peer) -> None:
        peer.accept(MAXIMUM_PACKET_SIZE_500)
        payloads.append(peer.expect(PUBLISH).body[-5:])
        peer.wait_for_end()

    with FakeBroker([take_nothing, strict]) as broker:
        bus, client = start(broker, settings("a", send_window=1))
        bus.until(lambda: client.transport.connected)
        client.transport.publish("big", b"x" * 1_000)
        client.transport.publish("small", b"small")
        bus.until(lambda: bool(payloads))
        assert payloads == [b"small"]
        assert any(isinstance(e, PublishRefused) and e.topic == "big" for e in client.events)
        bus.close()


def test_qos_1_under_way_is_sent_again_and_qos_0_is_counted_as_lost(start: Start) -> None:
    received: list[bytes] = []

    def take_and_die(peer: Peer) -> None:
        peer.accept()
        peer.expect(PUBLISH)

    def take(peer: Peer) -> None:
        peer.accept()
        received.append(peer.expect(PUBLISH).body[-3:])
        peer.wait_for_end()

    with FakeBroker([take_and_die, take]) as broker:
        bus, client = start(broker, settings("a", send_window=1))
        bus.until(lambda: client.transport.connected)
        client.transport.publish("a", b"one")
        client.transport.publish("a", b"nil", qos=0)
        bus.until(lambda: bool(received))
        assert received == [b"one"]
        assert client.transport.counters.dropped_offline == 1
        bus.close()


def test_a_broker_that_dies_while_we_take_our_leave_is_left_all_the_same(start: Start) -> None:
    def take_and_die(peer: Peer) -> None:
        peer.accept()
        peer.expect(PUBLISH)

    with FakeBroker([take_and_die]) as broker:
        bus, client = start(broker, settings("a"))
        bus.until(lambda: client.transport.connected)
        client.transport.publish("a", b"never acknowledged")
        client.transport.close(2.0)
        assert not client.transport.connected
        assert client.transport.counters.dropped_offline == 0  # QoS 1 is not lost by a hang-up


def test_no_more_is_under_way_than_the_broker_wants(start: Start) -> None:
    kinds: list[int] = []

    def two_at_a_time(peer: Peer) -> None:
        peer.accept(RECEIVE_MAXIMUM_2)
        packets = [peer.read() for _ in range(3)]
        peer.send(packet(PUBACK, packets[0].body[3:5]))
        packets.append(peer.read())
        kinds.extend(each.kind for each in packets)
        peer.wait_for_end()

    with FakeBroker([two_at_a_time]) as broker:
        bus, client = start(broker, settings("a"))
        bus.until(lambda: client.transport.connected)
        for _ in range(3):
            client.transport.publish("a", b"x")
        client.transport.subscribe(["behind the publishes"])
        bus.until(lambda: bool(kinds))
        assert kinds == [PUBLISH, PUBLISH, SUBSCRIBE, PUBLISH]
        bus.close()


def test_reason_codes_of_publish_and_subscribe_surface(start: Start) -> None:
    def deny(peer: Peer) -> None:
        peer.accept()
        asked = peer.expect(SUBSCRIBE)
        peer.send(packet(SUBACK, asked.body[:2] + b"\0\1\x87"))
        body = peer.expect(PUBLISH).body
        peer.send(packet(PUBACK, body[3:5] + b"\x97\0"))
        peer.wait_for_end()

    with FakeBroker([deny]) as broker:
        bus, client = start(broker, settings("a"), "5")
        client.transport.subscribe(["mine", "other"])
        bus.until(lambda: client.transport.connected)
        client.transport.publish("a", b"x")
        bus.until(lambda: len(client.events) == 3)
        assert client.events[1:] == [
            SubscribeRefused("other", "Not authorized"),
            PublishRefused("a", "Quota exceeded"),
        ]
        bus.close()


def test_filters_travel_eight_a_packet(start: Start) -> None:
    sizes: list[int] = []

    def count(peer: Peer) -> None:
        peer.accept()
        while sum(sizes) < 20:
            body = peer.expect(SUBSCRIBE).body
            sizes.append(body.count(b"f/"))
        peer.wait_for_end()

    with FakeBroker([count]) as broker:
        bus, client = start(broker, settings("a"))
        client.transport.subscribe([f"f/{number}" for number in range(20)])
        bus.until(lambda: sum(sizes) == 20)
        assert sizes == [8, 8, 4]
        bus.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_an_unsubscribe_that_got_lost_is_repeated_until_it_is_answered(
    start: Start, protocol: str
) -> None:
    asked: list[bytes] = []

    def lose(peer: Peer) -> None:
        peer.accept()
        asked.append(peer.expect(UNSUBSCRIBE).body[2:])

    def answer(peer: Peer) -> None:
        mqtt_5 = peer.accept(session_present=True) == 5
        body = peer.expect(UNSUBSCRIBE).body
        asked.append(body[2:])
        peer.send(packet(UNSUBACK, body[:2] + (b"\0\0" if mqtt_5 else b"")))
        peer.send(publish(b"b", b"answered", mqtt_5=mqtt_5))
        peer.wait_for_end()

    def look(peer: Peer) -> None:
        mqtt_5 = peer.accept(session_present=True) == 5
        peer.send(publish(b"b", b"looked", mqtt_5=mqtt_5))
        while True:
            asked.append(peer.expect(UNSUBSCRIBE).body[2:])

    with FakeBroker([lose, answer, look]) as broker:
        bus, client = start(broker, settings("a"), protocol)
        client.transport.subscribe(["a"])
        bus.until(lambda: client.transport.connected)
        client.transport.unsubscribe(["a"])
        bus.until(lambda: b"answered" in client.payloads)
        bus.cut(client)
        bus.until(lambda: b"looked" in client.payloads)
        bus.close()
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_a_takeover_that_the_broker_names_slows_us_down_at_the_second_time(start: Start) -> None:
    def kick(peer: Peer) -> None:
        peer.accept()
        peer.send(packet(DISCONNECT, b"\x8e\5\x1f\0\2hi"))  # with a reason string

    with FakeBroker([kick]) as broker:
        bus, client = start(broker, settings("a", backoff_first_s=0.01, backoff_cap_s=1_000.0))
        bus.until(lambda: client.num_disconnects == 2)
        assert Disconnected("Session taken over", taken_over=True) in client.events
        assert isinstance(client.transport, PahoTransport)
        assert client.transport.deadline - time.monotonic() > 400.0
        bus.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_quick_closes_without_a_word_are_taken_for_a_takeover(start: Start, protocol: str) -> None:
    def accept_and_close(peer: Peer) -> None:
        peer.accept()

    with FakeBroker([accept_and_close]) as broker:
        bus, client = start(broker, settings("a"), protocol)
        bus.until(lambda: client.num_disconnects == 4)
        guesses = [event.taken_over for event in client.events if isinstance(event, Disconnected)]
        assert guesses == [False, False, True, True]
        bus.close()


def test_nobody_listening_is_said_and_tried_again(start: Start) -> None:
    with FakeBroker([welcome]) as broker:
        pass
    bus, client = start(broker, settings("a"))
    bus.until(lambda: len(client.events) >= 3)
    assert all(isinstance(event, Refused) and "refused" in event.reason for event in client.events)
