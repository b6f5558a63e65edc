"""What an operator sees and says of devices, beside the aggregator that runs: its store.

The aggregator owns the store and keeps it open; it reads the standings anew each ``monitor_s``. So
a standing is one short transaction here, and holds there a moment later; without an aggregator, it
holds from its next start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import inspect, select

from aggregator import schema
from aggregator.batch import Batch
from aggregator.conduct.evidence import WEIGHTS
from aggregator.records import EvidenceRecord, Record, Standing, StandingRecord
from aggregator.rows import Rows
from aggregator.store_errors import NoStoreError, StoreError, explained
from protocol.topics import check_id


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is known of one device: its standing, and the evidence, the weightiest first."""

    device: str
    is_registered: bool
    standing: Standing
    reason: str
    is_cut: bool
    evidence: tuple[EvidenceRecord, ...]

    @property
    def score(self) -> float:
        """What is held against it, as it was stored last."""
        return sum(each.points for each in self.evidence)


class Decrees:
    """One task's store, for as long as `open_decrees` has it open."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def sheets(self) -> list[Sheet]:
        """Return every device that the aggregator has ever heard of or was told of, by name."""
        registered = {each.device for each in self._rows.devices() if each.install_id}
        standings = {each.device: each for each in self._rows.standings()}
        evidence: dict[str, list[EvidenceRecord]] = {}
        for each in self._rows.evidence():
            evidence.setdefault(each.device, []).append(each)
        names = sorted(registered | standings.keys() | evidence.keys())
        return [
            Sheet(
                name,
                name in registered,
                known.standing,
                known.reason,
                known.is_cut,
                tuple(sorted(evidence.get(name, []), key=lambda each: -each.points)),
            )
            for name in names
            for known in [standings.get(name, StandingRecord(name, Standing.ADMITTED))]
        ]

    def sheet(self, device: str) -> Sheet | None:
        """Return what is known of a device; None if it was never heard of."""
        return next((each for each in self.sheets() if each.device == device), None)

    def decree(self, record: StandingRecord) -> None:
        """Set a device's standing. Admitted again, nothing is held against it any more."""
        check_id(record.device, "device")
        records: list[Record] = [record]
        self._rows.write(Batch.of(records), [], [])


@contextmanager
def open_decrees(directory: Path, task: str, url: str | None = None) -> Iterator[Decrees]:
    """Look into a task's store, as `aggregator.store.open_store` names it, in one transaction.

    Raises NoStoreError if there is none, StoreError if it is another program's.
    """
    path = directory / f"{task}.sqlite"
    if url is None and not path.exists():
        raise NoStoreError(f"{path}: no store yet: the aggregator makes it when it first starts")
    engine = schema.open_engine(path, url)
    where = str(path) if url is None else engine.url.render_as_string(hide_password=True)
    try:
        with explained(where), engine.begin() as connection:
            if not inspect(connection).has_table(schema.meta.name):
                raise NoStoreError(f"{where}: no store yet: the aggregator makes it at its start")
            found = {row.key: row.value for row in connection.execute(select(schema.meta))}
            if found["task"] != task:
                raise StoreError(f"{where}: it belongs to task {found['task']!r}, not {task!r}")
            if int(found["schema"]) != schema.SCHEMA_VERSION:
                raise StoreError(
                    f"{where}: it has schema {found['schema']}, this program"
                    f" {schema.SCHEMA_VERSION}: start this program's aggregator on it once"
                )
            yield Decrees(Rows(connection, keep_versions=1))
    finally:
        engine.dispose()


def meaning(kind: str) -> str:
    """Return what a kind of evidence means, for a person; itself if a newer program wrote it."""
    weight = WEIGHTS.get(kind)
    return kind if weight is None else weight.meaning
