"""When leases are given and when a buffer closes: pure rules over a `View`."""

from typing import NamedTuple


class Supply(NamedTuple):
    """What there is to give leases to; credit and the budgets of sites allow ``num_grantable``.

    ``completion`` is the part of the leases whose update came in time, lately. ``is_choosing``: a
    rule chooses among those who wait, so it is worth to wait for more of the ``num_online``
    devices. ``ended_at`` is when the last version was made; None: none yet.
    """

    num_grantable: int
    num_online: int = 0
    completion: float = 1.0
    is_choosing: bool = False
    ended_at: float | None = None


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
    supply: Supply
