"""A history: how a federation is set up, and what befalls it. Plain values that print as Python.

An operation that makes no sense when its turn comes (nothing in flight, nobody by that name)
does nothing, so that every list of operations is a history and any part of one can be left out.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Join:
    """A device is switched on for the first time."""

    device: str


@dataclass(frozen=True, slots=True)
class Leave:
    """A device vanishes for good, unless too few would be left to make a version."""

    device: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """A message under way lands now, before older ones. ``index`` counts around, here and below."""

    index: int


@dataclass(frozen=True, slots=True)
class Drop:
    """The broker loses a message in silence."""

    index: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A message lands once more, later."""

    index: int
    later_s: float


@dataclass(frozen=True, slots=True)
class Reorder:
    """A message lands later, after others."""

    index: int
    later_s: float


@dataclass(frozen=True, slots=True)
class RestartDevice:
    """A device loses power, after so many more writes and publishes."""

    device: str
    after: int
    down_s: float


@dataclass(frozen=True, slots=True)
class RestartAggregator:
    """The aggregator is killed, after so many more commits and publishes."""

    after: int
    down_s: float


@dataclass(frozen=True, slots=True)
class RestartBroker:
    """The broker goes down and comes back, having forgotten everything or nothing."""

    forget: bool
    down_s: float


@dataclass(frozen=True, slots=True)
class FailStore:
    """The aggregator's next commit fails, having kept everything or nothing."""

    kept: bool


@dataclass(frozen=True, slots=True)
class FailStorage:
    """A device's next write fails."""

    device: str


@dataclass(frozen=True, slots=True)
class AdvanceTime:
    """Time passes, and what is due happens."""

    seconds: float


Breakage = RestartDevice | RestartAggregator | RestartBroker | FailStore | FailStorage
Operation = Join | Leave | Deliver | Drop | Duplicate | Reorder | Breakage | AdvanceTime


@dataclass(frozen=True, slots=True)
class History:
    """One federation. ``packet_bytes`` decides into how many chunks models and updates are cut.

    ``downlink`` is the codec of differences.
    """

    seed: int
    mode: str
    codec: str
    packet_bytes: int
    operations: tuple[Operation, ...]
    downlink: str = "none"
