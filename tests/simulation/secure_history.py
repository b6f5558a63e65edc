"""A history of a secure task: plain values that print as Python, as in `history`."""

from dataclasses import dataclass
from typing import NamedTuple

from tests.simulation.history import Operation


class Numbers(NamedTuple):
    """N, t, T and U of every roster of a history."""

    devices: int
    malicious: int
    noise: int
    answers: int


@dataclass(frozen=True, slots=True)
class NextRoster:
    """The operator lays down the next epoch's roster: who lives, and new devices for the rest."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A message that once crossed the broker is published again, out of the blue.

    Each eighth ``index`` is for rosters and supports, which are few.
    """

    index: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Whoever has the aggregator's key asks some holders for a sum of their own choice.

    The masks are those of an earlier request, or the newest that are dealt (``base`` counts
    around); ``change`` 0 leaves them, else some are left out (odd) or another one joins (even).
    ``holders`` has a bit for each index of the roster.
    """

    base: int
    change: int
    holders: int


@dataclass(frozen=True, slots=True)
class Rollback:
    """A malicious device's storage goes back to an old copy, or the copy is made."""

    device: str
    down_s: float


SecureOperation = Operation | NextRoster | Replay | Ask | Rollback


@dataclass(frozen=True, slots=True)
class SecureHistory:
    """One federation. ``support`` is that of the codec; ``valid_s`` is how long an epoch lasts.

    ``group``: buffers are summed in groups of so many.
    """

    seed: int
    mode: str
    scheme: str
    support: str
    weighted: bool
    numbers: Numbers
    packet_bytes: int
    valid_s: int
    operations: tuple[SecureOperation, ...]
    staleness: str = "constant"
    group: int = 0
