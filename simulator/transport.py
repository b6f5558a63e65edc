"""`transport.Transport` over the in-memory broker, in virtual time."""

from collections.abc import Callable, Sequence

from protocol.actions import Publish
from simulator.broker import Broker
from simulator.links import Link
from simulator.packets import packet_bytes
from simulator.queue import EventQueue, Scheduled
from simulator.retries import Doubling, Retries
from simulator.wire import DirectWire, LinkedWire, Wire
from transport import (
    BrokerSettings,
    Connected,
    Counters,
    Disconnected,
    Event,
    Message,
    PacketTooLargeError,
    Refused,
)
from transport.subscriptions import Subscriptions


class MemoryTransport:
    """One client. ``wake`` is called when events wait to be taken, once until they are.

    Of the settings it heeds the client id, ``clean_start``, the will, ``max_packet_bytes``, how
    long a session lasts, and the back-off, which doubles without jitter unless there are
    ``retries``. Without a ``link`` a publish is at the broker at once, so none ever waits; with one
    the time-outs, ``keepalive_s`` and ``max_queued`` count too. ``counters`` may be those of
    others, too: they then count for all together.
    """

    __slots__ = (
        "_attempt",
        "_broker",
        "_events",
        "_is_trying",
        "_queue",
        "_retries",
        "_settings",
        "_subscriptions",
        "_wake",
        "_wire",
        "connected",
        "counters",
    )

    def __init__(
        self,
        broker: Broker,
        queue: EventQueue,
        settings: BrokerSettings,
        wake: Callable[[], None] = lambda: None,
        counters: Counters | None = None,
        *,
        link: Link | None = None,
        retries: Retries | None = None,
    ) -> None:
        self.counters = Counters() if counters is None else counters
        self.connected = False
        self._broker = broker
        self._queue = queue
        self._settings = settings
        self._wake = wake
        self._retries = retries or Doubling(settings)
        self._wire: Wire = (
            DirectWire(broker, settings)
            if link is None
            else LinkedWire(broker, queue, settings, link)
        )
        self._events: list[Event] = []
        self._subscriptions = Subscriptions()
        self._attempt: Scheduled | None = None
        self._is_trying = False

    @property
    def link(self) -> Link | None:
        """What is between it and the broker."""
        return self._wire.link

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet that may be sent: what both the broker and the settings allow."""
        return min(self._settings.max_packet_bytes, self._broker.max_packet_bytes)

    def connect(self) -> None:
        """Start connecting, and stay connected until `close`."""
        self._attempt = self._queue.at(self._queue.now, self._try)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,  # noqa: ARG002 - no session here lives long enough
    ) -> None:
        """Hand a message to the broker; see `Transport.publish`."""
        size = packet_bytes(topic, payload, qos)
        if size > self.max_packet_bytes:
            self.counters.refused_too_large += 1
            raise PacketTooLargeError(topic, size, self.max_packet_bytes)
        if not self.connected:
            self.counters.dropped_offline += 1
            return
        self._wire.publish(Publish(topic, payload, retain, qos))
        self.counters.published += 1
        self.counters.bytes_up += size

    def subscribe(self, filters: Sequence[str], *, qos: int = 1, retained: bool = False) -> None:
        """Subscribe now or when connected."""
        self._subscriptions.want(filters, qos, retained=retained)
        if self.connected:
            self._ask(filters)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """End subscriptions."""
        known = self._subscriptions.end(filters)
        for topic_filter in known if self.connected else ():
            self._wire.unsubscribe(topic_filter)

    def acknowledge(self, message: Message) -> None:
        """Let the broker forget a message of the present connection."""
        if self.connected and message.token:
            self._wire.acknowledge(message.token)

    def events(self) -> list[Event]:
        """Take everything that happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def close(self, timeout_s: float = 2.0) -> None:  # noqa: ARG002 - what is under way arrives
        """Say goodbye."""
        self._stop()
        if self.connected:
            self.connected = False
            self._subscriptions.connection_lost(self._queue.now)
            self._wire.close()

    def vanish(self) -> None:
        """Be gone without a word, as without power: the broker publishes the will."""
        self._stop()
        if self.connected:
            self.connected = False
            self._subscriptions.connection_lost(self._queue.now)
            self._wire.vanish()

    # --- the broker's end ----------------------------------------------------------------------

    def land(self, message: Message) -> None:
        """A message arrived."""
        if not self.connected:
            return  # and the broker will send it again
        self.counters.received += 1
        self.counters.bytes_down += packet_bytes(message.topic, message.payload, message.token)
        self._happened(message)

    def broken(self, reason: str, *, taken_over: bool) -> None:
        """The connection is gone; come back later."""
        self._wire.lost()
        if self._is_trying:
            self.rejected(reason)
        if not self.connected:
            return
        self.connected = False
        self._subscriptions.connection_lost(self._queue.now)
        self._happened(Disconnected(reason, taken_over))
        self._try_after(self._retries.ended(self._queue.now, taken_over=taken_over))

    def accepted(self, *, session_present: bool) -> None:
        """The broker took us."""
        if not self._is_trying:
            return
        self._is_trying = False
        self._retries.accepted(self._queue.now)
        self.connected = True
        self.counters.connected += 1
        self._happened(Connected("5", session_present, self.max_packet_bytes))
        now = self._queue.now
        for _, filters in self._subscriptions.missing(now, session_present=session_present):
            self._ask(filters)

    def rejected(self, reason: str) -> None:
        """It did not, or it did not answer; try again later."""
        if not self._is_trying:
            return
        self._is_trying = False
        self._happened(Refused(reason, permanent=False))
        self._try_after(self._retries.failed())

    # --- inside --------------------------------------------------------------------------------

    def _ask(self, filters: Sequence[str]) -> None:
        """Subscribe; what gets lost on the way is too young to count as granted."""
        for topic_filter in filters:
            self._wire.subscribe(topic_filter)
            self._subscriptions.granted(topic_filter, self._queue.now)

    def _try(self) -> None:
        self._is_trying = True
        self._wire.connect(self)

    def _try_after(self, delay_s: float) -> None:
        self._attempt = self._queue.after(delay_s, self._try)

    def _stop(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
        if self._is_trying:
            self._is_trying = False
            self._wire.vanish()

    def _happened(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) == 1:
            self._wake()
