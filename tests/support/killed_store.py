"""A program that kills its own children inside the store, and says what was found afterwards.

    python -m tests.support.killed_store DIRECTORY POINT...

For each point, children do the same small federation from the store alone and are killed there: at
the 1st time they pass it, in a new folder at the 2nd, and so on until one gets through. After each
kill the store is looked at as it is, then carried on to the end. A line of JSON per history.
Forking (which needs a process without threads) makes a history cost milliseconds.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from aggregator.faults import no_fault
from aggregator.records import (
    CounterRecord,
    JournalRecord,
    LeaseRecord,
    Record,
    RefusalRecord,
    Snapshot,
    VersionRecord,
)
from aggregator.store import Store, open_store

GOAL = 2
VERSIONS = 2
REFUSED = 3  # this admitted update is refused later on, as an abandoned buffer's would be
ANY = "any"


@dataclass(frozen=True, slots=True)
class History:
    """One kill (or several) and what the store said: right after, and at the end."""

    point: str
    nth: int
    kills: int
    consistent: bool
    params: str
    counted: list[tuple[int, int]]
    accepted: int


def payload(number: int) -> bytes:
    """Return update ``number``: 100 to 1,000 bytes that nothing else has."""
    return hashlib.sha256(b"%d" % number).digest() * (4 + number * 7 % 28)


def next_params(params: bytes, updates: list[bytes]) -> bytes:
    """Step: depends on every byte of every update and on their order."""
    return hashlib.sha256(params + b"".join(updates)).digest() * 100


def next_records(store: Store, snapshot: Snapshot) -> list[Record]:
    """Decide, from what the store holds alone, what happens next; nothing once it is over."""
    current = snapshot.version
    if current is None:
        return [VersionRecord(0, next_params(b"", []), b"hash")]
    if current.version == VERSIONS:
        return []
    if any(record.sequence == REFUSED for record in snapshot.journal):
        return [RefusalRecord(REFUSED.to_bytes(16), "recovery_failed")]
    if len(snapshot.journal) >= GOAL:
        return [
            VersionRecord(
                version=current.version + 1,
                params=next_params(current.params, [entry.update for entry in snapshot.journal]),
                model_hash=b"hash",
                counted=tuple(entry.lease_id for entry in snapshot.journal),
            ),
            CounterRecord({"accepted": snapshot.totals.get("accepted", 0) + len(snapshot.journal)}),
        ]
    number = snapshot.next_sequence
    lease_id = number.to_bytes(16)
    records: list[Record] = []
    if store.lease(lease_id) is None:
        records.append(LeaseRecord(lease_id, "device", current.version, "codec"))
        if number % 2:  # sometimes the lease is a commit of its own
            return records
    return [*records, JournalRecord(number, lease_id, payload(number))]


def federate(directory: Path, fault: Callable[[str], None]) -> None:
    """Go on from the store until the last version."""
    store = open_store(directory, "digits", fault=fault, segment_bytes=1500)
    while records := next_records(store, store.snapshot()):
        store.commit(records)
    store.close()


def child_is_killed(directory: Path, point: str, nth: int) -> bool:
    """Federate in a child that kills itself at the ``nth`` pass of ``point``."""
    child = os.fork()
    if child == 0:
        passed = 0

        def kill(here: str) -> None:
            nonlocal passed
            passed += point in {here, ANY}
            if passed == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        federate(directory, kill)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status) == signal.SIGKILL
    if os.WEXITSTATUS(status):
        raise SystemExit(f"the child failed at {point} {nth}")
    return False


def is_consistent(directory: Path) -> bool:
    """Whether every update is in one place, and the journal gives back what was put in."""
    store = open_store(directory, "digits", segment_bytes=1500)
    snapshot = store.snapshot()
    counted = [int.from_bytes(lease_id) for _, lease_id in store.counted_ids()]
    waiting = [entry.sequence for entry in snapshot.journal]
    refused = [REFUSED] if _is_refused(store) else []
    store.close()
    return (
        sorted(counted + waiting + refused) == list(range(snapshot.next_sequence))
        and all(entry.update == payload(entry.sequence) for entry in snapshot.journal)
        and snapshot.totals.get("accepted", 0) == len(counted)
    )


def _is_refused(store: Store) -> bool:
    lease = store.lease(REFUSED.to_bytes(16))
    return lease is not None and lease.outcome == "recovery_failed"


def history(directory: Path, point: str, nth: int) -> History:
    """Kill at the ``nth`` pass of ``point`` (of ``ANY``: again and again), then finish."""
    kills, consistent = 0, True
    while child_is_killed(directory, point, nth):
        kills += 1
        consistent = consistent and is_consistent(directory)
        if point != ANY:
            break
    federate(directory, no_fault)
    store = open_store(directory, "digits")
    snapshot = store.snapshot()
    counted = [(version, int.from_bytes(key)) for version, key in store.counted_ids()]
    store.close()
    return History(
        point=point,
        nth=nth,
        kills=kills,
        consistent=consistent and not snapshot.journal,
        params=snapshot.version.params.hex()[:64] if snapshot.version else "",
        counted=counted,
        accepted=snapshot.totals["accepted"],
    )


def main(root: Path, points: list[str]) -> None:
    """Write the histories of all points to standard output."""
    for point in points:
        nth, kills = (1, 1) if point != ANY else (6, 1)
        while kills:
            found = history(root / f"{point.replace(':', '-')}-{nth}", point, nth)
            sys.stdout.write(json.dumps(asdict(found)) + "\n")
            kills = found.kills
            nth += 1 if point != ANY else 7


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
