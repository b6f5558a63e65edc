"""The SQL half of the store: a commit's rows written, and read back as records.

Nothing here begins or ends a transaction: the store does.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgpack
from sqlalchemy import (
    Connection,
    Select,
    Table,
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
from aggregator.records import DeviceRecord, LeaseRecord, LeaseState, VersionRecord
from aggregator.schema import (
    NEXT_SEQUENCE,
    counter,
    device,
    journal,
    lease,
    meta,
    params,
    strategy_state,
    unsettled,
    version,
)
from protocol.errors import LocalProtocolError

#: A journal row: sequence, lease id, and where its payload is.
Entry = tuple[int, bytes, Place]
#: Lease id, device, version, codec, version counted in, reason refused, sequence in the journal.
LeaseRow = tuple[bytes, str, int, str, int | None, str | None, int | None]

_LEASES: Final[Select[LeaseRow]] = select(lease, journal.c.sequence).outerjoin_from(lease, journal)
_SETTLE: Final = update(lease).where(lease.c.lease_id == bindparam("id"), unsettled)
_COUNT: Final = _SETTLE.values(counted_in=bindparam("number"))
_REFUSE: Final = _SETTLE.values(refused=bindparam("reason"))
_LEAVE_JOURNAL: Final = delete(journal).where(journal.c.lease_id == bindparam("id"))
_DROP_PARAMS: Final = delete(params).where(
    params.c.version <= bindparam("last"),
    ~exists().where(lease.c.version == params.c.version, unsettled),
)
_SET_SEQUENCE: Final = (
    update(meta).where(meta.c.key == NEXT_SEQUENCE).values(value=bindparam("text"))
)


class Rows:
    """The rows of one task, over one connection. ``keep_versions`` as in `store.open_store`."""

    def __init__(self, connection: Connection, keep_versions: int) -> None:
        self._connection = connection
        self._keep_versions = keep_versions
        # The two hot statements go to the driver as they are: executing them through Core costs
        # more per row than everything else about it.
        self._insert_lease = _driver_sql(
            connection, lease, ("lease_id", "device", "version", "codec")
        )
        self._insert_journal = _driver_sql(
            connection, journal, ("sequence", "lease_id", "segment", "offset", "length")
        )

    def write(self, batch: Batch, entries: Sequence[Entry], settled: Sequence[bytes]) -> None:
        """Write a commit: all of ``batch``, of its journal only ``entries``; drop ``settled``.

        Raises LocalProtocolError unless every id it refuses or counts is of an unsettled lease.
        """
        execute, driver = self._connection.execute, self._connection.exec_driver_sql
        self._replace(device, batch.devices)
        if batch.leases:
            leases = [(new.lease_id, new.device, new.version, new.codec) for new in batch.leases]
            driver(self._insert_lease, leases)
        if entries:
            driver(self._insert_journal, [(number, key, *at) for number, key, at in entries])
        if batch.journal:
            execute(_SET_SEQUENCE, {"text": str(batch.journal[-1].sequence + 1)})
        if batch.refusals:
            refused = [{"id": old.lease_id, "reason": old.reason} for old in batch.refusals]
            _check_all_settled(execute(_REFUSE, refused).rowcount, len(refused))
        if batch.versions:
            self._write_versions(batch.versions)
        if settled:
            execute(_LEAVE_JOURNAL, [{"id": lease_id} for lease_id in settled])
        if batch.versions:
            last = batch.versions[-1].version - self._keep_versions
            execute(_DROP_PARAMS, {"last": last})
        self._replace(counter, batch.totals)

    def segment_ends(self) -> dict[int, int]:
        """Return where the last named entry of each segment ends, by segment."""
        end = func.max(journal.c.offset + journal.c.length + HEADER_BYTES)
        query = select(journal.c.segment, end).group_by(journal.c.segment)
        return dict(self._connection.execute(query).tuples().all())

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

    def unsettled_leases(self) -> tuple[LeaseRecord, ...]:
        """Return the open and the journalled leases, by version and id."""
        query = _LEASES.where(unsettled).order_by(lease.c.version, lease.c.lease_id)
        return tuple(_lease_record(row) for row in self._connection.execute(query).tuples())

    def lease(self, lease_id: bytes) -> LeaseRecord | None:
        """Return a lease in its present state, or None if it was never given."""
        query = _LEASES.where(lease.c.lease_id == lease_id)
        row = self._connection.execute(query).tuples().one_or_none()
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
        return dict(self._connection.execute(select(params)).tuples().all())

    def totals(self) -> dict[str, int]:
        """Return the counters by name."""
        return dict(self._connection.execute(select(counter)).tuples().all())

    def next_sequence(self) -> int:
        """Return the sequence that the next admitted update gets."""
        query = select(meta.c.value).where(meta.c.key == NEXT_SEQUENCE)
        return int(self._connection.execute(query).scalar_one())

    def counted_ids(self) -> list[tuple[int, bytes]]:
        """Return (version, lease id) of every id counted, as the version rows name them."""
        rows = self._connection.execute(select(version).order_by(version.c.version))
        return [(row.version, key) for row in rows for key in msgpack.unpackb(row.counted)]

    def _write_versions(self, versions: Sequence[VersionRecord]) -> None:
        execute = self._connection.execute
        rows = [
            {
                "version": new.version,
                "model_hash": new.model_hash,
                "counted": msgpack.packb(new.counted),
            }
            for new in versions
        ]
        execute(insert(version), rows)
        blobs = [{"version": new.version, "params": new.params} for new in versions]
        execute(insert(params), blobs)
        execute(delete(strategy_state))  # only the newest is ever gone on from
        state = msgpack.packb(dict(versions[-1].strategy_state))
        execute(insert(strategy_state), [{"version": versions[-1].version, "state": state}])
        counted = [{"id": key, "number": new.version} for new in versions for key in new.counted]
        if counted:
            _check_all_settled(execute(_COUNT, counted).rowcount, len(counted))

    def _replace(self, table: Table, rows: Mapping[str, object]) -> None:
        """Set rows of a two-column table by key; the same SQL everywhere, unlike an upsert."""
        if not rows:
            return
        key, value = table.columns
        self._connection.execute(
            delete(table).where(key == bindparam("old")), [{"old": name} for name in rows]
        )
        self._connection.execute(
            insert(table), [{key.name: name, value.name: rows[name]} for name in rows]
        )


def _driver_sql(connection: Connection, table: Table, columns: Sequence[str]) -> str:
    """Return an insert that takes tuples of ``columns`` (in the table's order) on this driver."""
    return str(insert(table).compile(dialect=connection.dialect, column_keys=columns))


def _check_all_settled(num_settled: int, num_asked: int) -> None:
    if num_settled != num_asked:
        raise LocalProtocolError(
            f"{num_asked - num_settled} of {num_asked} leases to settle were never given or are "
            "settled already"
        )


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
