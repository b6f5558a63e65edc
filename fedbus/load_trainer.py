"""Training that costs the same whatever the model: a delta that was drawn once is added."""

from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk.trainer import Assignment, Trained, Trainer

NUM_SAMPLES: Final = 100
#: Different deltas, so that not all updates are equal; a device takes them in turn.
NUM_DELTAS: Final = 8
#: Small enough that a million of them leave a model finite.
SCALE: Final = 1e-3


class DryTrainer(Trainer):
    """One for a whole fleet. ``seed`` decides the deltas, which all models of a size share."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._deltas = np.empty((NUM_DELTAS, 0), np.float32)
        self._num_trained = 0

    def num_samples(self) -> int:
        """Return a number that never changes."""
        return NUM_SAMPLES

    def train(self, assignment: Assignment) -> Trained:
        """Return the params plus the next delta."""
        if self._deltas.shape[1] != assignment.params.size:
            self._deltas = self._draw(assignment.params.size)
        self._num_trained += 1
        delta = self._deltas[self._num_trained % NUM_DELTAS]
        return Trained(assignment.params + delta, NUM_SAMPLES, {})

    def _draw(self, size: int) -> npt.NDArray[np.float32]:
        rng = np.random.default_rng(self._seed)
        return rng.normal(0.0, SCALE, (NUM_DELTAS, size)).astype(np.float32)
