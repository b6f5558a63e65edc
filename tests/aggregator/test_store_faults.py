"""The store survives what happens to machines: kill -9 anywhere, a full disk."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.records import JournalRecord, LeaseRecord, Record, VersionRecord
from aggregator.store import FAULT_POINTS, StoreError, open_store
from tests.support import killed_store
from tests.support.killed_store import GOAL, REFUSED, VERSIONS, next_params, payload

ROOT = Path(__file__).parents[2]
LEASES: list[Record] = [LeaseRecord(bytes([n]) * 16, "device", 0, "codec") for n in range(9)]
BIG = os.urandom(400_000)


def uninterrupted() -> tuple[str, list[tuple[int, int]]]:
    """Return the params and counted ids of a federation that nobody kills."""
    numbers = [number for number in range(GOAL * VERSIONS + 1) if number != REFUSED]
    params, counted = next_params(b"", []), []
    for version in range(1, VERSIONS + 1):
        batch = numbers[(version - 1) * GOAL : version * GOAL]
        params = next_params(params, [payload(number) for number in batch])
        counted += [(version, number) for number in batch]
    return params.hex()[:64], counted


def test_a_kill_at_any_boundary_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", killed_store.__name__, tmp_path, *FAULT_POINTS, killed_store.ANY],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    histories = [killed_store.History(**json.loads(line)) for line in result.stdout.splitlines()]
    killed_at = {history.point for history in histories if history.kills}
    assert killed_at == {*FAULT_POINTS, killed_store.ANY}
    assert max(history.kills for history in histories) > 3
    params, counted = uninterrupted()
    for history in histories:
        assert history.consistent, history
        assert history.params == params, history
        assert [tuple(pair) for pair in history.counted] == counted, history
        assert history.accepted == GOAL * VERSIONS, history


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``num_bytes``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def update(number: int, data: bytes) -> JournalRecord:
    return JournalRecord(number, bytes([number]) * 16, data)


@pytest.mark.parametrize(
    ("too_much", "reason"),
    [
        ([update(1, BIG)], r"1\.seg: the file may not grow any more"),
        ([update(n, BIG[:9000]) for n in range(1, 9)], r"may not grow any more"),
        (
            [VersionRecord(1, BIG, b"hash", counted=(bytes(16),))],
            "the disk refused a read or write",
        ),
    ],
)
def test_a_file_that_may_not_grow_is_reported_and_nothing_is_lost(
    tmp_path: Path, too_much: list[Record], reason: str
) -> None:
    store = open_store(tmp_path, "digits")
    store.commit([VersionRecord(0, b"params", b"hash"), *LEASES])
    store.commit([update(0, b"small")])
    before = store.snapshot()
    with files_end_at(60_000), pytest.raises(StoreError, match=reason):
        store.commit(too_much)
    store.close()
    store = open_store(tmp_path, "digits")
    assert store.snapshot() == before
    store.commit(too_much)
    after = store.snapshot()
    assert after != before
    store.close()
    store = open_store(tmp_path, "digits")
    assert store.snapshot() == after
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 3 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    yield tmp_path
    # Lazily: a store that a failing test left open must not leave the mount behind.
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.parametrize("first_full", ["journal", "database"])
def test_a_full_disk_is_reported_and_nothing_is_lost(small_disk: Path, first_full: str) -> None:
    store = open_store(small_disk, "digits")
    store.commit([VersionRecord(0, b"params", b"hash"), *LEASES])
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(free - 200_000))
    store.commit([update(0, b"small")])
    before = store.snapshot()
    too_much: Record = update(1, BIG) if first_full == "journal" else VersionRecord(1, BIG, b"hash")
    with pytest.raises(StoreError, match="the disk is full: free some space"):
        store.commit([too_much])
    store.close()
    with pytest.raises(StoreError, match="disk"):  # still full
        fill(small_disk)
    ballast.unlink()
    store = open_store(small_disk, "digits")
    assert store.snapshot() == before
    store.commit([too_much])
    assert store.snapshot() != before
    store.close()


def fill(directory: Path) -> None:
    """Open a store on a full disk and write to it."""
    store = open_store(directory, "digits")
    try:
        store.commit([VersionRecord(9, BIG, b"hash")])
    finally:
        store.close()


def test_a_folder_that_cannot_be_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        open_store(tmp_path / "file", "digits")
