"""Back-pressure by credit: so many bytes of updates may be on their way at once, and no more.

A lease allows its device one update of so many bytes. While the budgets of all leases that run are
below a bound, so is what the broker has queued for the aggregator, however slow that is: the
broker's own flow control says nothing (stock brokers drop what is beyond their limits). Not in the
bound: the one update that a device may still send for a lease that ran out, and check-ins.

The bound follows the aggregator: what lies about in incomplete updates is taken off, and each time
leases are seen to run out too late (the loop was behind, or stopped) it is halved; updates that are
taken bring it back (additive increase, multiplicative decrease: D.-M. Chiu, R. Jain, "Analysis of
the increase and decrease algorithms for congestion avoidance", 1989). It never falls below what one
version needs, or there would be none. Pure.
"""

from typing import Final

#: Without a setting: as many bytes, or what so many versions need if that is more.
DEFAULT_BYTES: Final = 256 * 1024 * 1024
DEFAULT_VERSIONS: Final = 2
#: A timer that comes so much too late says that the aggregator is behind.
LAG_S: Final = 1.0
#: The bound never falls below this part of itself, and grows by this part an update.
_LEAST: Final = 1 / 16
_GAIN: Final = 1 / 64


class Credit:
    """``most`` bytes at best; ``least`` (at most as many) is what one version needs."""

    def __init__(self, most: int, least: int) -> None:
        self.most = most
        self._least = least
        self._part = 1.0

    def bytes_now(self, partial_bytes: int) -> int:
        """Return how many bytes may be out while so many lie in incomplete updates."""
        return max(self._least, int(self.most * self._part) - partial_bytes)

    def late(self, lag_s: float) -> None:
        """Leases ran out ``lag_s`` before that was noticed."""
        if lag_s > LAG_S:
            self._part = max(_LEAST, self._part / 2)

    def took(self) -> None:
        """An update was taken."""
        self._part = min(1.0, self._part + _GAIN)


def most_bytes(wanted: int, version_bytes: int) -> int:
    """Return the bound for a setting (0: the default), at least what one version needs."""
    if wanted:
        return max(wanted, version_bytes)
    return max(DEFAULT_BYTES, DEFAULT_VERSIONS * version_bytes)
