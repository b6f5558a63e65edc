"""One connection, from CONNECT to its end: paho's callbacks become events.

No code of the user runs inside a callback, so none can block paho, raise through it or call back
into it under one of its locks.
"""

import contextlib
import struct
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from paho.mqtt import MQTTException
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from transport.client import Received, StreamClient, expiry
from transport.interface import (
    Connected,
    Counters,
    Event,
    Message,
    PublishRefused,
    SubscribeRefused,
)
from transport.outbox import Outbox
from transport.settings import MQTT_5, BrokerSettings
from transport.stream import Stream
from transport.subscriptions import Subscriptions
from transport.uplink import Uplink

MAX_FILTERS: Final = 8
_SESSION_TAKEN_OVER: Final = 0x8E
_DISCONNECT_PACKET: Final = b"\xe0\x00"
_PACKET_ID_BITS: Final = 16

# What paho's decoders may raise on garbage; newer releases catch some of it themselves.
_GARBAGE: Final = (struct.error, IndexError, KeyError, ValueError, MQTTException)


@dataclass(slots=True)
class Flow:
    """What outlives a connection: events to be taken, publishes to be sent, filters, counts."""

    events: deque[Event]
    outbox: Outbox
    counters: Counters
    uplink: Uplink = field(default_factory=Uplink)
    subscriptions: Subscriptions = field(default_factory=Subscriptions)


