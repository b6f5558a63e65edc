"""What a rule of selection is: seats in, devices out. One rule a file beside this one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from aggregator.scheduling.links import Links
from aggregator.scheduling.queues import Queues
from aggregator.scheduling.turns import Turns
from protocol.stream import Stream


class Seat(NamedTuple):
    """A lease that may be given: its upload slot, and when that begins (seconds from now)."""

    slot: int
    upload_after_s: int


class Pick(NamedTuple):
    """A device for a seat (its place among those offered)."""

    device: str
    seat: int


class Moment(NamedTuple):
    """What a rule may look at beside the devices.

    ``version`` is the newest; ``left_s`` until the deadline; ``per_version`` leases are given a
    version; ``budget_bytes`` is what an update may cost.
    """

    version: int
    left_s: float
    per_version: int
    budget_bytes: int


class Knowledge(NamedTuple):
    """What rules share: who waits, what is known of them, and the stream that they draw from.

    ``num_samples`` says what a device that waits would bring, as far as weights count it.
    """

    queues: Queues
    links: Links
    turns: Turns
    stream: Stream
    num_samples: Callable[[str], float]


class Rule(Protocol):
    """Chooses among those who wait. Sans-IO: what it draws comes from a seeded stream."""

    def pick(self, seats: Sequence[Seat], sites: Sequence[str], moment: Moment) -> list[Pick]:
        """Return devices of these sites for seats, the most wanted first; empty: nobody waits.

        Fewer than there are seats is fine: it is asked again.
        """
