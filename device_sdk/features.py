"""Transfer learning: a frozen ``.tflite`` sees the samples, a small head learns from what it says.

The extractor is trained elsewhere and is a file on the device; only the head travels, and it may
be a thousandth of the whole. The plan's model is the head: its input is the extractor's output.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk.engine.data import Block, Data, as_blocks
from device_sdk.runtimes import TfliteModel, find_runtime
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer

Float32 = npt.NDArray[np.float32]

#: Samples that are mapped, and remembered, together.
PIECE: Final = 32
_DIGEST_BYTES: Final = 16


class FeatureTrainer(Trainer):
    """Trains a head on the features that ``extractor`` finds in ``data``.

    ``data`` and ``memory_budget_bytes`` (of the head's training) are as for `NumpyTrainer`, each
    sample of the extractor's input shape. Features are found once and remembered in up to
    ``cache_bytes``; what does not fit is found again in every pass, as many bytes at a time.
    Raises ConfigError for a file that cannot be used, or without a TensorFlow Lite.
    """

    def __init__(
        self,
        extractor: Path | str,
        *,
        data: Data,
        num_samples: int | None = None,
        cache_bytes: int = 8 << 20,
        memory_budget_bytes: int | None = None,
    ) -> None:
        self._extractor = find_runtime().load(Path(extractor))
        self._blocks = as_blocks(data)
        self._cache = FeatureCache(self._extractor, cache_bytes)
        self._told = num_samples
        self._head = NumpyTrainer(
            data=self._feature_blocks, memory_budget_bytes=memory_budget_bytes
        )

    def num_samples(self) -> int:
        """Samples at hand, as far as that is known."""
        known = self._blocks.num_samples if self._told is None else self._told
        return self._head.num_samples() if known is None else known

    def train(self, assignment: Assignment) -> Trained:
        """Train the head, as `NumpyTrainer` does."""
        self._cache.forget_unused()
        return self._head.train(assignment)

    def prepare(self, x: npt.ArrayLike) -> Float32:
        """Return what the head sees of samples ``x``; the features of new samples are not kept.

        Raises TrainingError for samples of another shape.
        """
        return self._extractor.predict(x)

    def _feature_blocks(self) -> Iterator[Block]:
        rows = self._cache.max_rows
        for x, y in self._blocks:
            for start in range(0, len(x), rows):
                part = slice(start, start + rows)
                yield self._cache.features(x[part]), y[part]


class FeatureCache:
    """Features by a digest of their samples: right also for data that changes between passes."""

    def __init__(self, extractor: TfliteModel, max_bytes: int) -> None:
        self._extractor = extractor
        self._max_bytes = max_bytes
        self._old: dict[bytes, Float32] = {}
        self._used: dict[bytes, Float32] = {}
        self._size = 0

    @property
    def max_rows(self) -> int:
        """Samples whose features fit, whole pieces of them; one piece at least."""
        piece_bytes = PIECE * 4 * math.prod(self._extractor.output_shape)
        return PIECE * max(1, self._max_bytes // piece_bytes)

    def features(self, x: npt.NDArray[np.generic]) -> Float32:
        """Return the features of samples ``x``. Raises TrainingError for another shape."""
        found = np.empty((len(x), *self._extractor.output_shape), np.float32)
        for start in range(0, len(x), PIECE):
            rows = slice(start, start + PIECE)
            found[rows] = self._piece(x[rows])
        return found

    def forget_unused(self) -> None:
        """Make room: a training begins, and drops what the one before did not look at."""
        self._old, self._used = self._used, {}
        self._size = sum(each.nbytes for each in self._old.values())

    def _piece(self, x: npt.NDArray[np.generic]) -> Float32:
        key = hashlib.blake2b(x.tobytes(), digest_size=_DIGEST_BYTES).digest()
        found = self._used.get(key)
        if found is None:
            found = self._old.pop(key, None)
        if found is None:
            found = self._extractor.predict(x)
            if not self._make_room(found.nbytes):
                return found
        self._used[key] = found
        return found

    def _make_room(self, num_bytes: int) -> bool:
        """Take ``num_bytes`` if there are as many; what this training has used stays."""
        while self._size + num_bytes > self._max_bytes and self._old:
            self._size -= self._old.popitem()[1].nbytes
        if self._size + num_bytes > self._max_bytes:
            return False
        self._size += num_bytes
        return True
