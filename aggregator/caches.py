"""The last counted delta of each device, for strategies that compare (`Strategy.caches`).

Memory: devices x params x 4 bytes, here and in the store; `aggregator.task_config` refuses more
than ``fairness.max_cache_bytes`` for ``max_devices``. A buffer's deltas become the caches when a
version has counted them, and are stored with it: only those that changed.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.actions import Action, Store
from aggregator.records import DocumentRecord
from protocol.vectors.packing import SparseDelta

Float64 = npt.NDArray[np.float64]

#: Documents of this name and a device's hold its float32 delta.
CACHE: Final = "cache/"


class Caches:
    """Of one task, whose deltas have ``size`` values; ``documents`` is what the store keeps."""

    def __init__(self, documents: Mapping[str, bytes], size: int) -> None:
        self._size = size
        self._by_device = {
            key.removeprefix(CACHE): data
            for key, data in documents.items()
            if key.startswith(CACHE) and len(data) == 4 * size
        }

    def __len__(self) -> int:
        return len(self._by_device)

    def replaced(self, deltas: Sequence[tuple[str, SparseDelta]]) -> Float64:
        """Return the sum of what these (device, delta) replace, each device once."""
        total = np.zeros(self._size)
        for device, _ in deltas:
            total += np.frombuffer(self._by_device.get(device, bytes(4 * self._size)), "<f4")
        return total

    def counted(self, deltas: Sequence[tuple[str, SparseDelta]]) -> list[Action]:
        """A version counted these: keep them, and return what is stored with it."""
        changed = {
            device: delta.dense().astype("<f4", copy=False).tobytes() for device, delta in deltas
        }
        self._by_device |= changed
        return [Store(DocumentRecord(CACHE + device, data)) for device, data in changed.items()]
