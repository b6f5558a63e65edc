"""Whether every update was counted, and once: what devices saw against what the store says.

Three sides are asked that do not take each other's word: devices (what they sent, what they were
told of it, what they still hold), the bus (which version's manifest names an update) and the store
(in which version it counts one). Pure; an update is its lease id.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from aggregator.records import JournalRecord, Record, RefusalRecord, VersionRecord


class Verdict(NamedTuple):
    """Updates that should not exist: both empty, whatever happened.

    ``lost``: a device has a receipt, a manifest names it, or the store had taken it, and no version
    counts it; or its device let go of it without a word. ``counted_twice``: counted in two
    versions, or asked to be; named in two manifests, or in one of another version than the store
    says; or counted although its device was told no, and so sends the same delta again.
    """

    lost: frozenset[bytes]
    counted_twice: frozenset[bytes]


class Audit:
    """Is told of everything as it happens, and judges at the end."""

    def __init__(self) -> None:
        self._open: set[bytes] = set()  # sent, and its device knows no verdict
        self._told: dict[bytes, bool] = {}
        self._named: dict[bytes, int] = {}
        self._counted: set[bytes] = set()
        self._journalled: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._twice: set[bytes] = set()

    # --- devices -----------------------------------------------------------------------------

    def sent(self, lease_id: bytes) -> None:
        """A device's update is on the bus."""
        if lease_id not in self._told:
            self._open.add(lease_id)

    def told(self, lease_id: bytes, *, counted: bool) -> None:
        """A device took a receipt for its update, or a refusal; after a crash perhaps again."""
        if self._told.setdefault(lease_id, counted) != counted:
            self._twice.add(lease_id)
        self._open.discard(lease_id)

    # --- the bus -----------------------------------------------------------------------------

    def named(self, version: int, lease_ids: Sequence[bytes]) -> None:
        """A version's manifest says what is counted in it."""
        self._twice |= _repeated(lease_ids)
        for lease_id in lease_ids:
            if self._named.setdefault(lease_id, version) != version:
                self._twice.add(lease_id)

    # --- the store ---------------------------------------------------------------------------

    def asked(self, records: Iterable[Record]) -> None:
        """The store is asked to keep this: it may refuse, but nobody should have asked."""
        for record in records:
            if isinstance(record, VersionRecord):
                self._twice |= _repeated(record.counted)
                self._twice |= self._counted.intersection(record.counted)

    def committed(self, records: Iterable[Record]) -> None:
        """The store has kept this."""
        for record in records:
            match record:
                case JournalRecord():
                    self._journalled.add(record.lease_id)
                case RefusalRecord():
                    self._refused.add(record.lease_id)
                case VersionRecord():
                    self._counted.update(record.counted)

    # --- at the end --------------------------------------------------------------------------

    def verdict(
        self,
        counted: Sequence[tuple[int, bytes]],
        waiting: Collection[bytes],
        held: Collection[bytes],
    ) -> Verdict:
        """Judge by what the store counts (version, id), what waits in it, what devices hold."""
        version_of = {lease_id: version for version, lease_id in counted}
        settled = self._refused.union(waiting, version_of)
        receipts = {lease_id for lease_id, is_counted in self._told.items() if is_counted}
        promised = receipts.union(self._named) - version_of.keys()
        let_go = self._open - settled - set(held)
        refused = self._told.keys() - receipts
        misnamed = {
            lease_id
            for lease_id, version in self._named.items()
            if version_of.get(lease_id, version) != version
        }
        return Verdict(
            frozenset(promised | let_go | (self._journalled - settled)),
            frozenset(
                self._twice
                | _repeated([lease_id for _, lease_id in counted])
                | (refused & version_of.keys())
                | misnamed
            ),
        )


def _repeated(lease_ids: Sequence[bytes]) -> set[bytes]:
    if len(set(lease_ids)) == len(lease_ids):
        return set()
    return {lease_id for lease_id, times in Counter(lease_ids).items() if times > 1}
