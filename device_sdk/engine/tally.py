"""What a training has done so far, counted alike for every engine."""

import math
from dataclasses import dataclass
from typing import Final

from device_sdk.engine.errors import TrainingError

#: What to do about numbers that are not finite.
REMEDY: Final = (
    "lower learning_rate or set clip_norm, and check that the data has neither NaN nor infinity "
    "and is scaled to about 1"
)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` did. ``loss`` is the mean over the last pass, each batch before its step.

    ``num_skipped``: steps not taken, because their loss or gradient was not finite, or because
    none of their samples counted.
    """

    num_samples: int  # distinct samples: those of one pass, however many passes there were
    num_steps: int
    loss: float
    num_skipped: int = 0


class Tally:
    """Counts batches, as they come, and the steps made of them."""

    def __init__(self) -> None:
        self.num_steps = 0
        self._num_skipped = self._num_samples = 0
        self._begin_pass(0)

    def _begin_pass(self, epoch: int) -> None:
        self._epoch, self._seen, self._total, self._count = epoch, 0, 0.0, 0

    def see(self, epoch: int, num_rows: int) -> None:
        """Count a batch, which is of this pass, before its step."""
        if epoch != self._epoch:
            self._begin_pass(epoch)
        self._seen += num_rows
        self._num_samples = max(self._num_samples, self._seen)

    def step(self, loss: float, count: int) -> None:
        """Count a step whose mean loss was over ``count`` samples; NaN: it was not taken."""
        if not math.isfinite(loss):
            self._num_skipped += 1
            return
        self.num_steps += 1
        self._count += count
        self._total += loss * count

    def result(self) -> Fitted:
        """All of it. Raises TrainingError if more steps were skipped than taken."""
        if self._num_skipped > self.num_steps:
            raise TrainingError(
                f"{self._num_skipped} of {self._num_skipped + self.num_steps} steps had no finite "
                f"loss and gradient, or no sample that counts; {REMEDY}"
            )
        loss = self._total / max(1, self._count)
        return Fitted(self._num_samples, self.num_steps, loss, self._num_skipped)
