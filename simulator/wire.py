"""What lies between a client and the broker: nothing, or a link that takes time and breaks.

Over a link everything a client does arrives later, in order. A publish with QoS 1 that was not
acknowledged when the connection broke is sent again on the next one, as the real client does it.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from protocol.actions import Publish
from simulator.broker import Broker
from simulator.broker_session import Client
from simulator.links import Link
from simulator.packets import (
    ACK_BYTES,
    CONNACK_BYTES,
    CONNECT_BYTES,
    DISCONNECT_BYTES,
    packet_bytes,
    subscribe_bytes,
)
from simulator.queue import EventQueue, Scheduled
from transport import BrokerSettings, QueueFullError

#: A broker gives a silent client up after so many keepalives (MQTT 5, 3.1.2.10).
PATIENCE: Final = 1.5


class Caller(Client, Protocol):
    """A client that can be told what became of its attempt to connect."""

    def accepted(self, *, session_present: bool) -> None:
        """The broker took it."""

    def rejected(self, reason: str) -> None:
        """It did not, or nothing answered."""


class Wire(Protocol):
    """A client's way to the broker. Each is used by one client."""

    @property
    def link(self) -> Link | None:
        """What takes time on it."""

    def connect(self, caller: Caller) -> None:
        """Try to connect: ``caller`` will be told."""

    def publish(self, publish: Publish) -> None:
        """Send a message. Raises QueueFullError if as many as allowed wait already."""

    def subscribe(self, topic_filter: str) -> None:
        """Ask for topics."""

    def unsubscribe(self, topic_filter: str) -> None:
        """Ask for them no longer."""

    def acknowledge(self, token: int) -> None:
        """Let the broker forget a message."""

    def close(self) -> None:
        """Say goodbye."""

    def vanish(self) -> None:
        """Be gone without a word."""

    def lost(self) -> None:
        """Be told that the connection has ended."""


