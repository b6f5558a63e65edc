"""Uniform selection: everybody who waits is equally likely (FedAvg's, McMahan et al. 2017).

Who is not expected to make the deadline is drawn again, a few times: others are preferred. Pure.
"""

from collections.abc import Sequence
from typing import Final

from aggregator.scheduling.rules import Knowledge, Moment, Pick, Seat

#: How often somebody else is drawn for one who would be too late.
TRIES: Final = 8


class Uniform:
    """One at a time, in constant time."""

    def __init__(self, known: Knowledge) -> None:
        self._known = known

    def pick(self, seats: Sequence[Seat], sites: Sequence[str], moment: Moment) -> list[Pick]:
        """Return a device drawn at random, for the first seat."""
        device = None
        for _ in range(TRIES):
            device = self._known.queues.draw(sites, self._known.stream)
            if device is None or self._is_in_time(device, seats[0], moment):
                break
        return [] if device is None else [Pick(device, 0)]

    def _is_in_time(self, device: str, seat: Seat, moment: Moment) -> bool:
        links, after_s = self._known.links, seat.upload_after_s
        return links.expected_s(device, after_s, moment.budget_bytes) <= moment.left_s
