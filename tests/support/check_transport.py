"""What every `Transport` must do, whatever carries it: a suite to run over each implementation.

Write a `Bus` for the implementation, then run each of `CHECKS` on a fresh one.
"""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeGuard

import pytest

from transport import (
    BrokerSettings,
    Connected,
    Disconnected,
    Event,
    Message,
    PacketTooLargeError,
    QueueFullError,
    Transport,
    Will,
)

_PATIENCE_S: Final = 20.0


@dataclass(slots=True)
class Client:
    """A transport, and everything that came out of it."""

    client_id: str
    transport: Transport
    events: list[Event] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        """What arrived, but for the probes of the suite."""
        return [
            event
            for event in self.events
            if isinstance(event, Message) and event.topic != self.probe
        ]

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]

    @property
    def probe(self) -> str:
        return f"probe/{self.client_id}"

    @property
    def num_connects(self) -> int:
        return sum(isinstance(event, Connected) for event in self.events)

    @property
    def num_disconnects(self) -> int:
        return sum(isinstance(event, Disconnected) for event in self.events)

    def acknowledge_all(self) -> None:
        for message in self.messages:
            self.transport.acknowledge(message)


class Bus(ABC):
    """Where the checks make their clients. Each check gets a fresh one."""

    @abstractmethod
    def client(self, settings: BrokerSettings) -> Client:
        """Make a client of this bus; host, port and protocol are the bus's own business."""

    @abstractmethod
    def step(self) -> None:
        """Let a little happen, and append what came out to each client's ``events``."""

    @abstractmethod
    def cut(self, client: Client) -> None:
        """Break its connection without a word, as a dead network would."""

    def until(self, condition: Callable[[], bool]) -> None:
        """Step until it holds; fail when it takes too long."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "took too long"
            self.step()

    def connected(self, settings: BrokerSettings, *filters: str) -> Client:
        """Return a client that is connected and gets what is sent to these filters."""
        client = self.client(settings)
        client.transport.subscribe([*filters, client.probe])
        client.transport.connect()
        self.until(lambda: client.transport.connected)
        self.settle(client)
        return client

    def settle(self, client: Client) -> None:
        """Wait until all it asked for before has been done: its message to itself comes last."""
        probe = f"probe {time.monotonic_ns()}".encode()
        client.transport.publish(client.probe, probe)
        self.until(lambda: any(is_probe(event, probe) for event in client.events))
        for event in client.events:
            if is_probe(event, probe):
                client.transport.acknowledge(event)

    def reconnected(self, client: Client) -> None:
        """Cut it, and wait until it has come back by itself."""
        before = client.num_connects
        self.cut(client)
        self.until(lambda: client.num_connects > before)
        self.settle(client)


def is_probe(event: Event, payload: bytes) -> TypeGuard[Message]:
    return isinstance(event, Message) and event.payload == payload


def settings(client_id: str, **changes: object) -> BrokerSettings:
    """Return settings for a quick test: short back-off, a session that outlives a connection."""
    base = BrokerSettings(client_id=client_id, backoff_first_s=0.05, backoff_cap_s=0.2)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type] # checked when it runs


def messages_arrive_in_order(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a/+")
    writer = bus.connected(settings("writer"))
    payloads = [b"", b"\0", bytes(range(256)), b"x" * 20_000, "ü".encode()]
    for payload in payloads:
        writer.transport.publish("a/b", payload)
    bus.until(lambda: len(reader.messages) == len(payloads))
    assert reader.payloads == payloads
    assert {message.topic for message in reader.messages} == {"a/b"}
    assert not any(message.retain for message in reader.messages)


def qos_0_arrives_and_needs_no_acknowledgement(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a")
    writer = bus.connected(settings("writer"))
    writer.transport.publish("a", b"zero", qos=0)
    bus.until(lambda: reader.payloads == [b"zero"])
    reader.acknowledge_all()
    bus.reconnected(reader)
    assert reader.payloads == [b"zero"]


def a_retained_message_waits_for_subscribers(bus: Bus) -> None:
    writer = bus.connected(settings("writer"))
    writer.transport.publish("state", b"old", retain=True)
    writer.transport.publish("state", b"new", retain=True)
    bus.settle(writer)
    reader = bus.connected(settings("reader"), "state")
    bus.until(lambda: reader.payloads == [b"new"])
    assert reader.messages[0].retain


def an_empty_retained_message_clears(bus: Bus) -> None:
    writer = bus.connected(settings("writer"))
    writer.transport.publish("state", b"old", retain=True)
    writer.transport.publish("state", b"", retain=True)
    bus.settle(writer)
    assert bus.connected(settings("reader"), "state").messages == []


def a_will_is_published_when_the_connection_breaks(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "state")
    mortal = bus.connected(settings("mortal", will=Will("state", b"offline")))
    bus.cut(mortal)
    bus.until(lambda: b"offline" in reader.payloads)


def no_will_is_published_after_a_goodbye(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "state", "last")
    mortal = bus.connected(settings("mortal", will=Will("state", b"offline")))
    mortal.transport.publish("last", b"words")
    mortal.transport.close()
    bus.until(lambda: b"words" in reader.payloads)
    bus.settle(reader)
    assert reader.payloads == [b"words"]


def what_was_not_acknowledged_comes_again(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a")
    writer = bus.connected(settings("writer"))
    for payload in (b"done", b"open"):
        writer.transport.publish("a", payload)
    bus.until(lambda: reader.payloads == [b"done", b"open"])
    reader.transport.acknowledge(reader.messages[0])
    bus.settle(reader)
    bus.reconnected(reader)
    assert reader.payloads == [b"done", b"open", b"open"]


def an_acknowledgement_of_an_old_connection_means_nothing(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a")
    writer = bus.connected(settings("writer"))
    writer.transport.publish("a", b"open")
    bus.until(lambda: reader.payloads == [b"open"])
    bus.reconnected(reader)
    reader.transport.acknowledge(reader.messages[0])
    bus.settle(reader)
    bus.reconnected(reader)
    assert reader.payloads == [b"open"] * 3


def what_was_sent_meanwhile_waits_in_the_session(bus: Bus) -> None:
    reader = bus.connected(settings("reader", backoff_first_s=0.2), "a")
    writer = bus.connected(settings("writer"))
    bus.cut(reader)
    bus.until(lambda: not reader.transport.connected)
    writer.transport.publish("a", b"meanwhile")
    bus.settle(writer)
    bus.until(lambda: reader.payloads == [b"meanwhile"])


def an_oversize_packet_is_refused_before_it_is_sent(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a")
    writer = bus.connected(settings("writer", max_packet_bytes=1_000))
    limit = writer.transport.max_packet_bytes
    with pytest.raises(PacketTooLargeError, match=str(limit)):
        writer.transport.publish("a", b"x" * limit)
    writer.transport.publish("a", b"small")
    bus.until(lambda: reader.payloads == [b"small"])
    assert writer.transport.counters.refused_too_large == 1
    assert writer.num_disconnects == 0


def the_queue_is_bounded(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a")
    writer = bus.connected(settings("writer", max_queued=30))
    num_taken = 0
    while num_taken < 31 and takes(writer, b"%d" % num_taken):
        num_taken += 1
    assert num_taken in (29, 30)  # the probe that ended its connecting may still wait
    bus.until(lambda: len(reader.messages) == num_taken)
    assert reader.payloads == [b"%d" % number for number in range(num_taken)]
    bus.until(lambda: takes(writer, b"room again"))  # the reader may know before the writer does


def takes(writer: Client, payload: bytes) -> bool:
    try:
        writer.transport.publish("a", payload)
    except QueueFullError:
        return False
    return True


def unsubscribing_ends_it(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a", "b")
    writer = bus.connected(settings("writer"))
    reader.transport.unsubscribe(["a", "never"])
    bus.settle(reader)
    writer.transport.publish("a", b"unheard")
    writer.transport.publish("b", b"heard")
    bus.until(lambda: b"heard" in reader.payloads)
    assert reader.payloads == [b"heard"]


def many_filters_are_all_heard(bus: Bus) -> None:
    topics = [f"many/{number}" for number in range(50)]
    reader = bus.connected(settings("reader"), *topics)
    writer = bus.connected(settings("writer"))
    for topic in topics:
        writer.transport.publish(topic, b"x")
    bus.until(lambda: len(reader.messages) == 50)
    assert [message.topic for message in reader.messages] == topics


def subscriptions_are_made_again(bus: Bus) -> None:
    reader = bus.connected(settings("reader", clean_start=True), "a")
    writer = bus.connected(settings("writer"))
    bus.reconnected(reader)
    writer.transport.publish("a", b"again")
    bus.until(lambda: reader.payloads == [b"again"])


def publishing_offline_is_dropped_and_counted(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a")
    writer = bus.client(settings("writer"))
    writer.transport.publish("a", b"too early")
    assert writer.transport.counters.dropped_offline == 1
    writer.transport.connect()
    bus.until(lambda: writer.transport.connected)
    writer.transport.publish("a", b"in time")
    bus.until(lambda: len(reader.messages) > 0)
    assert reader.payloads == [b"in time"]


def a_slow_reader_loses_nothing(bus: Bus) -> None:
    reader = bus.connected(settings("reader", max_received=5), "a")
    writer = bus.connected(settings("writer", max_queued=1_000))
    for number in range(500):
        writer.transport.publish("a", b"%d" % number)
    acknowledged = 0
    while acknowledged < 500:
        bus.step()
        for message in reader.messages[acknowledged:]:
            reader.transport.acknowledge(message)
            acknowledged += 1
    assert reader.payloads == [b"%d" % number for number in range(500)]


def bytes_are_counted_alike_on_both_sides(bus: Bus) -> None:
    reader = bus.connected(settings("reader"), "a/b/c")
    writer = bus.connected(settings("writer"))
    before = reader.transport.counters.bytes_down, writer.transport.counters.bytes_up
    writer.transport.publish("a/b/c", b"x" * 1_000)
    bus.until(lambda: len(reader.messages) == 1)
    down = reader.transport.counters.bytes_down - before[0]
    up = writer.transport.counters.bytes_up - before[1]
    assert down == up
    assert 1_000 < up < 1_030


CHECKS: Final[tuple[Callable[[Bus], None], ...]] = (
    messages_arrive_in_order,
    qos_0_arrives_and_needs_no_acknowledgement,
    a_retained_message_waits_for_subscribers,
    an_empty_retained_message_clears,
    a_will_is_published_when_the_connection_breaks,
    no_will_is_published_after_a_goodbye,
    what_was_not_acknowledged_comes_again,
    an_acknowledgement_of_an_old_connection_means_nothing,
    what_was_sent_meanwhile_waits_in_the_session,
    an_oversize_packet_is_refused_before_it_is_sent,
    the_queue_is_bounded,
    unsubscribing_ends_it,
    many_filters_are_all_heard,
    subscriptions_are_made_again,
    publishing_offline_is_dropped_and_counted,
    a_slow_reader_loses_nothing,
    bytes_are_counted_alike_on_both_sides,
)
