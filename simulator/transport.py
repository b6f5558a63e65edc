"""`transport.Transport` over the in-memory broker, in virtual time."""

from collections.abc import Callable, Sequence

from simulator.broker import Broker
from simulator.queue import EventQueue, Scheduled
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


class MemoryTransport:
    """One client. ``wake`` is called when events wait to be taken, once until they are.

    Of the settings it heeds the client id, ``clean_start``, the will, ``max_packet_bytes`` and the
    back-off, which doubles without jitter. A publish is at the broker at once, so none ever waits.
    ``counters`` may be those of others, too: they then count for all together.
    """

    def __init__(
        self,
        broker: Broker,
        queue: EventQueue,
        settings: BrokerSettings,
        wake: Callable[[], None] = lambda: None,
        counters: Counters | None = None,
    ) -> None:
        self.counters = Counters() if counters is None else counters
        self.connected = False
        self._broker = broker
        self._queue = queue
        self._settings = settings
        self._wake = wake
        self._events: list[Event] = []
        self._filters: dict[str, None] = {}
        self._attempt: Scheduled | None = None
        self._backoff_s = settings.backoff_first_s

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
        self.counters.published += 1
        self.counters.bytes_up += size
        self._broker.publish(topic, payload, qos=qos, retain=retain)

    def subscribe(self, filters: Sequence[str], *, qos: int = 1) -> None:  # noqa: ARG002 - always 1
        """Subscribe now or when connected."""
        for topic_filter in filters:
            self._filters[topic_filter] = None
            if self.connected:
                self._broker.subscribe(self._settings.client_id, topic_filter)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """End subscriptions."""
        for topic_filter in filters:
            if topic_filter not in self._filters:
                continue
            del self._filters[topic_filter]
            if self.connected:
                self._broker.unsubscribe(self._settings.client_id, topic_filter)

    def acknowledge(self, message: Message) -> None:
        """Let the broker forget a message of the present connection."""
        if self.connected and message.token:
            self._broker.acknowledge(self._settings.client_id, message.token)

    def events(self) -> list[Event]:
        """Take everything that happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def close(self, timeout_s: float = 2.0) -> None:  # noqa: ARG002 - nothing ever waits
        """Say goodbye."""
        self._stop()
        if self.connected:
            self.connected = False
            self._broker.leave(self._settings.client_id)

    def vanish(self) -> None:
        """Be gone without a word, as without power: the broker publishes the will."""
        self._stop()
        if self.connected:
            self.connected = False
            self._broker.lose(self._settings.client_id, "vanished")

    # --- the broker's end ----------------------------------------------------------------------

    def land(self, message: Message) -> None:
        """A message arrived."""
        self.counters.received += 1
        self.counters.bytes_down += packet_bytes(message.topic, message.payload, message.token)
        self._happened(message)

    def broken(self, reason: str, *, taken_over: bool) -> None:
        """The connection is gone; come back later."""
        if not self.connected:
            return
        self.connected = False
        self._happened(Disconnected(reason, taken_over))
        self._retry()

    # --- inside --------------------------------------------------------------------------------

    def _try(self) -> None:
        if not self._broker.available:
            self._happened(Refused("nobody there", permanent=False))
            self._retry()
            return
        settings = self._settings
        self._backoff_s = settings.backoff_first_s
        self.connected = True
        self.counters.connected += 1
        present = self._broker.open(
            settings.client_id, self, clean=settings.clean_start, will=settings.will
        )
        self._happened(Connected("5", present, self.max_packet_bytes))
        for topic_filter in self._filters:
            self._broker.subscribe(settings.client_id, topic_filter)

    def _retry(self) -> None:
        self._attempt = self._queue.after(self._backoff_s, self._try)
        self._backoff_s = min(2 * self._backoff_s, self._settings.backoff_cap_s)

    def _stop(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()

    def _happened(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) == 1:
            self._wake()


def packet_bytes(topic: str, payload: bytes, qos: int) -> int:
    """Return the size of a PUBLISH packet of MQTT 5 without properties."""
    rest = 2 + len(topic.encode()) + (2 if qos else 0) + 1 + len(payload)
    return 1 + max(1, -(-rest.bit_length() // 7)) + rest
