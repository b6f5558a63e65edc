"""What must survive a reboot: one small file a key, replaced atomically.

A file is written beside its place, flushed to the medium, and renamed over the old one; the folder
is flushed too. A checksum in front tells a torn or rotten file from a whole one, so that a bad
medium costs an update and never a wrong one.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from protocol.topics import check_id

CHECKSUM_BYTES: Final = 16
_SUFFIX: Final = ".fedbus"


class StorageError(Exception):
    """The medium did not take a write: full, read-only or broken. Nothing was changed."""


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold a directory for this process, which makes it if it is missing; its end lets go of it.

    Two devices on one medium would use up each other's masks. Raises StorageError if another
    process has it, or it cannot be made. Where locks are not known nothing is held.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"{directory}: {error.strerror}; choose another state_dir") from None
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        import fcntl  # noqa: PLC0415 - not everywhere
    except ImportError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StorageError(
            f"{directory}: another process is this device; end it, or give this one a state_dir"
            " and an id of its own"
        ) from None
    except OSError:  # a file system without locks
        return


class Storage:
    """Keys and their bytes in one directory, which is made if it is missing."""

    def __init__(self, directory: Path) -> None:
        """Open it. Raises StorageError if the directory cannot be made."""
        self._directory = directory
        self.num_corrupt = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
        except OSError as error:
            raise StorageError(f"{directory}: {error.strerror}; choose another state_dir") from None
        self._remove_leftovers()

    def store(self, key: str, data: bytes) -> None:
        """Make ``data`` durable under ``key``, or raise StorageError and keep what was there."""
        self.store_all({key: data})

    def store_all(self, items: Mapping[str, bytes]) -> None:
        """Make several durable, with one flush of the directory for all of them.

        Each key is replaced whole or not at all; after StorageError some may have been.
        """
        for key, data in items.items():
            self._replace(self._path(key), data)
        self._flush_directory()

    def delete(self, key: str) -> None:
        """Forget a key; one that is not there is fine. Raises StorageError."""
        self.delete_all([key])

    def delete_all(self, keys: Iterable[str]) -> None:
        """Forget several keys. Raises StorageError."""
        for key in keys:
            try:
                self._path(key).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"{self._path(key)}: {error.strerror}") from None
        self._flush_directory()

    def _replace(self, target: Path, data: bytes) -> None:
        partial = target.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                file.write(_checksum(data))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise StorageError(
                f"{target}: {error.strerror}; {len(data)} bytes were not stored: make space there"
            ) from None

    def load(self) -> Mapping[str, bytes]:
        """Return all whole keys. Rotten files are counted, kept aside and otherwise ignored.

        Raises StorageError if the medium cannot be read.
        """
        try:
            return self._load()
        except OSError as error:
            raise StorageError(f"{self._directory}: {error.strerror}") from None

    def _load(self) -> Mapping[str, bytes]:
        found = {}
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                raw = path.read_bytes()
            except FileNotFoundError:  # forgotten since: `Device.predict` reads in any thread
                continue
            data = raw[CHECKSUM_BYTES:]
            if raw[:CHECKSUM_BYTES] == _checksum(data):
                found[path.stem] = data
                continue
            self.num_corrupt += 1
            path.replace(path.with_suffix(".corrupt"))
        return found

    def _path(self, key: str) -> Path:
        return self._directory / f"{check_id(key, 'key')}{_SUFFIX}"

    def _remove_leftovers(self) -> None:
        for path in self._directory.glob("*.partial"):
            with contextlib.suppress(OSError):
                path.unlink()

    def _flush_directory(self) -> None:
        try:
            descriptor = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StorageError(f"{self._directory}: {error.strerror}") from None


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()
