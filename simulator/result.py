"""What a simulated run leaves behind: plain values, that a report is drawn from and JSON holds.

Times are virtual seconds since the start, bytes are whole PUBLISH packets at the devices' ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: How a run ended that went wrong.
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was measured when a version appeared.

    ``accuracy`` and ``loss`` are of all held-out rows, ``group_accuracy`` of those that belong to a
    device class, by its name; None and empty where nothing is trained (``dry``). ``bytes_up``,
    ``bytes_down`` and ``num_updates`` (counted) are totals until then; ``staleness`` is the mean of
    the updates in this version.
    """

    version: int
    at_s: float
    accuracy: float | None = None
    loss: float | None = None
    group_accuracy: Mapping[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    num_updates: int = 0
    staleness: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassResult:
    """What the devices of one class did, all together.

    ``updates_per_device`` has one number a device, sorted: who was counted how often. ``staleness``
    counts updates by their staleness in versions.
    """

    name: str
    num_devices: int
    is_slow: bool = False
    check_ins: int = 0
    leases: int = 0
    updates_counted: int = 0
    updates_per_device: tuple[int, ...] = ()
    staleness: Mapping[int, int] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    reconnects: int = 0
    declined: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something that a reader of the curves should know: an outage, a drift, a storm, an attack."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run of a scenario with one seed.

    ``ended`` is ``duration``, ``target``, ``updates`` (as many as were asked for), ``interrupted``
    or ``failed`` (its last note says why); ``refused`` counts refusals by reason; ``lost`` and
    ``counted_twice`` are updates that should not exist: both 0 (`simulator.audit`). Only ``wall_s``
    and ``peak_rss_bytes`` differ from run to run; ``model_hash`` (hex) is of the last version: same
    seed, same bytes.
    """

    scenario: str
    about: str
    seed: int
    engine: str
    ended: str
    virtual_s: float
    wall_s: float
    num_events: int
    classes: tuple[ClassResult, ...]
    points: tuple[Point, ...]
    model_hash: str
    target: float | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    lost: int = 0
    counted_twice: int = 0
    peak_rss_bytes: int = 0
