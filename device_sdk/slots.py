"""A file of slots that all hold as many bytes: written durably and together, encrypted if asked.

The file is a header, two journal areas and the slots; its space is reserved when it is made. What
is committed goes to the journal first, by turns to either area, and is flushed: from then on it
counts. Then it is copied to its slots. The next commit's flush makes the copy durable too, and
only the one after that takes the record's place; whoever opens the file copies both records again.
So a kill or a power cut at any moment leaves what was there before a commit or what is after it,
for one flush each.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Final

import nacl.utils
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from device_sdk.storage import StorageError
from protocol.errors import ConfigError

#: Parts of the file begin at multiples of it: a write that is torn leaves its neighbours whole.
_PAGE: Final = 4096
#: So many bytes of slots are committed at a time, or one slot.
_COMMIT_BYTES: Final = 1 << 16
_CHECK_BYTES: Final = 16
_TAG_BYTES: Final = 8
_NONCE_BYTES: Final = 24
_MAC_BYTES: Final = 16
_RECORD: Final = struct.Struct("<QQI")  # number of the commit, total, slots that follow


class SlotFile:
    """``num_slots`` slots of ``row_bytes`` in the file ``path``, made unless it is there.

    ``title`` (less than 4 KiB) stands in the file and says what it is: a file with another one is
    refused. With a 32-byte ``key`` slots are encrypted (XChaCha20-Poly1305), else they have a
    checksum. `total` is a number that is committed with the slots; 0 at first. One process at a
    time may have the file open. Raises ConfigError, StorageError.
    """

    def __init__(
        self, path: Path, *, num_slots: int, row_bytes: int, title: str, key: bytes = b""
    ) -> None:
        self._path = path
        self._num_slots = num_slots
        self._key = key
        self._width = row_bytes + (_NONCE_BYTES + _MAC_BYTES if key else _TAG_BYTES)
        #: How many slots one commit takes.
        self.max_commit = max(1, min(num_slots, _COMMIT_BYTES // self._width))
        record_bytes = _CHECK_BYTES + _RECORD.size + self.max_commit * (4 + self._width)
        self._area_bytes = -(-record_bytes // _PAGE) * _PAGE
        self._slots_at = _PAGE + 2 * self._area_bytes
        #: The size of the file, now and for ever.
        self.num_bytes = self._slots_at + num_slots * self._width
        self._number, self.total = 0, 0
        self._uncopied: dict[int, bytes] = {}
        try:
            if not path.exists():
                self._make(f"{title}\n".encode())
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise StorageError(
                f"{path}: {error.strerror}; it takes {self.num_bytes} bytes: make space"
            ) from None
        try:
            self._own(title)
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def commit(self, total: int, rows: Mapping[int, bytes]) -> None:
        """Replace slots (at most `max_commit`), all of them or none, and `total`.

        Raises StorageError: then nothing has changed (but if it was the flush that failed, a power
        cut may show what was to be committed).
        """
        self._copy()
        sealed = {slot: self._sealed(slot, row) for slot, row in rows.items()}
        body = _RECORD.pack(self._number + 1, total, len(sealed))
        body += struct.pack(f"<{len(sealed)}I", *sealed) + b"".join(sealed.values())
        self._write(self._area(self._number + 1), self._check(body) + body)
        self._flush()
        self._number, self.total, self._uncopied = self._number + 1, total, sealed
        with contextlib.suppress(StorageError):  # it is in the journal: there is time
            self._copy()

    def read(self, start: int, count: int) -> list[bytes | None]:
        """Return ``count`` slots from ``start`` on; None for each that is damaged."""
        self._copy()
        raw = self._load(self._slots_at + start * self._width, count * self._width)
        return [
            self._unsealed(start + place, raw[place * self._width : (place + 1) * self._width])
            for place in range(count)
        ]

    def close(self) -> None:
        """Let others have the file."""
        self._file.close()

    # --- journal -----------------------------------------------------------------------------

    def _copy(self) -> None:
        """Copy what was committed to its slots, before anything else is done with them."""
        for slot, sealed in self._uncopied.items():
            self._write(self._slots_at + slot * self._width, sealed)
        self._uncopied = {}

    def _recover(self) -> None:
        """Copy both records again, the older one first: perhaps no flush came after either copy."""
        records = [record for number in (0, 1) if (record := self._record(number)) is not None]
        for self._number, self.total, rows in sorted(records):
            self._uncopied |= rows
        if records:
            self._copy()
            self._flush()  # the next commit takes the older one's place
        else:  # both were damaged; the last slot that can be read says at least something
            whole = (slot for slot in range(self._num_slots) if self.read(slot, 1) != [None])
            self.total = 1 + max(whole, default=-1)

    def _record(self, number: int) -> tuple[int, int, dict[int, bytes]] | None:
        """Return what is in an area: number, total, slots."""
        raw = self._load(self._area(number), self._area_bytes)
        number, total, count = _RECORD.unpack_from(raw, _CHECK_BYTES)
        first = _CHECK_BYTES + _RECORD.size + 4 * count
        end = first + count * self._width
        if raw[:_CHECK_BYTES] != self._check(raw[_CHECK_BYTES:end]):
            return None
        slots = struct.unpack_from(f"<{count}I", raw, first - 4 * count)
        rows = [raw[start : start + self._width] for start in range(first, end, self._width)]
        return number, total, dict(zip(slots, rows, strict=True))

    def _area(self, number: int) -> int:
        return _PAGE + number % 2 * self._area_bytes

    def _check(self, body: bytes) -> bytes:
        return blake2b(body, digest_size=_CHECK_BYTES, key=self._key).digest()

    # --- one slot ----------------------------------------------------------------------------

    def _sealed(self, slot: int, row: bytes) -> bytes:
        if not self._key:
            return row + self._tag(slot, row)
        nonce = nacl.utils.random(_NONCE_BYTES)
        return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(
            row, slot.to_bytes(8, "little"), nonce, self._key
        )

    def _unsealed(self, slot: int, sealed: bytes) -> bytes | None:
        """Return the row; None if it is not what was put there."""
        if not self._key:
            row = sealed[:-_TAG_BYTES]
            return row if self._tag(slot, row) == sealed[-_TAG_BYTES:] else None
        nonce, cipher = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return crypto_aead_xchacha20poly1305_ietf_decrypt(
                cipher, slot.to_bytes(8, "little"), nonce, self._key
            )
        except CryptoError:
            return None

    def _tag(self, slot: int, row: bytes) -> bytes:
        return blake2b(row, digest_size=_TAG_BYTES, salt=slot.to_bytes(8, "little")).digest()

    # --- the file ----------------------------------------------------------------------------

    def _make(self, header: bytes) -> None:
        partial = self._path.with_name(f"{self._path.name}.partial")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                os.posix_fallocate(descriptor, 0, self.num_bytes)
                body = _RECORD.pack(0, 0, 0)
                file.write(header.ljust(_PAGE) + self._check(body) + body)
                os.fsync(descriptor)
            partial.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def _own(self, title: str) -> None:
        """Check that nobody else has it, that it is what it should be, and has its space."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(self._file.fileno(), 0, self.num_bytes)
        except BlockingIOError:
            raise StorageError(f"{self._path}: it is open already") from None
        except OSError as error:
            raise self._failed(error) from None
        found = self._load(0, _PAGE).decode(errors="replace").strip()
        if found != title:
            raise ConfigError(f"{self._path} is not {title!r} but {found!r}: choose another path")

    def _load(self, start: int, count: int) -> bytes:
        """Return bytes of the file; zeros for what the medium cannot read any more."""
        try:
            raw = os.pread(self._file.fileno(), count, start)
        except OSError:
            raw = b""
        return raw.ljust(count, b"\0")

    def _write(self, start: int, data: bytes) -> None:
        try:
            while data:
                written = os.pwrite(self._file.fileno(), data, start)
                start, data = start + written, data[written:]
        except OSError as error:
            raise self._failed(error) from None

    def _flush(self) -> None:
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path}: {error.strerror}")
