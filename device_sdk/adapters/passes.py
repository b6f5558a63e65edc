"""Local training with another engine's steps: the same batches, counts and refusals as ours.

A seed gives every engine the same batches in the same order, so that what differs between two
devices is their arithmetic alone.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from device_sdk.engine import Data, Fitted, Model, TrainingSettings
from device_sdk.engine.arrays import Numbers, Targets
from device_sdk.engine.data import as_blocks
from device_sdk.engine.subset import changed_subset
from device_sdk.engine.tally import Tally
from device_sdk.engine.training import batches
from device_sdk.trainer import Assignment, Trained
from protocol.messages import MIN_SAMPLES

Float32 = npt.NDArray[np.float32]
#: Takes a step on samples and targets at a learning rate; returns the mean loss before the step.
#: If that or the gradient is not finite it changes nothing and returns NaN.
Step = Callable[[Numbers, Targets, float], float]


class Passes:
    """Passes over a device's data; ``data`` and ``num_samples`` are as for `NumpyTrainer`."""

    def __init__(self, data: Data, num_samples: int | None) -> None:
        self._blocks = as_blocks(data)
        self._told = num_samples
        self._seen = MIN_SAMPLES

    def num_samples(self) -> int:
        """Samples at hand, as far as that is known."""
        known = self._blocks.num_samples if self._told is None else self._told
        return self._seen if known is None else known

    def run(
        self, step: Step, model: Model, settings: TrainingSettings, assignment: Assignment
    ) -> Fitted:
        """Take all steps that the settings ask for.

        Raises TrainingError for data that does not fit or is missing, and if more steps had to be
        skipped than not.
        """
        tally = Tally()
        for batch in batches(model, self._blocks, settings, assignment.seed):
            assignment.pause()
            y = batch.y[batch.rows]
            tally.see(batch.epoch, len(y))
            count = model.spec.loss.count(y)
            rate = settings.rate(tally.num_steps)
            tally.step(step(batch.x[batch.rows], y, rate) if count else math.nan, count)
        fitted = tally.result()
        self._seen = fitted.num_samples
        return fitted


def trained(
    model: Model,
    settings: TrainingSettings,
    assignment: Assignment,
    params: Float32,
    fitted: Fitted,
) -> Trained:
    """Return what a trainer returns; what was not to be trained is as it came.

    Raises TrainingError for params that are not finite.
    """
    result = assignment.params.copy()
    for part in changed_subset(model.spec, settings.selection(model.spec)).slices:
        result[part] = params[part]
    metrics = {
        "loss": fitted.loss,
        "num_steps": float(fitted.num_steps),
        "skipped_steps": float(fitted.num_skipped),
    }
    return Trained(result, fitted.num_samples, metrics)
