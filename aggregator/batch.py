"""The records of one commit, by kind: the order in which a store writes them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self, assert_never

from aggregator.records import (
    CounterRecord,
    DeviceRecord,
    DocumentRecord,
    EvidenceRecord,
    JournalRecord,
    LeaseRecord,
    LeaseState,
    Record,
    RefusalRecord,
    StandingRecord,
    VersionRecord,
)
from protocol.errors import LocalProtocolError


@dataclass(slots=True)
class Batch:
    """What one commit holds, each kind in the order in which it was asked for.

    Between kinds the order is that of a lease's life: given, journalled, then refused or counted.
    """

    devices: dict[str, DeviceRecord] = field(default_factory=dict)
    leases: list[LeaseRecord] = field(default_factory=list)
    journal: list[JournalRecord] = field(default_factory=list)
    refusals: list[RefusalRecord] = field(default_factory=list)
    versions: list[VersionRecord] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    standings: dict[str, StandingRecord] = field(default_factory=dict)
    evidence: dict[tuple[str, str], EvidenceRecord] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """Sort records by kind; of a device, a counter and a document the last word stands.

        Raises LocalProtocolError for a lease that does not begin open.
        """
        batch = cls()
        for record in records:
            match record:
                case JournalRecord():
                    batch.journal.append(record)
                case LeaseRecord():
                    batch.leases.append(_open(record))
                case CounterRecord():
                    batch.totals.update(record.totals)
                case RefusalRecord():
                    batch.refusals.append(record)
                case VersionRecord():
                    batch.versions.append(record)
                case DocumentRecord():
                    batch.documents[record.key] = record.data
                case DeviceRecord():
                    batch.devices[record.device] = record
                case StandingRecord() | EvidenceRecord():
                    batch._add_conduct(record)
                case _:
                    assert_never(record)
        return batch

    def _add_conduct(self, record: StandingRecord | EvidenceRecord) -> None:
        if isinstance(record, StandingRecord):
            self.standings[record.device] = record
        else:
            self.evidence[record.device, record.kind] = record

    def settled(self) -> list[bytes]:
        """The ids that this commit refuses or counts."""
        refused = [record.lease_id for record in self.refusals]
        return refused + [lease_id for record in self.versions for lease_id in record.counted]


def _open(lease: LeaseRecord) -> LeaseRecord:
    if lease.state is not LeaseState.OPEN:
        raise LocalProtocolError(f"a lease begins open, not {lease.state.value}")
    return lease
