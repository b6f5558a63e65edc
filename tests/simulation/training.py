"""Training that leaves a trace: every update has coordinates of its own.

With a dense codec a delta is 1 at one coordinate. With top-k it is 1 and 2 at two neighbours, of
which the codec keeps one, so that there is always something left for the residual. Nobody else ever
touches these coordinates: a model in which one of them is too large has counted an update twice.
"""

import numpy as np
import numpy.typing as npt

from device_sdk.pending import PENDING
from device_sdk.trainer import Assignment, Trained, Trainer

Float64 = npt.NDArray[np.float64]
#: 255 weights and a bias each.
SIZE = 512
MODEL = {
    "input": [SIZE // 2 - 1],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}


class OneHot(Trainer):
    """The trainer of all devices: hands out coordinates as trainings end.

    ``stored`` is what was on some device's storage once: what trainings there are to be counted.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.num_trainings = 0
        self.stored = np.zeros(SIZE)

    def num_samples(self) -> int:
        return 10

    def train(self, assignment: Assignment) -> Trained:
        params = assignment.params.copy()
        self.num_trainings += 1
        params[self._newest()] += np.arange(1, self.width + 1, dtype=np.float32)
        return Trained(params, 10, {})

    def storage(self) -> dict[str, bytes]:
        """Return a device's storage that notes when the newest training is in it."""
        return _Storage(self)

    def note_stored(self) -> None:
        self.stored[self._newest()] = np.arange(1, self.width + 1)

    def _newest(self) -> slice:
        end = self.num_trainings * self.width
        assert end <= SIZE, "a history with too many trainings"
        return slice(end - self.width, end)


class _Storage(dict[str, bytes]):
    """A device stores an update in the same instant in which its training ends."""

    def __init__(self, trainer: OneHot) -> None:
        super().__init__()
        self._trainer = trainer

    def __setitem__(self, key: str, data: bytes) -> None:
        super().__setitem__(key, data)
        if key == PENDING:
            self._trainer.note_stored()