class Connection:
    """A stream, the paho client on it, and what became of it.

    ``ended`` is why it is over, None while it is not; ``refusal`` the broker's no to our CONNECT;
    ``unanswered`` that it gave none to that. While ``leaving``, messages are left to the broker.
    ``number`` tells tokens of one connection from those of another.
    """

    def __init__(
        self, settings: BrokerSettings, protocol: str, stream: Stream, number: int, flow: Flow
    ) -> None:
        self._settings = settings
        self._protocol = protocol
        self._stream = stream
        self._number = number
        self._flow = flow
        self._asked: dict[int, Sequence[str]] = {}
        self._heard = 0
        self.max_packet_bytes = settings.max_packet_bytes
        self.accepted = False
        self.session_present = False
        self.refusal: ReasonCode | None = None
        self.ended: str | None = None
        self.unanswered = False
        self.leaving = False
        self.taken_over: bool | None = None  # None: the broker did not say
        self._client = StreamClient(settings, protocol, stream, self._on_publish_packet)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_unsubscribe = self._on_unsubscribe
        self._client.open(settings)

    def fileno(self) -> int:
        """Return the descriptor, -1 once closed."""
        return self._stream.fileno()

    @property
    def established(self) -> bool:
        """Whether the TCP connection is there, accepted by the broker or not."""
        return self._stream.established

    @property
    def awaits_answer(self) -> bool:
        """Whether the handshake of TLS waits for the broker."""
        return self._stream.awaits_answer

    @property
    def wants_write(self) -> bool:
        """Whether the socket should tell when it can be written to."""
        if self._stream.awaits_answer:
            return False
        return not self._stream.established or self._stream.unsent or self._client.want_write()

    @property
    def pending(self) -> bool:
        """Whether bytes wait in our buffer."""
        return self._stream.established and self._stream.pending

    def readable(self, max_events: int) -> None:
        """Handle what has arrived, until it is used up or as many events wait."""
        stream, client, events = self._stream, self._client, self._flow.events
        stream.moisten()
        with self._ending_on_garbage():
            while stream.pending and self.ended is None and len(events) < max_events:
                client.read()

    def writable(self) -> None:
        """Finish connecting; send what waits."""
        try:
            if not self._stream.established:
                self._stream.finish_connecting()
            with self._ending_on_garbage():
                self._client.loop_write()
            self._stream.flush()
        except OSError as error:
            self.abandon(self._stream.problem or str(error))

    def pump(self) -> None:
        """Hand publishes to paho while the window has room."""
        if not self.accepted or self.ended is not None:
            return
        flow = self._flow
        while (outgoing := flow.outbox.next()) is not None:
            with_expiry = outgoing.expiry_s is not None and self._protocol == MQTT_5
            sent = self._client.publish(
                outgoing.topic,
                outgoing.payload,
                outgoing.qos,
                outgoing.retain,
                expiry(outgoing.expiry_s or 0) if with_expiry else None,
            )
            flow.outbox.sent(sent.mid, outgoing)
            num_bytes = outgoing.packet_bytes(mqtt_5=self._protocol == MQTT_5)
            flow.counters.published += 1
            flow.counters.bytes_up += num_bytes
            if outgoing.qos:
                flow.uplink.sent(num_bytes, time.monotonic())

    def keep_alive(self, *, unread: bool) -> None:
        """Ping when it is time, and end the connection if the broker has gone silent.

        Any byte is a sign of life: behind a long backlog the answer to a ping comes late. While
        nobody reads on purpose (``unread``), silence says nothing.
        """
        if unread or self._stream.num_received != self._heard:
            self._client.forgive_ping()
        self._heard = self._stream.num_received
        self._client.loop_misc()

    def subscribe(self, filters: Sequence[str], qos: int) -> None:
        """Subscribe, a few filters a packet, as the strictest brokers want it."""
        for group in _groups(filters):
            _, packet_id = self._client.subscribe([(each, qos) for each in group])
            self._expect_answer(packet_id, group)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe, a few filters a packet."""
        for group in _groups(filters):
            _, packet_id = self._client.unsubscribe(list(group))
            self._expect_answer(packet_id, group)

    def acknowledge(self, token: int) -> None:
        """Send the PUBACK, unless the message came over another connection."""
        if token >> _PACKET_ID_BITS == self._number and self.ended is None:
            self._client.acknowledge(token & 0xFFFF)

    def leave(self) -> None:
        """Say DISCONNECT behind all that was queued. Goes around paho, which closes too early."""
        with contextlib.suppress(BlockingIOError):
            self._stream.send(_DISCONNECT_PACKET)

    def flush_goodbye(self) -> bool:
        """Send the rest; return whether the broker has closed its side, so that it has read it."""
        try:
            self._stream.flush()
            if self._stream.unsent:
                return False
            self._stream.say_goodbye()
        except OSError:
            return True
        return self._stream.discard()

    def abandon(self, reason: str) -> None:
        """End it from our side, without a word."""
        if self.ended is None:
            self.ended = reason
        self._stream.close()

    def _expect_answer(self, packet_id: int | None, filters: Sequence[str]) -> None:
        if packet_id is not None:
            self._asked[packet_id] = filters

    @contextlib.contextmanager
    def _ending_on_garbage(self) -> Iterator[None]:
        try:
            yield
        except _GARBAGE as error:
            self._flow.counters.malformed += 1
            self.abandon(f"malformed packet: {error}")

    def _on_connect(
        self,
        _client: Client,
        _userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self.refusal = reason
            return
        self.accepted = True
        self.session_present = flags.session_present
        self.max_packet_bytes = _limit(properties, "MaximumPacketSize", self.max_packet_bytes)
        window = self._settings.send_window
        self._flow.outbox.window = min(window, _limit(properties, "ReceiveMaximum", window))
        self._flow.events.append(
            Connected(self._protocol, flags.session_present, self.max_packet_bytes)
        )

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server and reason.value:  # paho 2.1 loses short ones: 0
            self.taken_over = reason.value == _SESSION_TAKEN_OVER
        problem = self._stream.problem
        self.unanswered = not self.accepted and self.refusal is None and not problem
        self.abandon(problem or str(reason))

    def _on_publish_packet(self, received: Received) -> None:
        if self.leaving:
            return
        flow = self._flow
        topic_bytes, payload, retain, packet_id, size_bytes = received
        try:
            topic = topic_bytes.decode()
        except UnicodeDecodeError:
            flow.counters.malformed += 1
            if packet_id:
                self._client.acknowledge(packet_id)  # or it would come again for ever
            return
        flow.counters.received += 1
        flow.counters.bytes_down += size_bytes
        token = self._number << _PACKET_ID_BITS | packet_id if packet_id else 0
        flow.events.append(Message(topic, payload, retain, token))

    def _on_publish(
        self,
        _client: Client,
        _userdata: object,
        packet_id: int,
        reason: ReasonCode,
        _properties: Properties,
    ) -> None:
        flow = self._flow
        outgoing = flow.outbox.done(packet_id)
        if outgoing is None:
            return
        if outgoing.qos:
            flow.uplink.answered(time.monotonic())
            flow.counters.uplink_bytes_per_s = flow.uplink.bytes_per_s
        if reason.is_failure:
            flow.counters.refused_by_broker += 1
            flow.events.append(PublishRefused(outgoing.topic, str(reason)))

    def _on_subscribe(
        self,
        _client: Client,
        _userdata: object,
        packet_id: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        flow = self._flow
        for topic_filter, reason in zip(self._asked.pop(packet_id, ()), reasons, strict=False):
            if reason.is_failure:
                flow.subscriptions.refused(topic_filter)
                flow.events.append(SubscribeRefused(topic_filter, str(reason)))
            else:
                flow.subscriptions.granted(topic_filter, time.monotonic())

    def _on_unsubscribe(
        self,
        _client: Client,
        _userdata: object,
        packet_id: int,
        _reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        for topic_filter in self._asked.pop(packet_id, ()):
            self._flow.subscriptions.ended(topic_filter)


def _groups(filters: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(filters), MAX_FILTERS):
        yield filters[start : start + MAX_FILTERS]


def _limit(properties: Properties | None, name: str, otherwise: int) -> int:
    """Return a number from CONNACK. paho keeps only those properties that were sent."""
    return int(getattr(properties, name, otherwise))
