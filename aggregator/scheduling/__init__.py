"""When leases are given and when a buffer closes: pure rules over a `View`."""

from typing import NamedTuple


class View(NamedTuple):
    """What a scheduling rule may look at; times are the shell's monotonic seconds.

    ``opened_at`` is when the buffer got its first update or the round its leases; None: neither.
    ``gathering_since`` is when the longest waiting device checked in; None: nobody waits.
    """

    now: float
    num_waiting: int
    num_active: int
    num_buffered: int
    num_contributors: int
    opened_at: float | None
    gathering_since: float | None
