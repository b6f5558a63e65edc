"""The book of devices: evidence becomes a score, a score a standing. Pure; time is told.

A device is admitted, quarantined (its updates are refused until an operator releases it; its
shares of other devices' masks are still wanted) or revoked (nothing of it is taken any more). Of
those that are ``cut`` off the broker is told too.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from aggregator.conduct.config import ConductConfig
from aggregator.conduct.evidence import (
    BOASTS,
    DRIFT,
    FLOOD,
    OVER_BUDGET,
    SATURATION,
    SHOWN,
    TOO_QUICK,
    WEIGHTS,
    Weight,
)
from aggregator.conduct.habits import Habits
from aggregator.conduct.meter import Flow, Meter
from aggregator.records import EvidenceRecord, Standing, StandingRecord

#: A device that goes on until its score is so many thresholds is cut off, too.
CUT_OFF: Final = 10.0
_MIB: Final = 1 << 20
#: A burst of bytes has room for so many updates.
_UPDATES: Final = 4


@dataclass(slots=True)
class _Entry:
    """How often something happened, and what is left of its points; ``at`` is when."""

    count: int
    points: float
    at: float


@dataclass(frozen=True, slots=True)
class Reason:
    """One kind of evidence on a device, as a person reads it."""

    kind: str
    count: int
    points: float


class Book:
    """Of at most ``max_devices`` devices, whatever names a broker lets through.

    ``update_bytes``: how large an update may be. `verdicts` has those that were judged since.
    """

    def __init__(
        self,
        config: ConductConfig,
        *,
        max_devices: int,
        update_bytes: int,
        standings: Iterable[StandingRecord] = (),
        evidence: Iterable[EvidenceRecord] = (),
        now: float = 0.0,
    ) -> None:
        self._config = config
        self._max_devices = max_devices
        self._now = now
        self._meter = Meter(
            messages_per_s=config.messages_per_s,
            burst=config.burst,
            bytes_per_s=config.bytes_per_s,
            burst_bytes=config.burst_bytes or _UPDATES * update_bytes + _MIB,
            max_devices=max_devices,
        )
        self._habits = Habits(max_devices)
        self._standings = {record.device: record for record in standings}
        self._entries: dict[str, dict[str, _Entry]] = {}
        for record in evidence:
            entry = _Entry(record.count, record.points, now)
            self._entries.setdefault(record.device, {})[record.kind] = entry
        #: Nothing but what others can do in their names is known of these, the oldest first.
        self._spotless = dict.fromkeys(
            device for device, kinds in self._entries.items() if SHOWN.issuperset(kinds)
        )
        self._changed: dict[tuple[str, str], None] = {}
        self._verdicts: list[StandingRecord] = []
        #: How many devices have been judged: whoever shows it need not wait when it changes.
        self.num_judged = 0

    # --- standing ----------------------------------------------------------------------------

    def standing(self, device: str) -> Standing:
        """Whether a device may take part."""
        record = self._standings.get(device)
        return Standing.ADMITTED if record is None else record.standing

    @property
    def standings(self) -> tuple[StandingRecord, ...]:
        """Every device that is not simply admitted, by name."""
        return tuple(self._standings[device] for device in sorted(self._standings))

    @property
    def cut_off(self) -> list[str]:
        """The devices that a broker should let in no more, by name."""
        return [record.device for record in self.standings if record.is_cut]

    def decreed(self, standings: Iterable[StandingRecord]) -> list[StandingRecord]:
        """Take over what the store says now; return what an operator has changed.

        A device that is admitted again begins with a clean sheet. Whom the store does not know to
        be judged yet (`verdicts`) stays so: nobody has released it.
        """
        told = {record.device: record for record in (*self._verdicts, *standings)}
        before = self._standings
        released = [device for device in before if device not in told]
        self._standings = told
        for device in released:
            for kind, entry in self._entries.get(device, {}).items():
                entry.points = 0.0
                # The store may have got points from us after the operator has cleared them there.
                self._changed[device, kind] = None
        return [
            *[StandingRecord(device, Standing.ADMITTED) for device in released],
            *[record for device, record in told.items() if before.get(device) != record],
        ]

    def verdicts(self) -> list[StandingRecord]:
        """Take the devices that have been judged since the last call; they are to be stored."""
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    # --- evidence ----------------------------------------------------------------------------

    def heard(self, device: str, num_bytes: int, now: float) -> bool:
        """Count a message by its size, before it is read; return False if it is to be dropped."""
        self._now = now
        known = self._standings.get(device)
        if known is not None and known.is_cut:
            return False  # until the broker has heard it, and done with what it holds
        flow = self._meter.take(device, num_bytes, now)
        if flow is Flow.FINE:
            return True
        self.note(device, OVER_BUDGET)
        if flow is Flow.FLOOD:
            self.note(device, FLOOD)
            self._judge(device, FLOOD, is_cut=True)
        return False

    def tick(self, now: float) -> None:
        """Time passed."""
        self._now = now

    def arrived(self, device: str, elapsed_s: float) -> None:
        """An update came so long after its lease."""
        if self._habits.is_too_quick(elapsed_s):
            self.note(device, TOO_QUICK)

    def saturated(self, device: str, num_values: int) -> None:
        """A device said how many values it has had to cut before masking, so far."""
        if self._habits.saturates(device, num_values):
            self.note(device, SATURATION)

    def declared(self, device: str, num_samples: int) -> None:
        """A device said how many samples it has."""
        jumped, boasts = self._habits.declares(device, num_samples)
        if jumped:
            self.note(device, DRIFT)
        if boasts:
            self.note(device, BOASTS)

    def note(self, device: str, kind: str) -> None:
        """Count evidence against a device; what `WEIGHTS` does not name is not held against it."""
        weight = WEIGHTS.get(kind)
        if weight is not None and self._has_room(device, weight):
            entry = self._entry(device, kind, weight)
            self._enter(device, kind, self._left(entry) + weight.points)

    def hold(self, device: str, kind: str, amount: float) -> bool:
        """Hold so much of a kind (times its points) against a device, instead of what was held.

        0 takes it back. For evidence that is judged as a whole, again and again. Return whether
        it is new that any is held.
        """
        weight = WEIGHTS[kind]
        known = self._entries.get(device, {}).get(kind)
        was_held = known is not None and known.points > 0
        if not amount > 0:
            if known is not None and was_held:
                known.points = 0.0
                self._changed[device, kind] = None
            return False
        if not self._has_room(device, weight):
            return False
        self._entry(device, kind, weight)
        self._enter(device, kind, amount * weight.points)
        return not was_held

    def _entry(self, device: str, kind: str, weight: Weight) -> _Entry:
        if weight.points:
            self._spotless.pop(device, None)
        elif device not in self._entries:
            self._spotless[device] = None
        return self._entries.setdefault(device, {}).setdefault(kind, _Entry(0, 0.0, self._now))

    def _enter(self, device: str, kind: str, points: float) -> None:
        """Enter what a kind makes up from now on, and judge."""
        entry, weight = self._entries[device][kind], WEIGHTS[kind]
        entry.points = min(weight.most, points)
        entry.at = self._now
        entry.count += 1
        self._changed[device, kind] = None
        threshold = self._config.threshold
        if weight.points and 0 < threshold <= (score := self.score(device)):
            self._judge(device, kind, is_cut=score >= CUT_OFF * threshold)

    def _has_room(self, device: str, weight: Weight) -> bool:
        """Whether evidence can be noted; names that a broker made up give way to what weighs."""
        if device in self._entries or len(self._entries) < self._max_devices:
            return True
        if not weight.points or not self._spotless:
            return False
        forgotten = next(iter(self._spotless))
        del self._spotless[forgotten]
        for kind in self._entries.pop(forgotten):
            self._changed.pop((forgotten, kind), None)
        return True

    def _judge(self, device: str, kind: str, *, is_cut: bool = False) -> None:
        """Quarantine a device that is admitted, or cut off one that floods on top."""
        known = self._standings.get(device)
        if self._config.threshold <= 0 or (known is not None and (known.is_cut or not is_cut)):
            return
        standing = Standing.QUARANTINED if known is None else known.standing
        record = StandingRecord(device, standing, f"{kind}: {WEIGHTS[kind].meaning}", is_cut)
        self._standings[device] = record
        self.num_judged += 1
        self._verdicts = [each for each in self._verdicts if each.device != device]
        self._verdicts.append(record)

    def _left(self, entry: _Entry) -> float:
        halvings = max(0.0, self._now - entry.at) / self._config.half_life_s
        return float(entry.points * 2.0**-halvings)

    # --- for people and for the store --------------------------------------------------------

    def score(self, device: str) -> float:
        """Return what is held against a device now: 0 is spotless."""
        return sum(self._left(entry) for entry in self._entries.get(device, {}).values())

    def reasons(self, device: str) -> list[Reason]:
        """Return what its score is made of, the weightiest first."""
        entries = self._entries.get(device, {})
        reasons = [Reason(kind, entry.count, self._left(entry)) for kind, entry in entries.items()]
        return sorted(reasons, key=lambda reason: (-reason.points, reason.kind))

    def scores(self) -> Iterator[tuple[str, float]]:
        """Iterate over the devices that there is evidence on, and their scores."""
        return ((device, self.score(device)) for device in self._entries)

    def changed(self) -> list[EvidenceRecord]:
        """Take the evidence that has changed since the last call; it is to be stored."""
        changed, self._changed = self._changed, {}
        records = []
        for device, kind in changed:
            entry = self._entries[device][kind]
            records.append(EvidenceRecord(device, kind, entry.count, self._left(entry)))
        return records
