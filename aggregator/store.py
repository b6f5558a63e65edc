"""Registry, leases, versions and journal of one task, durable: what survives a kill -9.

Ids and small facts are rows (`rows`), payloads of the journal are segment files (`journal`). A
commit takes everything the shell has gathered: payloads are appended and synced, then one SQL
transaction names them and does the rest. What no row names never happened.

A store has one owner at a time, and one thread uses it at a time.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Connection

from aggregator import schema
from aggregator.batch import Batch
from aggregator.faults import FAULT_POINTS, no_fault
from aggregator.journal import SEGMENT_BYTES, Journal, sync_directory
from aggregator.records import JournalRecord, LeaseRecord, Record, Snapshot, StandingRecord
from aggregator.rows import Entry, Rows
from aggregator.store_errors import StoreError, explained
from protocol.topics import check_id

__all__ = ["FAULT_POINTS", "Store", "StoreError", "no_fault", "open_store"]


class Store:
    """One task's records; `open_store` makes it.

    After an error it refuses everything but `close`: open it again and go on from its snapshot.
    """

    def __init__(
        self,
        connection: Connection,
        rows: Rows,
        journal: Journal,
        resources: ExitStack,
        *,
        where: str,
        fault: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._rows = rows
        self._journal = journal
        self._resources = resources
        self._where = where
        self._fault = fault
        self._failed = False

    def commit(self, records: Sequence[Record]) -> None:
        """Keep all of the records or none; they are durable on return.

        Raises StoreError where disk or database fail, and LocalProtocolError for what only a bug
        of ours can ask for: a lease or a sequence given twice, an id journalled that was never
        given, an id counted that was never given or is settled already.
        """
        if not records:
            return
        batch = Batch.of(records)
        settled = batch.settled()
        with self._using():
            entries = self._append(batch.journal, frozenset(settled))
            with self._connection.begin():
                self._rows.write(batch, entries, settled)
                tidy = bool(settled) and self._journal.has_old_segments()
                named = self._rows.named_segments() if tidy else set()
                self._fault("sql:before_commit")
            self._fault("sql:after_commit")
            if tidy:
                self._journal.keep(named)

    def snapshot(self) -> Snapshot:
        """Return everything that a coordinator is rebuilt from.

        Raises StoreError naming file and offset if a journalled payload is not what was written.
        """
        with self._reading() as rows:
            entries = rows.entries()
            payloads = self._journal.read((sequence, place) for sequence, _, place in entries)
            return Snapshot(
                version=rows.newest_version(),
                devices=rows.devices(),
                leases=rows.unsettled_leases(),
                journal=tuple(
                    JournalRecord(sequence, lease_id, payload)
                    for (sequence, lease_id, _), payload in zip(entries, payloads, strict=True)
                ),
                live_params=rows.live_params(),
                totals=rows.totals(),
                next_sequence=rows.next_sequence(),
                documents=rows.documents(),
                published=rows.published(),
                standings=rows.standings(),
                evidence=rows.evidence(),
            )

    def standings(self) -> tuple[StandingRecord, ...]:
        """Return who is quarantined or revoked now: `fedbus devices` may have changed it."""
        with self._reading() as rows:
            return rows.standings()

    def lease(self, lease_id: bytes) -> LeaseRecord | None:
        """Return a lease in its present state, however old it is, or None if never given."""
        with self._reading() as rows:
            return rows.lease(lease_id)

    def params(self, version: int) -> bytes | None:
        """Return a version's params, or None if they are not kept (any more)."""
        with self._reading() as rows:
            return rows.params(version)

    def counted_ids(self) -> list[tuple[int, bytes]]:
        """Return (version, lease id) of every id ever counted, as the versions name them.

        For tests and audits: were an id counted twice, it would be here twice.
        """
        with self._reading() as rows:
            return rows.counted_ids()

    def close(self) -> None:
        """Let go of the database, the journal and the ownership. May be called twice."""
        with explained(self._where):
            self._resources.close()

    @contextmanager
    def _reading(self) -> Iterator[Rows]:
        with self._using(), self._connection.begin():
            yield self._rows

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Explain errors, and let nobody go on after one: what is durable is then unknown."""
        if self._failed:
            raise StoreError(f"{self._where}: it failed before: close it and open it again")
        self._failed = True
        with explained(self._where):
            yield
        self._failed = False

    def _append(self, records: Sequence[JournalRecord], settled: frozenset[bytes]) -> list[Entry]:
        """Make payloads durable, but not of what the same commit settles: nobody replays those."""
        waiting = [record for record in records if record.lease_id not in settled]
        if not waiting:
            return []
        places = self._journal.append([(record.sequence, record.update) for record in waiting])
        return [
            (record.sequence, record.lease_id, place)
            for record, place in zip(waiting, places, strict=True)
        ]


def open_store(
    directory: Path,
    task: str,
    url: str | None = None,
    *,
    fault: Callable[[str], None] = no_fault,
    keep_versions: int = 3,
    segment_bytes: int = SEGMENT_BYTES,
    model: str = "",
) -> Store:
    """Open the store of ``task`` in ``directory``, or make an empty one there.

    The database is ``<task>.sqlite`` there, or PostgreSQL at ``url`` (one database a task); the
    journal's payloads are in ``<task>.journal/`` either way. ``keep_versions`` is how many
    versions' params are kept beside those that unsettled leases name; ``segment_bytes`` after how
    many bytes the journal begins a new file; ``model`` is a digest of the model, kept and compared
    with the one that the store began with; ``fault`` is called at each of `FAULT_POINTS`.

    What is made here is its owner's alone: it has updates, and what was held against whom.

    Raises StoreError, saying what to do, if another aggregator has it open, if it belongs to
    another task, another model or a newer program, or if the disk or database fails; ConfigError
    for a task or url that cannot be.
    """
    check_id(task, "task")
    database = directory / f"{task}.sqlite"
    engine = schema.open_engine(database, url)
    where = str(database) if url is None else engine.url.render_as_string(hide_password=True)
    with explained(where), ExitStack() as resources:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _own(directory / f"{task}.lock", resources)
        resources.callback(engine.dispose)
        if url is None:
            _keep_private(database)
        connection = resources.enter_context(engine.connect())
        with connection.begin():
            schema.claim(connection, task, where, model)
            rows = Rows(connection, keep_versions)
            ends = rows.segment_ends()
        folder = directory / f"{task}.journal"
        journal = Journal(folder, ends, fault=fault, segment_bytes=segment_bytes)
        resources.callback(journal.close)
        sync_directory(directory)
        return Store(connection, rows, journal, resources.pop_all(), where=where, fault=fault)


def _keep_private(database: Path) -> None:
    """Take others' rights to the file of SQLite, which gives its log the same ones."""
    database.touch(0o600)
    for path in database.parent.glob(f"{database.name}*"):
        path.chmod(0o600)


def _own(path: Path, resources: ExitStack) -> None:
    """Hold the lock file with ``resources``, or raise StoreError. It goes with the process."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    resources.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(
            f"{path} is locked: another aggregator runs this task here; stop it first"
        ) from None
