"""The SQL half of the store: a commit's rows written, and read back as records.

Nothing here begins or ends a transaction: the store does.
"""

from collections.abc import Sequence
from typing import Final

import msgpack
from sqlalchemy import (
    Connection,
    Insert,
    Table,
    UpdateBase,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from aggregator.batch import Batch
from aggregator.journal import HEADER_BYTES, Place
from aggregator.records import (
    DeviceRecord,
    EvidenceRecord,
    LeaseRecord,
    LeaseState,
    Published,
    Standing,
    StandingRecord,
    VersionRecord,
)
from aggregator.schema import (
    NEXT_SEQUENCE,
    counter,
    device,
    document,
    evidence,
    journal,
    lease,
    meta,
    params,
    published,
    standing,
    strategy_state,
    unsettled,
    version,
)
from protocol.errors import LocalProtocolError

#: A journal row: sequence, lease id, and where its payload is.
Entry = tuple[int, bytes, Place]
#: Lease id, device, version, codec, version counted in, reason refused, sequence in the journal.
LeaseRow = tuple[bytes, str, int, str, int | None, str | None, int | None]


def _insert(table: Table, *columns: str) -> Insert:
    """Return an insert of ``columns``, which are in the table's order, as are its parameters."""
    return insert(table).values({name: bindparam(name) for name in columns})


_LEASES: Final = select(
    lease.c.lease_id,
    lease.c.device,
    lease.c.version,
    lease.c.codec,
    lease.c.counted_in,
    lease.c.refused,
    journal.c.sequence,
).outerjoin_from(lease, journal)

# What a commit writes. Parameters are given by position, in the order of the comment.
_SET_DEVICE: Final = _insert(device, "device", "install_id", "counter")
_SET_TOTAL: Final = _insert(counter, "name", "total")
_SET_DOCUMENT: Final = _insert(document, "key", "data")
_GIVE: Final = _insert(lease, "lease_id", "device", "version", "codec")
_JOURNAL: Final = _insert(journal, "sequence", "lease_id", "segment", "offset", "length")
_VERSION: Final = _insert(version, "version", "model_hash", "counted")
_PARAMS: Final = _insert(params, "version", "params")
_PUBLISHED: Final = _insert(published, "version", "model", "full", "difference")
_STATE: Final = _insert(strategy_state, "version", "state")
_SET_STANDING: Final = _insert(standing, "device", "standing", "reason", "is_cut")
_SET_EVIDENCE: Final = _insert(evidence, "device", "kind", "count", "points")
_DROP_STANDING: Final = delete(standing).where(
    standing.c.device == bindparam("a"), standing.c.standing != bindparam("b")
)
_DROP_EVIDENCE: Final = delete(evidence).where(
    evidence.c.device == bindparam("a"), evidence.c.kind == bindparam("b")
)
_CLEAR_POINTS: Final = (
    update(evidence).where(evidence.c.device == bindparam("b")).values(points=bindparam("a"))
)  # points, device
_DROP_DEVICE: Final = delete(device).where(device.c.device == bindparam("a"))
_DROP_TOTAL: Final = delete(counter).where(counter.c.name == bindparam("a"))
_DROP_DOCUMENT: Final = delete(document).where(document.c.key == bindparam("a"))
_LEAVE_JOURNAL: Final = delete(journal).where(journal.c.lease_id == bindparam("a"))
_DROP_STATES: Final = delete(strategy_state).where(strategy_state.c.version < bindparam("a"))
_DROP_PUBLISHED: Final = delete(published).where(published.c.version < bindparam("a"))
_DROP_PARAMS: Final = delete(params).where(
    params.c.version <= bindparam("a"),
    ~exists().where(lease.c.version == params.c.version, unsettled),
)
_SETTLE: Final = update(lease).where(lease.c.lease_id == bindparam("b"), unsettled)
_COUNT: Final = _SETTLE.values(counted_in=bindparam("a"))  # version, lease id
_REFUSE: Final = _SETTLE.values(refused=bindparam("a"))  # reason, lease id
_SET_SEQUENCE: Final = (
    update(meta).where(meta.c.key == bindparam("b")).values(value=bindparam("a"))
)  # value, key


class Rows:
    """The rows of one task, over one connection. ``keep_versions`` as in `store.open_store`."""

    def __init__(self, connection: Connection, keep_versions: int) -> None:
        self._connection = connection
        self._keep_versions = keep_versions
        self._compiled: dict[UpdateBase, str] = {}

    def write(self, batch: Batch, entries: Sequence[Entry], settled: Sequence[bytes]) -> None:
        """Write a commit: all of ``batch``, of its journal only ``entries``; drop ``settled``.

        Raises LocalProtocolError unless every id it counts is of an unsettled lease.
        """
        # Deleting and inserting is the same SQL everywhere, which an upsert is not.
        self._run(_DROP_DEVICE, [(new.device,) for new in batch.devices.values()])
        self._run(
            _SET_DEVICE,
            [(new.device, new.install_id, new.counter) for new in batch.devices.values()],
        )
        self._run(
            _GIVE, [(new.lease_id, new.device, new.version, new.codec) for new in batch.leases]
        )
        self._run(_JOURNAL, [(sequence, lease_id, *at) for sequence, lease_id, at in entries])
        if batch.journal:
            self._run(_SET_SEQUENCE, [(str(batch.journal[-1].sequence + 1), NEXT_SEQUENCE)])
        self._run(_REFUSE, [(old.reason, old.lease_id) for old in batch.refusals])
        self._write_versions(batch.versions)
        self._run(_LEAVE_JOURNAL, [(lease_id,) for lease_id in settled])
        self._run(_DROP_TOTAL, [(name,) for name in batch.totals])
        self._run(_SET_TOTAL, list(batch.totals.items()))
        self._run(_DROP_DOCUMENT, [(key,) for key in batch.documents])
        self._run(_SET_DOCUMENT, [(key, data) for key, data in batch.documents.items() if data])
        self._write_conduct(batch)

    def _write_conduct(self, batch: Batch) -> None:
        """A device that is admitted again has no row, and nothing is held against it.

        Revoked is for good: an aggregator that has not read of it yet may quarantine the device.
        """
        told = list(batch.standings.values())
        admitted = [new for new in told if new.standing is Standing.ADMITTED]
        self._run(_DROP_EVIDENCE, list(batch.evidence))
        self._run(
            _SET_EVIDENCE,
            [(new.device, new.kind, new.count, new.points) for new in batch.evidence.values()],
        )
        self._run(_CLEAR_POINTS, [(0.0, new.device) for new in admitted])
        self._run(_DROP_STANDING, [(new.device, Standing.REVOKED.value) for new in told])
        left = {each.device for each in self.standings()} if told else set()
        kept = [new for new in told if new.standing is not Standing.ADMITTED]
        kept = [new for new in kept if new.device not in left]
        self._run(
            _SET_STANDING,
            [(new.device, new.standing.value, new.reason, new.is_cut) for new in kept],
        )

    def segment_ends(self) -> dict[int, int]:
        """Return where the last named entry of each segment ends, by segment."""
        end = func.max(journal.c.offset + journal.c.length + HEADER_BYTES)
        query = select(journal.c.segment, end).group_by(journal.c.segment)
        return {row[0]: row[1] for row in self._connection.execute(query)}

    def newest_version(self) -> VersionRecord | None:
        """Return the newest version whole, or None before the first."""
        query = (
            select(version, params.c.params, strategy_state.c.state)
            .join_from(version, params, version.c.version == params.c.version)
            .join(strategy_state, version.c.version == strategy_state.c.version)
            .order_by(version.c.version.desc())
            .limit(1)
        )
        row = self._connection.execute(query).one_or_none()
        if row is None:
            return None
        return VersionRecord(
            version=row.version,
            params=row.params,
            model_hash=row.model_hash,
            counted=tuple(msgpack.unpackb(row.counted)),
            strategy_state=msgpack.unpackb(row.state),
        )

    def devices(self) -> tuple[DeviceRecord, ...]:
        """Return the registry, by id."""
        rows = self._connection.execute(select(device).order_by(device.c.device))
        return tuple(DeviceRecord(*row) for row in rows)

    def standings(self) -> tuple[StandingRecord, ...]:
        """Return the devices that are quarantined or revoked, by id."""
        rows = self._connection.execute(select(standing).order_by(standing.c.device))
        return tuple(
            StandingRecord(row.device, Standing(row.standing), row.reason, row.is_cut)
            for row in rows
        )

    def evidence(self) -> tuple[EvidenceRecord, ...]:
        """Return the evidence on devices, by id and kind."""
        query = select(evidence).order_by(evidence.c.device, evidence.c.kind)
        return tuple(
            EvidenceRecord(name, kind, count, points)
            for name, kind, count, points in self._connection.execute(query)
        )

    def unsettled_leases(self) -> tuple[LeaseRecord, ...]:
        """Return the open and the journalled leases, by version and id."""
        query = _LEASES.where(unsettled).order_by(lease.c.version, lease.c.lease_id)
        return tuple(_lease_record(row) for row in self._connection.execute(query))

    def lease(self, lease_id: bytes) -> LeaseRecord | None:
        """Return a lease in its present state, or None if it was never given."""
        query = _LEASES.where(lease.c.lease_id == lease_id)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else _lease_record(row)

    def entries(self) -> list[Entry]:
        """Return what waits in the journal, by sequence."""
        rows = self._connection.execute(select(journal).order_by(journal.c.sequence))
        return [(row.sequence, row.lease_id, Place(*row[2:])) for row in rows]

    def named_segments(self) -> set[int]:
        """Return the segments that a row still names."""
        return set(self._connection.scalars(select(journal.c.segment).distinct()))

    def params(self, number: int) -> bytes | None:
        """Return the params of version ``number``, or None if they are not kept."""
        query = select(params.c.params).where(params.c.version == number)
        found: bytes | None = self._connection.execute(query).scalar_one_or_none()
        return found

    def live_params(self) -> dict[int, bytes]:
        """Return all params that are kept, by version."""
        return {row[0]: row[1] for row in self._connection.execute(select(params))}

    def published(self) -> dict[int, Published]:
        """Return what devices can fetch, by version."""
        rows = self._connection.execute(select(published).order_by(published.c.version))
        return {row[0]: Published(*row[1:]) for row in rows}

    def totals(self) -> dict[str, int]:
        """Return the counters by name."""
        return {row[0]: row[1] for row in self._connection.execute(select(counter))}

    def documents(self) -> dict[str, bytes]:
        """Return the documents by key."""
        return {row[0]: row[1] for row in self._connection.execute(select(document))}

    def next_sequence(self) -> int:
        """Return the sequence that the next admitted update gets."""
        query = select(meta.c.value).where(meta.c.key == NEXT_SEQUENCE)
        return int(self._connection.execute(query).scalar_one())

    def counted_ids(self) -> list[tuple[int, bytes]]:
        """Return (version, lease id) of every id counted, as the version rows name them."""
        rows = self._connection.execute(select(version).order_by(version.c.version))
        return [(row.version, key) for row in rows for key in msgpack.unpackb(row.counted)]

    def _write_versions(self, versions: Sequence[VersionRecord]) -> None:
        if not versions:
            return
        newest = versions[-1]
        self._run(
            _VERSION,
            [(new.version, new.model_hash, msgpack.packb(new.counted)) for new in versions],
        )
        self._run(_PARAMS, [(new.version, new.params) for new in versions])
        told = [(new.version, new.published) for new in versions]
        self._run(
            _PUBLISHED, [(number, what.model, what.full, what.difference) for number, what in told]
        )
        self._run(_DROP_PUBLISHED, [(newest.published_since,)])
        self._run(_STATE, [(newest.version, msgpack.packb(dict(newest.strategy_state)))])
        self._run(_DROP_STATES, [(newest.version,)])  # only from the newest does anybody go on
        self._count([(new.version, key) for new in versions for key in new.counted])
        self._run(_DROP_PARAMS, [(newest.version - self._keep_versions,)])

    def _count(self, rows: Sequence[tuple[int, bytes]]) -> None:
        missing = len(rows) - self._run(_COUNT, rows)
        if missing:
            raise LocalProtocolError(
                f"{missing} of {len(rows)} ids to count are of no lease, or of a settled one"
            )

    def _run(self, statement: UpdateBase, rows: Sequence[tuple[object, ...]]) -> int:
        """Run a write once per row of parameters; return how many rows it changed.

        The compiled statement goes straight to the driver: executing it through Core would cost
        several times more per row than SQLite takes for it.
        """
        if not rows:
            return 0
        if statement not in self._compiled:
            self._compiled[statement] = str(statement.compile(dialect=self._connection.dialect))
        return self._connection.exec_driver_sql(self._compiled[statement], list(rows)).rowcount


def _lease_record(row: LeaseRow) -> LeaseRecord:
    lease_id, device_id, base_version, codec, counted_in, refused, sequence = row
    state, outcome = LeaseState.OPEN, ""
    if counted_in is not None:
        state, outcome = LeaseState.COUNTED, str(counted_in)
    elif refused is not None:
        state, outcome = LeaseState.REFUSED, refused
    elif sequence is not None:
        state = LeaseState.JOURNALLED
    return LeaseRecord(lease_id, device_id, base_version, codec, state, outcome)
