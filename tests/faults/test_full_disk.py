"""A disk that is really full: a clear error, nothing corrupt, recovery when there is room again."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_sdk.storage import Storage
from tests.support.audit import audit
from tests.support.federation import Federation

pytestmark = pytest.mark.broker

DEVICES = ("ada", "ben", "cleo", "dan", "eve")
#: More than a log, less than a database.
LIMIT_BYTES = 30_000


@contextmanager
def small_disk(root: Path, name: str) -> Iterator[tuple[Federation, Path]]:
    """Start a federation in which one process has a file system of 16 MB for its state."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    with Federation(root, DEVICES) as federation:
        folder = federation.state_dir(name)
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount a file system")
        try:
            yield federation.start(), folder
        finally:
            federation.stop()
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free; return the file to delete.

    Again where there is such a file: what is being replaced meanwhile frees some space.
    """
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        block = bytes(64 * 1024)
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]
    return ballast


def test_an_aggregator_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path, "aggregator") as (federation, folder):
        federation.grows()
        ballast = fill(folder)
        federation.until(
            lambda: "the disk is full: free some space" in errors(federation, "aggregator"),
            "no error",
        )
        assert federation.is_running("aggregator")
        ballast.unlink()
        federation.grows()
        assert "Traceback" not in federation.log("aggregator")
        federation.stop()
        audit(federation)


def test_an_aggregator_whose_files_may_not_grow_says_so_and_goes_on_when_they_may(
    tmp_path: Path,
) -> None:
    with Federation(tmp_path, DEVICES) as federation:
        federation.start()
        federation.grows()
        federation.limit_files("aggregator", LIMIT_BYTES)
        federation.until(lambda: "limit" in errors(federation, "aggregator"), "no error")
        assert federation.is_running("aggregator")
        federation.limit_files("aggregator", None)
        federation.grows()
        assert "Traceback" not in federation.log("aggregator")
        federation.stop()
        audit(federation)


def test_a_device_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path, "ada") as (federation, folder):
        federation.grows()
        ballast = fill(folder)

        def complains() -> bool:
            fill(folder)
            return "were not stored: make space there" in errors(federation, "ada")

        federation.until(complains, "no error")
        federation.grows()
        assert federation.is_running("ada")
        ballast.unlink()
        receipts = len(federation.record("ada").receipts)
        federation.until(lambda: len(federation.record("ada").receipts) > receipts + 2, "stuck")
        assert "Traceback" not in federation.log("ada")
        federation.stop()
        audit(federation)
        storage = Storage(folder)
        assert {"install-id", "boots"} <= storage.load().keys()
        assert storage.num_corrupt == 0
        assert not list(folder.glob("*.corrupt"))


def errors(federation: Federation, name: str) -> str:
    """Return the lines of a log that are errors."""
    lines = federation.log(name).splitlines()
    return "\n".join(line for line in lines if " ERROR " in line)
