"""What waits for the broker: bounded, in order, a window of it under way."""

from collections import deque
from dataclasses import dataclass
from typing import Final

MQTT_5_PROPERTIES_BYTES: Final = 1
EXPIRY_BYTES: Final = 5
_LENGTH_LIMITS: Final = ((128, 1), (16_384, 2), (2_097_152, 3), (268_435_456, 4))


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One publish, as asked for."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    expiry_s: int | None

    def packet_bytes(self, *, mqtt_5: bool) -> int:
        """Size of the whole PUBLISH packet: type, length, topic, packet id, properties, payload."""
        size = 2 + len(self.topic.encode()) + len(self.payload)
        if self.qos:
            size += 2
        if mqtt_5:
            size += MQTT_5_PROPERTIES_BYTES
            if self.expiry_s is not None:
                size += EXPIRY_BYTES
        for limit, length_bytes in _LENGTH_LIMITS:
            if size < limit:
                return 1 + length_bytes + size
        return 1 + _LENGTH_LIMITS[-1][1] + size


class Outbox:
    """The queue and the window (ours, as paho scans its whole queue at each PUBACK)."""

    def __init__(self, *, max_queued: int, window: int) -> None:
        self._max_queued = max_queued
        self.window = window
        self._waiting: deque[Outgoing] = deque()
        self._under_way: dict[int, Outgoing] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    @property
    def full(self) -> bool:
        """Whether nothing more may be added."""
        return len(self) >= self._max_queued

    def add(self, outgoing: Outgoing) -> None:
        """Append to what waits."""
        self._waiting.append(outgoing)

    def next(self) -> Outgoing | None:
        """Take the next one to be sent, if the window has room."""
        if not self._waiting or len(self._under_way) >= self.window:
            return None
        return self._waiting.popleft()

    def sent(self, packet_id: int, outgoing: Outgoing) -> None:
        """It is on its way under this packet id."""
        self._under_way[packet_id] = outgoing

    def done(self, packet_id: int) -> Outgoing | None:
        """The broker has answered (QoS 0: the socket has taken it); None if unknown."""
        return self._under_way.pop(packet_id, None)

    def connection_lost(self) -> int:
        """QoS 1 goes out again first, in order; return how many QoS 0 messages were lost.

        What is retained is said anew with each connection: of a topic only the last such message
        is kept, or a broker that never acknowledges would have them pile up.
        """
        everything = [*self._under_way.values(), *self._waiting]
        asked = [outgoing for outgoing in everything if outgoing.qos]
        last = {outgoing.topic: at for at, outgoing in enumerate(asked) if outgoing.retain}
        self._under_way.clear()
        self._waiting = deque(
            outgoing
            for at, outgoing in enumerate(asked)
            if not outgoing.retain or last[outgoing.topic] == at
        )
        return len(everything) - len(asked)

    def drop_larger(self, limit_bytes: int, *, mqtt_5: bool) -> list[Outgoing]:
        """Take out what a new connection would choke on: one such packet blocks all behind it."""
        fits = [each.packet_bytes(mqtt_5=mqtt_5) <= limit_bytes for each in self._waiting]
        dropped = [each for each, fit in zip(self._waiting, fits, strict=True) if not fit]
        self._waiting = deque(each for each, fit in zip(self._waiting, fits, strict=True) if fit)
        return dropped
