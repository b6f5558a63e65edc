"""The bus as the rest of the code sees it: a handful of verbs, six events, no MQTT client.

A `Transport` is one client's connection to a broker. It connects, reconnects and re-subscribes by
itself; what happened comes out of `events`, in order. It never calls back into its user and starts
no thread: all calls come from the one thread that drives it.

`Pollable` is what a selector loop needs on top; see `transport.loop`. An in-memory bus implements
`Transport` alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class TransportError(Exception):
    """The caller asked for something that this transport cannot do."""


class PacketTooLargeError(TransportError):
    """The PUBLISH packet is larger than the broker takes: cut the payload into chunks."""

    def __init__(self, topic: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{topic}: a packet of {size_bytes} bytes, and the broker takes {limit_bytes}"
        )
        self.topic = topic
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class QueueFullError(TransportError):
    """As many publishes as allowed wait for the broker already: come back later."""

    def __init__(self, topic: str, limit: int) -> None:
        super().__init__(f"{topic}: {limit} publishes wait already")
        self.topic = topic
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted us. Subscriptions that it may not have (any more) are being made again.

    ``protocol`` is ``"5"`` or ``"3.1.1"``; ``max_packet_bytes`` the largest whole packet that we
    may send on this connection.
    """

    protocol: str
    session_present: bool
    max_packet_bytes: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """An accepted connection ended; the transport will come back after a jittered back-off.

    ``taken_over``: another client connected with our client id. Some MQTT 5 brokers say so; where
    nothing was said it is a guess, made at the third connection in a row that the broker closed
    within seconds after accepting it.
    """

    reason: str
    taken_over: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """An attempt to connect failed: nobody there, no answer, or the broker's answer was no.

    ``permanent``: trying again will not help until somebody mends the credentials or the broker's
    access rules. The transport goes on trying, at the longest back-off.
    """

    reason: str
    permanent: bool


@dataclass(slots=True)
class Message:
    """A message arrived. With QoS 1 the broker keeps it until `Transport.acknowledge`.

    ``token`` is the transport's own; it means nothing once the connection is gone. (Not frozen,
    as tens of thousands of them are made in a second; treat it as if it were.)
    """

    topic: str
    payload: bytes
    retain: bool
    token: int


@dataclass(frozen=True, slots=True)
class PublishRefused:
    """The broker said that it did not take a publish (only MQTT 5 brokers say so)."""

    topic: str
    reason: str


@dataclass(frozen=True, slots=True)
class SubscribeRefused:
    """The broker did not grant (or did not end) a subscription."""

    topic_filter: str
    reason: str


Event = Connected | Disconnected | Refused | Message | PublishRefused | SubscribeRefused


@dataclass(slots=True)
class Counters:
    """What went through since the transport was made.

    ``bytes_up`` and ``bytes_down`` are whole PUBLISH packets, re-sent ones counted again;
    ``uplink_bytes_per_s`` is how fast the larger ones went out lately, 0 if there were none.
    """

    published: int = 0
    received: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    connected: int = 0
    dropped_offline: int = 0
    refused_too_large: int = 0
    refused_by_broker: int = 0
    malformed: int = 0
    uplink_bytes_per_s: float = 0.0


class Transport(Protocol):
    """One client's connection to the bus. All calls come from one thread."""

    @property
    def counters(self) -> Counters:
        """What went through so far."""

    @property
    def connected(self) -> bool:
        """Whether a broker has accepted us and the connection is up as far as we know."""

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet that may be sent now, or what is assumed before the first answer."""

    def connect(self) -> None:
        """Start connecting, and stay connected until `close`."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
    ) -> None:
        """Hand a message to the broker.

        While not connected the message is dropped and counted: who must not lose it publishes it
        again on `Connected`. A QoS 1 message that was under way when the connection broke is sent
        again. ``expiry_s`` (MQTT 5 only): how long the broker may keep it for absent subscribers.
        Raise PacketTooLargeError or QueueFullError; then nothing was sent.
        """

    def subscribe(self, filters: Sequence[str], *, qos: int = 1, retained: bool = False) -> None:
        """Subscribe now, or as soon as connected, and whenever the broker may have forgotten it.

        Each call asks the broker, so that what is retained arrives once more. ``retained``: so is
        all that is said there; the broker may then end a subscription that it has before it makes
        the new one, which costs some brokers less.
        """

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """End subscriptions; filters never subscribed to are ignored."""

    def acknowledge(self, message: Message) -> None:
        """Tell the broker to forget a QoS 1 message; nothing for QoS 0 or an old connection."""

    def events(self) -> list[Event]:
        """Take everything that happened since the last call, in order."""

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits (for at most ``timeout_s`` seconds), then leave; no will is published."""


class Pollable(Transport, Protocol):
    """A transport that a selector loop can drive. Times are `time.monotonic` seconds."""

    def attach(self, changed: Callable[["Pollable"], None] | None) -> None:
        """Have ``changed(self)`` called when file descriptor, interest or deadline changed."""

    def fileno(self) -> int:
        """The socket's descriptor; -1 while there is none."""

    @property
    def wants_read(self) -> bool:
        """Whether to wait for the socket to turn readable; not while the event queue is full."""

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait to be sent, or a connect to finish."""

    @property
    def pending(self) -> bool:
        """Whether there is work that no socket will announce: call `readable` soon."""

    @property
    def deadline(self) -> float:
        """When `tick` must be called next; infinity for never."""

    def readable(self, now: float) -> None:
        """Read what is there, up to a full event queue."""

    def writable(self, now: float) -> None:
        """Send what waits, as far as the socket takes it."""

    def tick(self, now: float) -> None:
        """Do what is due: connect, reconnect, keepalive, time-outs."""
