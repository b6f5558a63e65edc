"""The store in memory answers as the real one does, whatever it is asked to keep."""

from pathlib import Path

import numpy as np
import pytest

from aggregator.records import (
    CounterRecord,
    DeviceRecord,
    JournalRecord,
    LeaseRecord,
    Record,
    RefusalRecord,
    VersionRecord,
)
from aggregator.store import open_store
from aggregator.store_errors import StoreError
from protocol.errors import LocalProtocolError
from simulator import MemoryStore

NUM_COMMITS = 12


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Script:
    """Draws commits that are mostly possible, from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.version = -1
        self.num_leases = 0
        self.sequence = 0
        self.unsettled: list[int] = []
        self.journalled: set[int] = set()

    def commit(self) -> list[Record]:
        records = [self.next_version()] if self.version < 0 else []
        return records + [self.record() for _ in range(self.rng.integers(1, 6))]

    def record(self) -> Record:
        match int(self.rng.integers(12)):
            case 0:
                return DeviceRecord(f"d{self.rng.integers(3)}", key(int(self.rng.integers(3))))
            case 1:
                return CounterRecord({"a": int(self.rng.integers(9))})
            case 2 | 3 | 4 | 5:
                return self.lease()
            case 6 | 7 | 8:
                return self.entry()
            case 9:
                return self.refusal()
        return self.next_version()

    def lease(self) -> LeaseRecord:
        number = self.some_lease() if self.rng.random() < 0.03 else self.num_leases
        self.num_leases = max(self.num_leases, number + 1)
        self.unsettled.append(number)
        return LeaseRecord(key(number), f"d{number % 3}", max(0, self.version), "dense/float32")

    def entry(self) -> Record:
        free = [each for each in self.unsettled if each not in self.journalled]
        if not free:
            return self.lease()
        self.journalled.add(free[0])
        self.sequence += 1
        return JournalRecord(self.sequence - 1, key(free[0]), b"update %d" % free[0])

    def refusal(self) -> Record:
        """Of a refused lease nothing is journalled: the store in memory would insist on it."""
        if not self.num_leases:
            return self.lease()
        number = self.some_lease()
        self.unsettled = [each for each in self.unsettled if each != number]
        return RefusalRecord(key(number), "too_stale")

    def next_version(self) -> VersionRecord:
        """Count what is journalled; now and then an id that nobody ever got, or a settled one."""
        counted = sorted(self.journalled & set(self.unsettled))
        if self.rng.random() < 0.1:
            known = self.num_leases and self.rng.random() < 0.5
            counted.append(self.some_lease() if known else 999)
        self.unsettled = [each for each in self.unsettled if each not in counted]
        self.version += 1
        params = b"params %d" % self.version
        return VersionRecord(self.version, params, bytes(32), tuple(map(key, counted)))

    def some_lease(self) -> int:
        return int(self.rng.integers(max(1, self.num_leases)))


def outcome(store: object, records: list[Record]) -> str:
    try:
        store.commit(records)  # type: ignore[attr-defined] # both stores have it
    except LocalProtocolError:
        return "refused"
    return "kept"


@pytest.mark.parametrize("seed", range(30))
def test_it_answers_as_the_real_one(seed: int, tmp_path: Path) -> None:
    script, memory, real = Script(seed), MemoryStore(), open_store(tmp_path, "digits")
    try:
        for _ in range(NUM_COMMITS):
            records = script.commit()
            expected = outcome(real, records)
            assert outcome(memory, records) == expected, records
            if expected == "refused":
                real.close()
                real = open_store(tmp_path, "digits")
                memory.reopen()
            assert memory.snapshot() == real.snapshot()
            assert memory.counted_ids() == real.counted_ids()
            for number in range(script.num_leases):
                assert memory.lease(key(number)) == real.lease(key(number))
            if expected == "refused":
                break
    finally:
        real.close()


@pytest.mark.parametrize("kept", [True, False])
def test_a_failed_commit_is_kept_whole_or_not_at_all(kept: bool) -> None:  # noqa: FBT001 - a parameter
    store = MemoryStore()
    store.commit([VersionRecord(0, b"params", bytes(32))])
    store.fail_next(kept=kept)
    with pytest.raises(StoreError):
        store.commit([DeviceRecord("a", key(1)), LeaseRecord(key(2), "a", 0, "dense/float32")])
    with pytest.raises(StoreError, match="failed before"):
        store.snapshot()
    store.reopen()
    snapshot = store.snapshot()
    assert len(snapshot.devices) == len(snapshot.leases) == int(kept)
