"""Samples that a device keeps to train on: bounded, durable, encrypted if asked.

::

    store = SampleStore(Path("samples"), capacity=1000, x_shape=(128, 9), policy="reservoir")
    store.append(x, y)  # wherever samples come from, in any thread
    NumpyTrainer(data=store)
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import nacl.utils
import numpy as np
import numpy.typing as npt

from device_sdk.engine.errors import TrainingError
from device_sdk.slots import SlotFile
from device_sdk.storage import StorageError
from protocol.errors import ConfigError
from protocol.messages import KEY_BYTES
from protocol.stream import derive

RING, RESERVOIR = _POLICIES = ("ring", "reservoir")
#: About so much is in memory while the samples are passed over.
_GROUP_BYTES: Final = 1 << 20
_MAX_CAPACITY: Final = 1 << 32

Samples = npt.NDArray[np.generic]


def sample_key(identity: bytes) -> bytes:
    """Return the key for samples at rest that goes with a device's identity (`Keys.identity`).

    It keeps a lost or copied file of samples from being read; not one lost with the keys.
    """
    return derive(identity, "samples at rest")


class SampleStore:
    """Samples of one shape with their labels, at most ``capacity`` of them, in the file ``path``.

    ``policy``: ``ring`` keeps the newest; ``reservoir`` an even sample of all that were ever
    appended (Vitter 1985, "Random Sampling with a Reservoir", Algorithm R), drawn from a 32-byte
    ``seed``, by default a fresh one. A 32-byte ``key`` encrypts them. The file has its full size
    from the start. Iterating gives (x, y) blocks of about 1 MiB, copies which no `append` changes,
    each from all over the file; a damaged sample is skipped and counted. One process at a time may
    have it open.

    Raises ConfigError for settings that cannot be or are not those that the file was made with,
    StorageError if it cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        capacity: int,
        *,
        x_shape: tuple[int, ...],
        y_shape: tuple[int, ...] = (),
        x_dtype: npt.DTypeLike = np.float32,
        y_dtype: npt.DTypeLike = np.int64,
        policy: str = RING,
        key: bytes | None = None,
        seed: bytes | None = None,
    ) -> None:
        if not 1 <= capacity <= _MAX_CAPACITY:
            raise ConfigError(f"capacity must be 1 to 2**32, not {capacity}")
        if policy not in _POLICIES:
            raise ConfigError(f"policy: expected {' or '.join(_POLICIES)}, not {policy!r}")
        if key is not None and len(key) != KEY_BYTES:
            raise ConfigError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        fields = [("x", _plain(x_dtype), x_shape), ("y", _plain(y_dtype), y_shape)]
        self._row = np.dtype(fields)
        self._is_ring = policy == RING
        self._seed = seed or nacl.utils.random(32)
        self.capacity = capacity
        kept = "open" if key is None else derive(key, "check")[:4].hex()
        title = f"fedbus samples 1: {policy} of {capacity}, {fields}, key {kept}"
        self._slots = SlotFile(
            path,
            num_slots=capacity,
            row_bytes=self._row.itemsize,
            title=title,
            key=b"" if key is None else derive(key, "slots", title),
        )
        self._num_seen = self._slots.total
        self._corrupt: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many samples are held, without those known to be damaged."""
        return min(self._num_seen, self.capacity) - len(self._corrupt)

    @property
    def num_samples(self) -> int:
        """As `len`: what trainers ask for."""
        return len(self)

    @property
    def num_bytes(self) -> int:
        """The size of the file, which never changes."""
        return self._slots.num_bytes

    @property
    def num_corrupt(self) -> int:
        """How many samples were found damaged, and not replaced since."""
        return len(self._corrupt)

    @property
    def num_seen(self) -> int:
        """How many samples were ever appended.

        After a crash the last of those that a reservoir did not keep may be forgotten.
        """
        return self._num_seen

    def append(self, x: npt.ArrayLike, y: npt.ArrayLike) -> None:
        """Add samples, one a row; when it returns, a power cut does not take them any more.

        Up to 64 KiB are committed at a time, as a whole. Raises TrainingError for rows that do not
        fit or hold numbers that the store's type cannot (NaN and infinity among them), and then
        adds none; StorageError where the medium takes no more: those committed before stay.
        """
        rows = self._checked(x=np.asarray(x), y=np.asarray(y))
        with self._lock:
            for start in range(0, len(rows), self._slots.max_commit):
                self._commit(rows[start : start + self._slots.max_commit])

    def _checked(self, **given: Samples) -> Samples:
        rows = np.empty(len(given["x"]) if given["x"].ndim else 0, self._row)
        for name, values in given.items():
            taken = rows[name]
            if values.shape != taken.shape or values.dtype.kind not in "fiub":
                found = f"{values.dtype} {values.shape}"
                raise TrainingError(f"{name}: {found} does not fit {taken.dtype} {taken.shape}")
            with np.errstate(over="ignore", invalid="ignore"):
                taken[...] = values
            is_float = taken.dtype.kind == "f"
            if not (np.isfinite(taken).all() if is_float else np.array_equal(taken, values)):
                raise TrainingError(f"{name} holds numbers that {taken.dtype} cannot")
        return rows

    def _commit(self, rows: Samples) -> None:
        slots = [self._slot(self._num_seen + place) for place in range(len(rows))]
        kept = {slot: rows[i].tobytes() for i, slot in enumerate(slots) if slot is not None}
        if kept:  # what a reservoir does not keep costs no write
            self._slots.commit(self._num_seen + len(rows), kept)
        self._num_seen += len(rows)
        self._corrupt -= kept.keys()

    def _slot(self, index: int) -> int | None:
        """Return where the sample goes that is number ``index``, from 0; None: nowhere."""
        if self._is_ring or index < self.capacity:
            return index % self.capacity
        drawn = int.from_bytes(derive(self._seed, "reservoir", index), "little") % (index + 1)
        return drawn if drawn < self.capacity else None

    def __iter__(self) -> Iterator[tuple[Samples, Samples]]:
        """Pass over all samples that are held, in an order that depends on their places only."""
        held, unit = min(self._num_seen, self.capacity), self._slots.max_commit
        num_groups = -(-held * self._row.itemsize // _GROUP_BYTES)
        for first in range(num_groups):
            starts = range(first * unit, held, num_groups * unit)
            x, y = (np.empty(len(starts) * unit, self._row[name]) for name in ("x", "y"))
            end = 0
            for start in starts:
                rows = self._read(start, min(unit, held - start))
                begin, end = end, end + len(rows)
                x[begin:end], y[begin:end] = rows["x"], rows["y"]
            if end:
                yield x[:end], y[:end]

    def _read(self, start: int, count: int) -> npt.NDArray[np.void]:
        """Return the whole samples among ``count`` slots."""
        with self._lock:
            rows = self._slots.read(start, count)
            self._corrupt |= {start + place for place, row in enumerate(rows) if row is None}
        return np.frombuffer(b"".join(row for row in rows if row is not None), self._row)

    def close(self) -> None:
        """Let another process have the file; a reservoir's count of samples seen is stored."""
        with self._lock, contextlib.suppress(StorageError):
            if self._num_seen != self._slots.total:
                self._slots.commit(self._num_seen, {})
        self._slots.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


def _plain(dtype: npt.DTypeLike) -> str:
    wanted = np.dtype(dtype)
    if wanted.kind not in "fiu":
        raise ConfigError(f"samples are floats or integers, not {wanted}")
    return wanted.newbyteorder("<").str
