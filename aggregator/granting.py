"""Giving leases: who of those that wait gets one, with which codec, for how many bytes.

The rules of `aggregator.scheduling` say how many; here is who. What is learned of devices and
their links on the way (how long they took, what never came) is soft: a restart begins anew.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aggregator.bandwidth import budget_bytes, choose_codec
from aggregator.fleet import Fleet, Waiting
from aggregator.leases import Lease
from aggregator.task_config import TaskConfig
from protocol.vectors.layout import Layout
from protocol.vectors.packing import CodecSpec, parse_codec


class Grant(NamedTuple):
    """A lease that is to be given."""

    waiting: Waiting
    codec: CodecSpec
    upload_after_s: int


class Granting:
    """Of one task; ``codec`` is what leases name where nothing else is chosen."""

    def __init__(self, config: TaskConfig, fleet: Fleet, codec: CodecSpec, layout: Layout) -> None:
        self._config = config
        self._fleet = fleet
        self._codec = codec
        self._layout = layout
        self._budgets: dict[str, int] = {}

    def grants(self, count: int, now: float) -> Iterator[Grant]:  # noqa: ARG002 - soon
        """Take up to so many of the devices that wait."""
        for _ in range(count):
            waiting = self._fleet.next()
            codec = self._choose(waiting)
            if codec is not None:  # else it asks again
                yield Grant(waiting, codec, 0)

    def budget_bytes(self, codec: str) -> int:
        """Return how large an update may be whose lease names this codec."""
        if codec not in self._budgets:
            self._budgets[codec] = budget_bytes(parse_codec(codec), self._layout)
        return self._budgets[codec]

    # --- what is learned ---------------------------------------------------------------------

    def arrived(self, lease: Lease, num_bytes: int, now: float) -> None:
        """The update of a lease is complete."""

    def expired(self, leases: Iterable[Lease]) -> None:
        """These ran out without an update."""

    # --- inside ------------------------------------------------------------------------------

    def _choose(self, waiting: Waiting) -> CodecSpec | None:
        if self._codec.masked:
            return self._codec
        words = frozenset(waiting.check_in.codecs)
        return choose_codec(self._codec, words, self._config.bandwidth, self._layout)
