"""How much each device sends: a leaky bucket a device, so that one cannot crowd out the others.

What comes beyond a burst is dropped before anything is read or checked of it; it is the device
itself that sends again what mattered. Who goes on regardless is said to flood.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import Final

#: A level of so many bursts is a flood.
FLOOD: Final = 2.0


class Flow(Enum):
    """What is to become of a message."""

    FINE = "fine"
    DROPPED = "dropped"  #: beyond the burst
    FLOOD = "flood"  #: and it does not stop


@dataclass(slots=True)
class _Level:
    """What is in a bucket that holds ``burst``, and runs out at ``per_s``."""

    burst: float
    per_s: float
    level: float = 0.0

    def add(self, amount: float, elapsed_s: float) -> float:
        """Return how many bursts are in it afterwards."""
        self.level = max(0.0, self.level - elapsed_s * self.per_s) + amount
        return self.level / self.burst

    def cap(self) -> None:
        """Let no more be in it than a burst."""
        self.level = min(self.level, self.burst)


@dataclass(slots=True)
class _Bucket:
    messages: _Level
    num_bytes: _Level
    at: float


class Meter:
    """Of at most ``max_devices`` devices: those that were silent for longest are forgotten first.

    ``burst`` messages and ``burst_bytes`` at once, ``messages_per_s`` and ``bytes_per_s`` for good.
    """

    def __init__(
        self,
        *,
        messages_per_s: float,
        burst: int,
        bytes_per_s: float,
        burst_bytes: int,
        max_devices: int,
    ) -> None:
        self._messages = (float(burst), messages_per_s)
        self._bytes = (float(burst_bytes), bytes_per_s)
        self._max_devices = max_devices
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, device: str, num_bytes: int, now: float) -> Flow:
        """Count a message of ``num_bytes`` and say what is to become of it.

        After `Flow.FLOOD` the bucket is full, no more: a flood that goes on is said again, but
        not with every message.
        """
        bucket = self._bucket(device, now)
        elapsed_s, bucket.at = max(0.0, now - bucket.at), now
        level = max(
            bucket.messages.add(1, elapsed_s),
            bucket.num_bytes.add(num_bytes, elapsed_s),
        )
        if level <= 1:
            return Flow.FINE
        if level < FLOOD:
            return Flow.DROPPED
        bucket.messages.cap()
        bucket.num_bytes.cap()
        return Flow.FLOOD

    def _bucket(self, device: str, now: float) -> _Bucket:
        bucket = self._buckets.get(device)
        if bucket is None:
            if len(self._buckets) >= self._max_devices:
                self._buckets.popitem(last=False)
            bucket = _Bucket(_Level(*self._messages), _Level(*self._bytes), now)
            self._buckets[device] = bucket
        self._buckets.move_to_end(device)
        return bucket
