"""Local training with another engine's steps: the same batches, counts and refusals as ours.

A seed gives every engine the same batches in the same order, so that what differs between two
devices is their arithmetic alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from device_sdk.engine import Model, TrainingError, TrainingSettings, changed_slices
from device_sdk.engine.arrays import Numbers, Targets
from device_sdk.engine.data import Blocks

# The engine's own, which is to be public: engines that took other batches would not be comparable.
from device_sdk.engine.training import _batches
from device_sdk.trainer import Assignment, Trained

Float32 = npt.NDArray[np.float32]
#: Takes a step on samples, targets, at a learning rate; returns the mean loss before the step.
#: If that or the gradient is not finite it changes nothing and returns NaN.
Step = Callable[[Numbers, Targets, float], float]


@dataclass(slots=True)
class Passes:
    """What the steps have come to so far; the loss is that of the last pass."""

    num_samples: int = 0  # distinct ones: those of one pass
    num_steps: int = 0
    num_skipped: int = 0
    total: float = 0.0
    count: int = 0

    def run(
        self,
        step: Step,
        model: Model,
        blocks: Blocks,
        settings: TrainingSettings,
        assignment: Assignment,
    ) -> None:
        """Take all steps that the settings ask for.

        Raises TrainingError for data that does not fit or is missing, and if more steps had to be
        skipped than not.
        """
        batches = (
            batch
            for epoch in range(settings.epochs)
            for batch in _batches(model, blocks, settings.batch_size, assignment.seed, epoch)
        )
        last_epoch, seen = 0, 0
        for batch in islice(batches, settings.max_steps):
            assignment.pause()
            if batch.epoch != last_epoch:
                last_epoch, seen, self.total, self.count = batch.epoch, 0, 0.0, 0
            y = batch.y[batch.rows]
            count = model.spec.loss.count(y)
            rate = settings.rate(self.num_steps)
            self._note(step(batch.x[batch.rows], y, rate) if count else math.nan, count)
            seen += len(y)
            self.num_samples = max(self.num_samples, seen)
        if self.num_skipped > self.num_steps:
            raise TrainingError(
                f"{self.num_skipped} of {self.num_skipped + self.num_steps} steps had no finite "
                f"loss and gradient, or no sample that counts; lower learning_rate or set "
                f"clip_norm, and check that the data is finite and scaled to about 1"
            )

    def trained(
        self, model: Model, settings: TrainingSettings, assignment: Assignment, params: Float32
    ) -> Trained:
        """Return the result; what was not to be trained is as it came. Raises TrainingError."""
        kept = assignment.params.copy()
        for part in changed_slices(model.spec, settings.selection(model.spec)):
            kept[part] = params[part]
        metrics = {
            "loss": self.total / max(1, self.count),
            "num_steps": float(self.num_steps),
            "skipped_steps": float(self.num_skipped),
        }
        return Trained(kept, self.num_samples, metrics)

    def _note(self, loss: float, count: int) -> None:
        if not math.isfinite(loss):
            self.num_skipped += 1
            return
        self.num_steps += 1
        self.total += loss * count
        self.count += count
