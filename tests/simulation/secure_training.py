"""Trainings of a secure history: each moves one coordinate, its own, by 1; so sums tell all.

The clip is 1 and each residual at most 1, so nothing is ever cut.
"""

from collections.abc import Callable

import numpy as np

from device_sdk.trainer import Assignment, Trained, Trainer
from tests.simulation.training import SIZE, Float64

CLIP = 1.0
#: More samples than this weigh no more.
SAMPLES_CAP = 15


class Trainings:
    """Hands out coordinates as trainings end; ``newest`` is each device's last."""

    def __init__(self) -> None:
        self.newest: dict[str, int] = {}
        self.num_trainings = 0

    def trainer(self, device: str) -> Trainer:
        """Return the trainer of a device; it has a number of samples of its own."""
        return _OneHot(device, self)

    def train(self, device: str) -> int:
        """Return the coordinate of a device's new training."""
        assert self.num_trainings < SIZE, "a history with too many trainings"
        self.newest[device] = self.num_trainings
        self.num_trainings += 1
        return self.newest[device]

    def delta(self, device: str) -> Float64:
        """Return what a device trained last."""
        delta = np.zeros(SIZE)
        delta[self.newest[device]] = 1.0
        return delta


def num_samples(device: str) -> int:
    """Return how many samples a device has: 8 to 17."""
    return ord(device[0]) % 10 + 8


class _OneHot(Trainer):
    def __init__(self, device: str, trainings: Trainings) -> None:
        self._device = device
        self._trainings = trainings

    def num_samples(self) -> int:
        return num_samples(self._device)

    def train(self, assignment: Assignment) -> Trained:
        params = assignment.params.copy()
        params[self._trainings.train(self._device)] += 1.0
        return Trained(params, num_samples(self._device), {})


class WatchedStorage(dict[str, bytes]):
    """A device's storage; ``wrote`` is told of every write that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.wrote: Callable[[str, bytes], None] = lambda _key, _data: None

    def __setitem__(self, key: str, data: bytes) -> None:
        super().__setitem__(key, data)
        self.wrote(key, data)
