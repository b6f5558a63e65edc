"""How much each dealer may send a holder: what comes beyond that is dropped before it is opened.

A member of a cohort may write to every other one's ``share/`` topics, and no aggregator hears it
there. So a holder itself sees to it that one dealer takes neither its time nor its flash: a leaky
bucket a dealer, filled by a message and by each mask in it.
"""

from typing import Final

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import MAX_STOCK

#: So many masks at once: a whole stock, dealt anew after several restarts and asked for again.
BURST: Final = 8 * MAX_STOCK
#: And so many a second for good. Who trains uses one mask an update.
PER_S: Final = 2.0


class Budget:
    """Of dealers by their index in the roster, which there are at most `MAX_COHORT` of."""

    def __init__(self) -> None:
        self._levels: dict[int, tuple[float, float]] = {}  # what is in the bucket, and when

    def admit(self, dealer: int, now: float) -> None:
        """Count a message, unread. Raises RemoteProtocolError (``over_budget``) beyond the burst.

        What is dropped is not counted, so that whoever floods gets `PER_S` through, like anybody.
        """
        level = self._level(dealer, now) + 1
        if level > BURST:
            raise RemoteProtocolError(refusals.OVER_BUDGET, f"shares of dealer {dealer}")
        self._levels[dealer] = (level, now)

    def charge(self, dealer: int, num_masks: int, now: float) -> None:
        """Count the masks in a message that was admitted, beside the one it was counted for."""
        self._levels[dealer] = (self._level(dealer, now) + num_masks - 1, now)

    def _level(self, dealer: int, now: float) -> float:
        level, at = self._levels.get(dealer, (0.0, now))
        return max(0.0, level - max(0.0, now - at) * PER_S)