class DirectWire:
    """All that a client does is at the broker at once."""

    __slots__ = ("_broker", "_settings")

    link: Link | None = None

    def __init__(self, broker: Broker, settings: BrokerSettings) -> None:
        self._broker = broker
        self._settings = settings

    def connect(self, caller: Caller) -> None:
        """Connect, if the broker is there."""
        if self._broker.available:
            caller.accepted(session_present=_open(self._broker, self._settings, caller))
        else:
            caller.rejected("nobody there")

    def publish(self, publish: Publish) -> None:
        """Send a message."""
        topic, payload = publish.topic, publish.payload
        self._broker.publish(topic, payload, qos=publish.qos, retain=publish.retain)

    def subscribe(self, topic_filter: str) -> None:
        """Ask for topics."""
        self._broker.subscribe(self._settings.client_id, topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        """Ask for them no longer."""
        self._broker.unsubscribe(self._settings.client_id, topic_filter)

    def acknowledge(self, token: int) -> None:
        """Let the broker forget a message."""
        self._broker.acknowledge(self._settings.client_id, token)

    def close(self) -> None:
        """Say goodbye."""
        self._broker.leave(self._settings.client_id)

    def vanish(self) -> None:
        """Be gone without a word; the broker notices at once."""
        self._broker.lose(self._settings.client_id, "vanished")

    def lost(self) -> None:
        """Nothing is ever under way."""


@dataclass(slots=True)
class _Sent:
    """A publish with QoS 1, and when the broker's acknowledgement is here."""

    publish: Publish
    acknowledged_at: float = math.inf


class LinkedWire:
    """What a client does arrives over a link; the broker notices a silent client late."""

    def __init__(
        self, broker: Broker, queue: EventQueue, settings: BrokerSettings, link: Link
    ) -> None:
        self.link: Link | None = link
        self._link = link
        self._broker = broker
        self._queue = queue
        self._settings = settings
        self._caller: Caller | None = None
        self._outbox: deque[_Sent] = deque()
        self._connection = 0
        self._break: Scheduled | None = None

    # --- for the client ----------------------------------------------------------------------

    def connect(self, caller: Caller) -> None:
        """Try to connect: a round trip for TCP, one for MQTT."""
        now, link = self._queue.now, self._link
        self._caller = caller
        self._connection += 1
        link.renew()
        if link.is_out(now):
            self._queue.after(
                self._settings.connect_timeout_s, self._of_now(partial(self._reject, "no answer"))
            )
            return
        breaks_at = link.profile.breaks_at(now, self._settings.keepalive_s)
        if breaks_at < math.inf:
            self._break = self._queue.at(breaks_at, self._of_now(self._broken))
        reached_at = link.up(ACK_BYTES, now)
        shaken_at = link.down(ACK_BYTES, reached_at)
        self._queue.at(link.up(CONNECT_BYTES, shaken_at), self._of_now(self._arrived))

    def publish(self, publish: Publish) -> None:
        """Send a message. Raises QueueFullError."""
        while self._outbox and self._outbox[0].acknowledged_at <= self._queue.now:
            self._outbox.popleft()
        if len(self._outbox) >= self._settings.max_queued:
            raise QueueFullError(publish.topic, self._settings.max_queued)
        sent = _Sent(publish)
        if publish.qos:
            self._outbox.append(sent)
        self._send(sent)

    def subscribe(self, topic_filter: str) -> None:
        """Ask for topics."""
        ask = partial(self._broker.subscribe, self._settings.client_id, topic_filter)
        self._up(subscribe_bytes(topic_filter), ask)

    def unsubscribe(self, topic_filter: str) -> None:
        """Ask for them no longer."""
        ask = partial(self._broker.unsubscribe, self._settings.client_id, topic_filter)
        self._up(subscribe_bytes(topic_filter), ask)

    def acknowledge(self, token: int) -> None:
        """Let the broker forget a message."""
        self._up(ACK_BYTES, partial(self._broker.acknowledge, self._settings.client_id, token))

    def close(self) -> None:
        """Say goodbye, after what is under way."""
        self._stop_break()
        self._up(DISCONNECT_BYTES, partial(self._broker.leave, self._settings.client_id))

    def vanish(self) -> None:
        """Be gone; the broker notices when it has heard nothing for too long."""
        self._forget_connection()
        self._queue.after(PATIENCE * self._settings.keepalive_s, self._notice)

    def lost(self) -> None:
        """The connection ended: what is under way on it never arrives."""
        now = self._queue.now
        for sent in self._outbox:
            if sent.acknowledged_at > now:
                sent.acknowledged_at = math.inf
        self._forget_connection()

    # --- at the broker's end -----------------------------------------------------------------

    def _arrived(self) -> None:
        """CONNECT is at the broker."""
        caller = self._caller
        if caller is None:
            return
        if not self._broker.available:
            # TCP itself is refused: the answer takes as long as any.
            at = self._link.down(ACK_BYTES, self._queue.now)
            self._queue.at(at, self._of_now(partial(self._reject, "nobody there")))
            return
        client_id, clean = self._settings.client_id, self._settings.clean_start
        is_present = not clean and self._broker.has_session(client_id)
        at = self._link.down(CONNACK_BYTES, self._queue.now)
        self._queue.at(at, self._of_now(partial(self._accept, is_present=is_present)))
        _open(self._broker, self._settings, caller)

    def _notice(self) -> None:
        caller = self._caller
        if caller is not None and self._broker.serves(self._settings.client_id, caller):
            self._broker.lose(self._settings.client_id, "silent for too long")

    # --- inside ------------------------------------------------------------------------------

    def _accept(self, *, is_present: bool) -> None:
        if self._caller is None:
            return
        again = [sent for sent in self._outbox if sent.acknowledged_at > self._queue.now]
        self._outbox = deque(again)
        self._caller.accepted(session_present=is_present)
        for sent in again:
            self._send(sent)

    def _reject(self, reason: str) -> None:
        self._forget_connection()
        if self._caller is not None:
            self._caller.rejected(reason)

    def _broken(self) -> None:
        """Both ends have heard nothing for a keepalive."""
        self.lost()
        client_id, caller = self._settings.client_id, self._caller
        if caller is None:
            return
        if self._broker.serves(client_id, caller):
            self._broker.lose(client_id, "keepalive")  # which tells the caller
        else:
            caller.rejected("keepalive")

    def _forget_connection(self) -> None:
        self._connection += 1
        self._stop_break()

    def _stop_break(self) -> None:
        if self._break is not None:
            self._break.cancel()
            self._break = None

    def _of_now(self, action: Callable[[], None]) -> Callable[[], None]:
        """Return the action, to be done only while the present connection lasts."""
        return partial(self._if_same, self._connection, action)

    def _if_same(self, connection: int, action: Callable[[], None]) -> None:
        if connection == self._connection:
            action()

    def _up(self, num_bytes: int, action: Callable[[], None]) -> None:
        at = self._link.up(num_bytes, self._queue.now)
        self._queue.at(at, self._of_now(partial(self._at_broker, action)))

    def _at_broker(self, action: Callable[[], None]) -> None:
        if self._caller is not None and self._broker.serves(self._settings.client_id, self._caller):
            action()

    def _send(self, sent: _Sent) -> None:
        publish = sent.publish
        num_bytes = packet_bytes(publish.topic, publish.payload, publish.qos)
        self._up(num_bytes, partial(self._publish, sent))

    def _publish(self, sent: _Sent) -> None:
        publish = sent.publish
        if publish.qos:
            sent.acknowledged_at = self._link.down(ACK_BYTES, self._queue.now)
        self._broker.publish(publish.topic, publish.payload, qos=publish.qos, retain=publish.retain)


def _open(broker: Broker, settings: BrokerSettings, client: Client) -> bool:
    return broker.open(
        settings.client_id,
        client,
        clean=settings.clean_start,
        will=settings.will,
        receive_maximum=settings.receive_maximum,
        session_expiry_s=settings.session_expiry_s,
    )
