"""The aggregator's store in memory: the same promises, the same refusals, and faults on request."""

from collections import ChainMap
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import replace

from aggregator.batch import Batch
from aggregator.records import (
    DeviceRecord,
    EvidenceRecord,
    JournalRecord,
    LeaseRecord,
    LeaseState,
    Published,
    Record,
    Snapshot,
    Standing,
    StandingRecord,
    VersionRecord,
)
from aggregator.store_errors import StoreError
from protocol.errors import LocalProtocolError

_Leases = MutableMapping[bytes, LeaseRecord]


class MemoryStore:
    """What `aggregator.store.Store` keeps, in dictionaries that outlive a simulated restart.

    ``keep_versions`` as there. ``asked`` is told of the records of every commit, ``watch`` of those
    that were kept.
    After an error it refuses everything until `reopen`.
    """

    def __init__(self, keep_versions: int = 3) -> None:
        self.asked: Callable[[Sequence[Record]], None] = lambda _records: None
        self.watch: Callable[[Sequence[Record]], None] = lambda _records: None
        self._keep_versions = keep_versions
        self._devices: dict[str, DeviceRecord] = {}
        self._unsettled: dict[bytes, LeaseRecord] = {}
        self._settled: dict[bytes, LeaseRecord] = {}
        self._journal: dict[bytes, JournalRecord] = {}
        self._params: dict[int, bytes] = {}
        self._published: dict[int, Published] = {}
        self._newest: VersionRecord | None = None
        self._counted: list[tuple[int, bytes]] = []
        self._totals: dict[str, int] = {}
        self._documents: dict[str, bytes] = {}
        self._standings: dict[str, StandingRecord] = {}
        self._evidence: dict[tuple[str, str], EvidenceRecord] = {}
        self._next_sequence = 0
        self._failing: bool | None = None
        self._failed = False

    # --- as the real one ---------------------------------------------------------------------

    def commit(self, records: Sequence[Record]) -> None:
        """Keep all of the records or none. Raises StoreError, LocalProtocolError."""
        if not records:
            return
        self.asked(records)
        self._check_usable()
        failing, self._failing = self._failing, None
        self._failed = True
        if failing is False:
            raise StoreError("as asked: nothing was kept")
        self._keep(Batch.of(records))
        self.watch(records)
        if failing:
            raise StoreError("as asked: all was kept, and nobody told")
        self._failed = False

    def snapshot(self) -> Snapshot:
        """Return everything that a coordinator is rebuilt from."""
        self._check_usable()
        leases = sorted(self._unsettled.values(), key=lambda each: (each.version, each.lease_id))
        return Snapshot(
            version=self._newest,
            devices=tuple(self._devices[name] for name in sorted(self._devices)),
            leases=tuple(leases),
            journal=tuple(sorted(self._journal.values(), key=lambda entry: entry.sequence)),
            live_params=dict(self._params),
            totals=dict(self._totals),
            next_sequence=self._next_sequence,
            documents=dict(self._documents),
            published=dict(self._published),
            standings=self.standings(),
            evidence=tuple(self._evidence[key] for key in sorted(self._evidence)),
        )

    def standings(self) -> tuple[StandingRecord, ...]:
        """Return who is quarantined or revoked."""
        return tuple(self._standings[device] for device in sorted(self._standings))

    def lease(self, lease_id: bytes) -> LeaseRecord | None:
        """Return a lease in its present state, or None if it was never given."""
        self._check_usable()
        return self._unsettled.get(lease_id) or self._settled.get(lease_id)

    def params(self, version: int) -> bytes | None:
        """Return a version's params, or None if they are not kept."""
        return self._params.get(version)

    def counted_ids(self) -> list[tuple[int, bytes]]:
        """Return (version, lease id) of every id ever counted."""
        return list(self._counted)

    # --- faults ------------------------------------------------------------------------------

    def fail_next(self, *, kept: bool) -> None:
        """Let the next commit raise StoreError, with all of it ``kept`` or nothing."""
        self._failing = kept

    def reopen(self) -> None:
        """Open it again after an error."""
        self._failed = False

    # --- inside ------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._failed:
            raise StoreError("it failed before: close it and open it again")

    def _keep(self, batch: Batch) -> None:
        """Check everything on a copy of what changes, then take it over at once."""
        changes: dict[bytes, LeaseRecord] = {}
        leases: _Leases = ChainMap(changes, self._unsettled, self._settled)
        entries: dict[bytes, JournalRecord] = {}
        self._give(leases, batch.leases)
        self._enter(leases, batch.journal, entries)
        self._refuse(leases, batch)
        self._count(leases, batch.versions)
        self._devices |= batch.devices
        self._totals |= batch.totals
        for key, data in batch.documents.items():
            if data:
                self._documents[key] = data
            else:
                self._documents.pop(key, None)
        self._evidence |= batch.evidence
        for device, standing in batch.standings.items():
            self._set_standing(device, standing)
        if batch.journal:
            self._next_sequence = batch.journal[-1].sequence + 1
        self._journal |= entries
        for lease_id, lease in changes.items():
            self._settle(lease_id, lease)
        self._take_versions(batch.versions)

    def _set_standing(self, device: str, record: StandingRecord) -> None:
        before = self._standings.get(device)
        if before is not None and before.standing is Standing.REVOKED:
            return  # for good
        if record.standing is not Standing.ADMITTED:
            self._standings[device] = record
            return
        self._standings.pop(device, None)
        for key in [key for key in self._evidence if key[0] == device]:
            self._evidence[key] = replace(self._evidence[key], points=0.0)

    def _give(self, leases: _Leases, given: Iterable[LeaseRecord]) -> None:
        for lease in given:
            if lease.lease_id in leases:
                raise LocalProtocolError(f"lease {lease.lease_id.hex()} was given twice")
            leases[lease.lease_id] = lease

    def _enter(
        self,
        leases: _Leases,
        records: Iterable[JournalRecord],
        entries: dict[bytes, JournalRecord],
    ) -> None:
        for record in records:
            lease = leases.get(record.lease_id)
            if lease is None or lease.state is not LeaseState.OPEN:
                state = "never given" if lease is None else lease.state.value
                raise LocalProtocolError(f"{record.lease_id.hex()} is journalled, but {state}")
            if record.sequence < self._next_sequence:
                raise LocalProtocolError(f"sequence {record.sequence} was given twice")
            leases[record.lease_id] = replace(lease, state=LeaseState.JOURNALLED)
            entries[record.lease_id] = record

    def _refuse(self, leases: _Leases, batch: Batch) -> None:
        for record in batch.refusals:
            lease = leases.get(record.lease_id)
            if lease is not None and _is_unsettled(lease):
                leases[record.lease_id] = replace(
                    lease, state=LeaseState.REFUSED, outcome=record.reason
                )

    def _count(self, leases: _Leases, versions: Iterable[VersionRecord]) -> None:
        for new in versions:
            for lease_id in new.counted:
                lease = leases.get(lease_id)
                if lease is None or not _is_unsettled(lease):
                    state = "never given" if lease is None else lease.state.value
                    raise LocalProtocolError(f"{lease_id.hex()} is counted, but {state}")
                leases[lease_id] = replace(
                    lease, state=LeaseState.COUNTED, outcome=str(new.version)
                )

    def _settle(self, lease_id: bytes, lease: LeaseRecord) -> None:
        if _is_unsettled(lease):
            self._unsettled[lease_id] = lease
            return
        self._settled[lease_id] = lease
        self._unsettled.pop(lease_id, None)
        self._journal.pop(lease_id, None)

    def _take_versions(self, versions: Sequence[VersionRecord]) -> None:
        if not versions:
            return
        for new in versions:
            if self._newest is not None and new.version <= self._newest.version:
                raise LocalProtocolError(f"version {new.version} after {self._newest.version}")
            self._newest = new
            self._params[new.version] = new.params
            self._published[new.version] = new.published
            self._counted += [(new.version, lease_id) for lease_id in new.counted]
        since = versions[-1].published_since
        self._published = {at: what for at, what in self._published.items() if at >= since}
        named = {lease.version for lease in self._unsettled.values()}
        oldest = versions[-1].version - self._keep_versions
        for version in [each for each in self._params if each <= oldest and each not in named]:
            del self._params[version]


def _is_unsettled(lease: LeaseRecord) -> bool:
    return lease.state in (LeaseState.OPEN, LeaseState.JOURNALLED)
