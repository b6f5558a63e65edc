"""First come, first served: whoever has waited longest. Pure."""

from collections.abc import Sequence

from aggregator.scheduling.rules import Knowledge, Moment, Pick, Seat


class LongestWaiting:
    """One at a time."""

    def __init__(self, known: Knowledge) -> None:
        self._queues = known.queues

    def pick(self, seats: Sequence[Seat], sites: Sequence[str], moment: Moment) -> list[Pick]:  # noqa: ARG002 - only the order counts
        """Return who has waited longest, for the first seat."""
        device = self._queues.oldest(sites)
        return [] if device is None else [Pick(device, 0)]
