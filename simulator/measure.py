"""What is measured while a world runs: points of the curves, counts by class, and the audit."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from aggregator.records import LeaseRecord, Record, RefusalRecord, VersionRecord
from device_sdk.pending import PENDING, Pending, unpack_pending
from protocol.codec import decode
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, CheckIn, Manifest, UpdateChunk
from simulator.audit import Audit, Verdict
from simulator.evaluating import Evaluator, Scores
from simulator.fleet import Fleet
from simulator.result import ClassResult, Note, Point

#: So many notes are kept: a reader of more reads none.
MAX_NOTES = 200


class _Leased(NamedTuple):
    place: int  # of the class
    device: str
    version: int


class _Tally:
    """Counts of one class."""

    def __init__(self) -> None:
        self.check_ins = 0
        self.leases = 0
        self.updates_counted = 0
        self.staleness: Counter[int] = Counter()


class Meter:
    """Watches a fleet from its beginning. ``points`` grow with the versions."""

    def __init__(self, fleet: Fleet, evaluator: Evaluator, evaluate_every: int) -> None:
        self.points: list[Point] = []
        self.notes: list[Note] = []
        self.num_updates = 0
        self.version = -1
        self._fleet = fleet
        self._world = fleet.world
        self._evaluator = evaluator
        self._every = evaluate_every
        self._newest: VersionRecord | None = None
        self._unscored: Point | None = None  # what was measured of it when it appeared
        self._place_of = {
            member.name: fleet.scenario.classes.index(member.of)
            for member in fleet.trainers.members
        }
        self._tallies = [_Tally() for _ in fleet.scenario.classes]
        self._per_device: Counter[str] = Counter()
        self._open: dict[bytes, _Leased] = {}
        self._audit = Audit()
        topics = self._world.topics
        self._manifest = topics.manifest()
        self._updates = topics.update(0, "").removesuffix("0/")
        self._outboxes = {topics.out(name): name for name in self._place_of}
        # Else nothing but check-ins goes there, and nobody need look.
        self._is_mixed = fleet.scenario.secure.enabled or any(
            each.attack == "flood" for each in fleet.scenario.classes
        )
        fleet.note, fleet.closed = self.note, self._closed
        self._world.server.store.asked = self._audit.asked
        self._world.server.store.watch = self._committed
        self._world.broker.watch = self._published
        self._take_first()

    def note(self, text: str) -> None:
        """Remember what a reader of the curves should know."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(Note(at_s=self._world.now, text=text))

    def _take_first(self) -> None:
        newest = self._world.server.store.snapshot().version
        if newest is not None:
            self._version(newest)

    # --- while it runs -----------------------------------------------------------------------

    def _published(self, topic: str, payload: bytes) -> None:
        if topic.startswith(self._updates):
            self._sent(topic.rpartition("/")[2], payload)
        elif topic == self._manifest:
            told = decode(payload, (Manifest,), task=self._world.topics.task, sender=AGGREGATOR)
            self._audit.named(told.version, told.counted)
        elif (name := self._outboxes.get(topic)) is not None and self._is_check_in(name, payload):
            self._tallies[self._place_of[name]].check_ins += 1

    def _sent(self, name: str, payload: bytes) -> None:
        """An update is under way; a rogue's is not audited."""
        if name not in self._world.devices:
            return
        chunk = decode(payload, (UpdateChunk,), task=self._world.topics.task, sender=name)
        self._audit.sent(chunk.lease_id)

    def _is_check_in(self, name: str, payload: bytes) -> bool:
        if not self._is_mixed:
            return True
        try:
            decode(payload, (CheckIn,), task=self._world.topics.task, sender=name)
        except RemoteProtocolError:
            return False
        return True

    def _closed(self, pending: Pending, counted: bool) -> None:  # noqa: FBT001 - the device's hook
        self._audit.told(pending.lease_id, counted=counted)

    def _committed(self, records: Sequence[Record]) -> None:
        self._audit.committed(records)
        for record in records:
            match record:
                case LeaseRecord():
                    self._leased(record)
                case RefusalRecord():
                    self._open.pop(record.lease_id, None)
                case VersionRecord():
                    self._version(record)

    def _leased(self, record: LeaseRecord) -> None:
        place = self._place_of[record.device]
        self._tallies[place].leases += 1
        self._open[record.lease_id] = _Leased(place, record.device, record.version)

    def _version(self, record: VersionRecord) -> None:
        leased = [self._open.pop(lease_id, None) for lease_id in record.counted]
        lateness = [self._count(each, record.version) for each in leased if each is not None]
        self.num_updates += len(lateness)
        self.version, self._newest = record.version, record
        self._unscored = self._measured(float(np.mean(lateness)) if lateness else 0.0)
        if record.version % self._every == 0:
            self._score(record, self._unscored)

    def _count(self, leased: _Leased, version: int) -> int:
        """Count an update; return its staleness in versions."""
        staleness = version - 1 - leased.version
        tally = self._tallies[leased.place]
        tally.updates_counted += 1
        tally.staleness[staleness] += 1
        self._per_device[leased.device] += 1
        return staleness

    def _measured(self, staleness: float) -> Point:
        """Return the newest version's point, but for how good it is: that takes time."""
        return Point(
            version=self.version,
            at_s=self._world.now,
            bytes_up=sum(each.bytes_up for each in self._fleet.traffic.values()),
            bytes_down=sum(each.bytes_down for each in self._fleet.traffic.values()),
            num_updates=self.num_updates,
            staleness=round(staleness, 6),
        )

    def _score(self, record: VersionRecord, point: Point) -> None:
        """Add a point to the curves, with how good the version was in its moment."""
        coordinator = self._world.server.coordinator
        held = None if coordinator is None else coordinator.downlink.held(record.version)
        params = np.frombuffer(record.params, "<f4") if held is None else held
        params = params.astype(np.float32, copy=False)
        scores: Scores = self._evaluator.evaluate(params, point.at_s)
        self.points.append(
            replace(
                point,
                accuracy=scores.accuracy,
                loss=scores.loss,
                group_accuracy=scores.by_group,
            )
        )

    def counted_by_class(self) -> dict[str, int]:
        """Return how many updates of each class are in some version."""
        pairs = zip(self._fleet.scenario.classes, self._tallies, strict=True)
        return {each.name: tally.updates_counted for each, tally in pairs}

    # --- at the end --------------------------------------------------------------------------

    def close(self) -> None:
        """Let the newest version have a point, whatever its number."""
        if self._newest is None or self._unscored is None:
            return
        if not self.points or self.points[-1].version != self.version:
            self._score(self._newest, self._unscored)

    @property
    def model_hash(self) -> str:
        """The newest version's hash in hex."""
        return "" if self._newest is None else self._newest.model_hash.hex()

    def classes(self) -> tuple[ClassResult, ...]:
        """Return what the devices of each class did."""
        scenario = self._fleet.scenario
        declined: list[Counter[str]] = [Counter() for _ in scenario.classes]
        for device in self._fleet.devices:
            for key, count in device.counts.items():
                if key.startswith("declined_"):
                    declined[self._place_of[device.name]][key.removeprefix("declined_")] += count
        reconnects: Counter[int] = Counter()
        for client in self._fleet.clients:
            reconnects[self._place_of[client.name]] += max(0, client.num_connects - 1)
        updates: list[list[int]] = [[] for _ in scenario.classes]
        for name, place in self._place_of.items():
            updates[place].append(self._per_device[name])
        found = []
        for place, (each, count) in enumerate(zip(scenario.classes, scenario.counts, strict=True)):
            tally, traffic = self._tallies[place], self._fleet.traffic[each.name]
            found.append(
                ClassResult(
                    name=each.name,
                    num_devices=count,
                    is_slow=each.slow,
                    check_ins=tally.check_ins,
                    leases=tally.leases,
                    updates_counted=tally.updates_counted,
                    updates_per_device=tuple(sorted(updates[place])),
                    staleness=dict(sorted(tally.staleness.items())),
                    bytes_up=traffic.bytes_up,
                    bytes_down=traffic.bytes_down,
                    reconnects=reconnects[place],
                    declined=dict(sorted(declined[place].items())),
                )
            )
        return tuple(found)

    def audit(self) -> Verdict:
        """Compare what devices saw with what the store says."""
        store = self._world.server.store
        waiting = {entry.lease_id for entry in store.snapshot().journal}
        held = [
            unpack_pending(device.storage[PENDING]).lease_id
            for device in self._fleet.devices
            if PENDING in device.storage
        ]
        return self._audit.verdict(store.counted_ids(), waiting, held)
