"""How fast bytes go out, as the broker's answers show it: what a device tells of its own link.

A burst begins when something is sent while nothing is under way, and ends when all of it is
answered. Its bytes over its seconds are a speed (of the link, the broker and one way there and
back), unless it was too small to tell. Pure: the time is an argument.
"""

from typing import Final

#: A burst below this shows how long the way is, not how wide.
LEAST_BYTES: Final = 2_000
#: How much of the speed the newest burst is.
NEWEST: Final = 0.25


class Uplink:
    """A moving average over bursts; ``bytes_per_s`` is 0 until one was large enough."""

    def __init__(self) -> None:
        self.bytes_per_s = 0.0
        self._begun_at = 0.0
        self._num_bytes = 0
        self._under_way = 0

    def sent(self, num_bytes: int, now: float) -> None:
        """So many bytes that will be answered are on their way."""
        if self._under_way == 0:
            self._begun_at, self._num_bytes = now, 0
        self._num_bytes += num_bytes
        self._under_way += 1

    def answered(self, now: float) -> None:
        """The broker has answered one publish."""
        if self._under_way == 0:
            return
        self._under_way -= 1
        took_s = now - self._begun_at
        if self._under_way or self._num_bytes < LEAST_BYTES or took_s <= 0:
            return
        speed = self._num_bytes / took_s
        known = self.bytes_per_s
        self.bytes_per_s = speed if not known else known + NEWEST * (speed - known)

    def interrupted(self) -> None:
        """The connection is gone: a burst that was under way says nothing."""
        self._under_way = 0
