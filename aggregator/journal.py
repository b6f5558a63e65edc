"""The journal's payloads: append-only segment files, beside the rows that name their entries.

An entry is a header (sequence, length, CRC-32 of the payload started at the sequence) and the
payload. **An entry counts only if a row names it**: payloads are made durable first, rows are
committed after, so that whatever a crash leaves behind a segment's last named entry means nothing.
It is cut off at the next start, and a start never appends to an old segment.

Segments end after about ``segment_bytes``; one whose entries no row names any more is deleted. The
checksum is against disks and torn writes, not against people: who can write here owns the store.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from aggregator.store_errors import StoreError, explained

SEGMENT_BYTES: Final = 64 * 1024 * 1024
HEADER_BYTES: Final = 16
_HEADER: Final = struct.Struct("<QII")  # HEADER_BYTES long
_MAX_IOV: Final = 1024  # buffers one system call may take (POSIX: at least 16, Linux: 1024)


class Place(NamedTuple):
    """Where an entry is: segment number, offset of its header, length of its payload (bytes)."""

    segment: int
    offset: int
    length: int


class Journal:
    """The segment files of one task in ``directory``.

    ``ends`` says where the last named entry of each segment that rows name ends. Everything else
    in the folder is left over from a crash and is removed. Raises OSError where the disk fails.
    """

    def __init__(
        self,
        directory: Path,
        ends: Mapping[int, int],
        *,
        fault: Callable[[str], None],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self._directory = directory
        self._fault = fault
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._end = 0
        directory.mkdir(mode=0o700, exist_ok=True)
        self._segments = sorted(ends)
        self._newest = max(self._tidy(ends) | ends.keys(), default=0)

    def append(self, entries: Sequence[tuple[int, bytes]]) -> list[Place]:
        """Make ``(sequence, payload)`` entries durable, in one go; return where they are.

        Raises StoreError if the disk fails; what was written by then is never named by a row and
        goes at the next start.
        """
        if self._fd < 0 or self._end >= self._segment_bytes:
            self._rotate()
        with explained(str(self._path(self._newest))):
            return self._append(entries)

    def read(self, entries: Iterable[tuple[int, Place]]) -> Iterator[bytes]:
        """Give back the payloads of ``(sequence, place)`` entries, in the order asked for.

        Raises StoreError naming file and offset where an entry is not what was written.
        """
        for segment, group in groupby(entries, key=lambda entry: entry[1].segment):
            path = self._path(segment)
            try:
                file = path.open("rb")
            except FileNotFoundError as error:
                raise StoreError(f"{path} is missing: restore the journal's folder") from error
            with file:
                for sequence, place in group:
                    file.seek(place.offset)
                    data = file.read(HEADER_BYTES + place.length)
                    yield _checked(data, sequence, place, path)

    def has_old_segments(self) -> bool:
        """Whether a segment other than the one being written is there."""
        return len(self._segments) > (1 if self._fd >= 0 else 0)

    def keep(self, named: AbstractSet[int]) -> None:
        """Delete the segments that no row names any more, except the one being written."""
        for segment in [segment for segment in self._segments if segment not in named]:
            if segment == self._newest and self._fd >= 0:
                continue
            self._path(segment).unlink(missing_ok=True)
            self._segments.remove(segment)
            self._fault("segment:deleted")

    def close(self) -> None:
        """Close the segment being written. Nothing is lost: every append was durable."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _path(self, segment: int) -> Path:
        return self._directory / f"{segment}.seg"

    def _tidy(self, ends: Mapping[int, int]) -> set[int]:
        """Remove what no row names; return the segment numbers that files have or had."""
        numbers = set()
        for path in self._directory.glob("*.seg"):
            if not path.stem.isdecimal():
                continue
            numbers.add(int(path.stem))
            end = ends.get(int(path.stem), 0)
            if not end:
                path.unlink()
            elif path.stat().st_size > end:
                os.truncate(path, end)
        return numbers

    def _append(self, entries: Sequence[tuple[int, bytes]]) -> list[Place]:
        segment, offset = self._newest, self._end
        parts: list[bytes] = []
        places: list[Place] = []
        for sequence, payload in entries:
            length = len(payload)
            checksum = crc32(payload, sequence & 0xFFFFFFFF)
            parts += (_HEADER.pack(sequence, length, checksum), payload)
            places.append(Place(segment, offset, length))
            offset += HEADER_BYTES + length
        _write(self._fd, parts, self._end)
        self._fault("journal:appended")
        os.fdatasync(self._fd)
        self._fault("journal:synced")
        self._end = offset
        return places

    def _rotate(self) -> None:
        self.close()
        path = self._path(self._newest + 1)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._newest += 1
        self._end = 0
        self._segments.append(self._newest)
        self._fault("journal:created")
        sync_directory(self._directory)


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(fd: int, parts: list[bytes], offset: int) -> None:
    """Write all parts at ``offset``, without first joining what may be hundreds of megabytes."""
    for first in range(0, len(parts), _MAX_IOV):
        batch = parts[first : first + _MAX_IOV]
        length = sum(map(len, batch))
        written = os.pwritev(fd, batch, offset)
        if written < length:  # a nearly full disk: the rest raises the error, or fits after all
            rest = memoryview(b"".join(batch))[written:]
            while rest:
                rest = rest[os.pwrite(fd, rest, offset + length - len(rest)) :]
        offset += length


def _checked(data: bytes, sequence: int, place: Place, path: Path) -> bytes:
    """Return the payload of an entry as read, or raise StoreError."""
    if len(data) == HEADER_BYTES + place.length:
        payload = data[HEADER_BYTES:]
        checksum = crc32(payload, sequence & 0xFFFFFFFF)
        if _HEADER.unpack_from(data) == (sequence, place.length, checksum):
            return payload
    raise StoreError(
        f"{path}: the entry at offset {place.offset} (sequence {sequence}) is damaged: "
        "restore the journal's folder"
    )
