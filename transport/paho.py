"""`PahoTransport`: the transport over paho-mqtt, driven from outside, never with a thread.

It decides when to make the next `Connection` and with which protocol, remembers what is subscribed
to and what waits to be sent, and says what happened.
"""

import math
import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from transport.backoff import Backoff
from transport.connection import Connection, Flow
from transport.dialer import Dialer, Version
from transport.interface import (
    Counters,
    Disconnected,
    Event,
    Message,
    PacketTooLargeError,
    Pollable,
    PublishRefused,
    QueueFullError,
    Refused,
)
from transport.names import check_filter, check_topic
from transport.outbox import Outbox, Outgoing
from transport.settings import MQTT_5, BrokerSettings

_CHECKS_PER_KEEPALIVE: Final = 8
_UNSUPPORTED_VERSION: Final = 0x84
# Client id not valid, bad user name or password, not authorized, banned, bad authentication method
_PERMANENT: Final = frozenset({_UNSUPPORTED_VERSION, 0x85, 0x86, 0x87, 0x8A, 0x8C})


class PahoTransport:
    """A `Pollable` over a TCP socket. ``random`` gives numbers in [0, 1) for the back-off.

    Drive it with a `transport.loop.Loop`. Only looking up a host name blocks.
    """

    def __init__(self, settings: BrokerSettings, *, random: Callable[[], float]) -> None:
        self._settings = settings
        self._flow = Flow(
            deque(), Outbox(max_queued=settings.max_queued, window=settings.send_window), Counters()
        )
        self._dialer = Dialer(settings)
        self._version = Version(settings.protocol)
        self._backoff = Backoff(
            first_s=settings.backoff_first_s,
            cap_s=settings.backoff_cap_s,
            stable_s=settings.stable_s,
            random=random,
        )
        self._changed: Callable[[Pollable], None] | None = None
        self._connection: Connection | None = None
        self._num_connections = 0
        self._connected = False
        self._deadline = math.inf
        self._max_packet_bytes = settings.max_packet_bytes

    @property
    def counters(self) -> Counters:
        """What went through so far."""
        return self._flow.counters

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and the connection is up as far as we know."""
        return self._connected

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet that may be sent; before the first CONNACK, the setting."""
        return self._max_packet_bytes

    def connect(self) -> None:
        """Start connecting at the next `tick`, and stay connected until `close`."""
        if self._connection is None and self._deadline == math.inf:
            self._deadline = -math.inf
            self._announce()

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """Queue a message; see `Transport.publish`. Raise ValueError for an impossible topic."""
        check_topic(topic)
        flow = self._flow
        outgoing = Outgoing(topic, payload, qos, retain, expiry_s)
        size = outgoing.packet_bytes(mqtt_5=self._version.current == MQTT_5)
        if size > self._max_packet_bytes:
            flow.counters.refused_too_large += 1
            raise PacketTooLargeError(topic, size, self._max_packet_bytes)
        if not self._connected or self._connection is None:
            flow.counters.dropped_offline += 1
            return
        if flow.outbox.full:
            raise QueueFullError(topic, self._settings.max_queued)
        flow.outbox.add(outgoing)
        self._connection.pump()
        self._announce()

    def subscribe(self, filters: Sequence[str], *, qos: int = 1, retained: bool = False) -> None:
        """Subscribe now or when connected; see `Transport.subscribe`."""
        for topic_filter in filters:
            check_filter(topic_filter)
        self._flow.subscriptions.want(filters, qos, retained=retained)
        if self._connected and self._connection is not None:
            self._ask(self._connection, filters, qos)
            self._announce()

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """End subscriptions; see `Transport.unsubscribe`."""
        known = self._flow.subscriptions.end(filters)
        if known and self._connected and self._connection is not None:
            self._connection.unsubscribe(known)
            self._announce()

    def acknowledge(self, message: Message) -> None:
        """Acknowledge a QoS 1 message of the present connection."""
        if message.token and self._connection is not None:
            self._connection.acknowledge(message.token)
            self._announce()

    def events(self) -> list[Event]:
        """Take everything that happened since the last call, in order."""
        events = list(self._flow.events)
        self._flow.events.clear()
        if len(events) >= self._settings.max_received:
            self._announce()  # reading goes on
        return events

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits, for at most ``timeout_s``, and leave; see `Transport.close`."""
        connection = self._connection
        if connection is not None:
            if self._connected:
                self._leave(connection, time.monotonic() + timeout_s)
                self._flow.subscriptions.connection_lost(time.monotonic())
            connection.abandon("closed")  # which may have ended while we took our leave
        self._connection = None
        self._connected = False
        self._deadline = math.inf
        self._announce()

    def attach(self, changed: Callable[[Pollable], None] | None) -> None:
        """Have ``changed(self)`` called when descriptor, interest or deadline changed."""
        self._changed = changed

    def fileno(self) -> int:
        """The socket's descriptor; -1 while there is none."""
        return -1 if self._connection is None else self._connection.fileno()

    @property
    def wants_read(self) -> bool:
        """Whether there is a connection, and room for what comes."""
        connection = self._connection
        if connection is None:
            return False
        return connection.awaits_answer or (connection.established and not self._full)

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait to be sent, or a connect to finish."""
        return self._connection is not None and self._connection.wants_write

    @property
    def pending(self) -> bool:
        """Whether bytes wait in the buffer, and there is room for what they hold."""
        return self._connection is not None and self._connection.pending and not self._full

    @property
    def deadline(self) -> float:
        """When `tick` must be called next; infinity for never."""
        return self._deadline

    def readable(self, now: float) -> None:
        """Read what is there, up to a full event queue."""
        if self._connection is None:
            return
        if self._connection.awaits_answer:
            self.writable(now)  # the handshake goes on, and CONNECT follows it
        elif self._connection.established:
            self._connection.readable(self._settings.max_received)
            self._review(now)

    def writable(self, now: float) -> None:
        """Finish connecting; send what waits."""
        if self._connection is not None:
            self._connection.writable()
            self._review(now)

    def tick(self, now: float) -> None:
        """Do what is due: connect, give up on a silent broker, keep the connection alive."""
        if now < self._deadline:
            return
        connection = self._connection
        if connection is None:
            self._open(now)
            return
        if not self._connected:
            connection.unanswered = connection.established
            connection.abandon("the broker does not answer")
        else:
            connection.keep_alive(unread=self._full)
            self._deadline = now + self._settings.keepalive_s / _CHECKS_PER_KEEPALIVE
        self._review(now)

    @property
    def _full(self) -> bool:
        return len(self._flow.events) >= self._settings.max_received

    def _announce(self) -> None:
        if self._changed is not None:
            self._changed(self)

    def _open(self, now: float) -> None:
        self._num_connections += 1
        try:
            stream = self._dialer.dial(self._announce)
        except OSError as error:
            self._deadline = now + self._not_reached(str(error))
            return
        self._deadline = now + self._settings.connect_timeout_s
        self._connection = Connection(
            self._settings, self._version.current, stream, self._num_connections, self._flow
        )
        self._announce()

    def _review(self, now: float) -> None:
        """See what a step has done to the connection."""
        connection = self._connection
        if connection is None:
            return
        if connection.accepted and not self._connected:
            self._begin(connection, now)
        if connection.ended is None:
            connection.pump()
            return
        self._connection = None
        if self._connected:
            delay_s = self._lost(connection, connection.ended, now)
        else:
            delay_s = self._not_accepted(connection, connection.ended)
        self._deadline = now + delay_s

    def _begin(self, connection: Connection, now: float) -> None:
        self._connected = True
        self._flow.counters.connected += 1
        self._version.accepted()
        self._dialer.succeeded()
        self._backoff.accepted(now)
        self._deadline = now + self._settings.keepalive_s / _CHECKS_PER_KEEPALIVE
        self._max_packet_bytes = connection.max_packet_bytes
        mqtt_5 = self._version.current == MQTT_5
        for outgoing in self._flow.outbox.drop_larger(self._max_packet_bytes, mqtt_5=mqtt_5):
            self._flow.counters.refused_too_large += 1
            self._flow.events.append(PublishRefused(outgoing.topic, "larger than the broker takes"))
        asked = self._flow.subscriptions.missing(now, session_present=connection.session_present)
        for qos, filters in asked:
            self._ask(connection, filters, qos)
        connection.unsubscribe(
            self._flow.subscriptions.lingering(session_present=connection.session_present)
        )

    def _ask(self, connection: Connection, filters: Sequence[str], qos: int) -> None:
        """Subscribe. mosquitto 2.0 loses memory with each filter that a kept session repeats."""
        if connection.session_present:
            connection.unsubscribe(self._flow.subscriptions.replaceable(filters))
        connection.subscribe(filters, qos)

    def _lost(self, connection: Connection, reason: str, now: float) -> float:
        """Return the delay before the next attempt."""
        self._connected = False
        self._flow.counters.dropped_offline += self._flow.outbox.connection_lost()
        self._flow.uplink.interrupted()
        self._flow.subscriptions.connection_lost(now)
        taken_over = connection.taken_over
        if taken_over is None:
            taken_over = self._backoff.looks_taken_over(now)
            if taken_over:
                reason = f"{reason}, soon after CONNACK, repeatedly: has another client our id?"
        self._flow.events.append(Disconnected(reason, taken_over))
        return self._backoff.ended(now, taken_over=taken_over)

    def _not_accepted(self, connection: Connection, reason: str) -> float:
        refusal = connection.refusal
        if refusal is None:
            if connection.unanswered and self._version.unanswered():
                return 0.0
            return self._not_reached(reason)
        if refusal.value == _UNSUPPORTED_VERSION and self._version.unsupported():
            return 0.0
        permanent = refusal.value in _PERMANENT
        self._flow.events.append(Refused(str(refusal), permanent))
        return self._backoff.refused() if permanent else self._backoff.failed()

    def _not_reached(self, reason: str) -> float:
        self._flow.events.append(Refused(reason, permanent=False))
        return 0.0 if self._dialer.has_more else self._backoff.failed()

    def _leave(self, connection: Connection, until: float) -> None:
        """Send what waits and say goodbye, so that the broker has read it and publishes no will."""
        connection.leaving = True
        while len(self._flow.outbox) and self._connected and self._wait_for_socket(until):
            self.readable(time.monotonic())
            self.writable(time.monotonic())
        if not self._connected:
            return
        connection.leave()
        while not connection.flush_goodbye() and self._wait_for_socket(until):
            pass

    def _wait_for_socket(self, until: float) -> bool:
        """Wait for the socket to be of use; False when time is up."""
        left_s = until - time.monotonic()
        if left_s <= 0 or self.fileno() < 0:
            return False
        poller = select.poll()
        wants_write = select.POLLOUT if self.wants_write else 0
        poller.register(self.fileno(), select.POLLIN | wants_write)
        poller.poll(left_s * 1000)
        return True
