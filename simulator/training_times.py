"""How long devices train: `simulator.scenario_parts.TrainingTime` with chance from a seed. Pure."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Final

from simulator.draws import Draws
from simulator.scenario_parts import TrainingTime

_NORMAL: Final = NormalDist()
#: Half of the least that a draw is apart from the next: no draw becomes 0 or 1 with it.
_HALF: Final = 2.0**-33


class TrainingTimes:
    """Of one device. ``num_samples`` tells how many it passes over in one training now."""

    __slots__ = ("_draws", "_factor", "_num_samples", "_training")

    def __init__(
        self, training: TrainingTime, num_samples: Callable[[], float], draws: Draws
    ) -> None:
        self._training = training
        self._num_samples = num_samples
        self._draws = draws
        self._factor = self._drawn() if training.per == "device" else 0.0

    def next(self) -> float:
        """Return how many seconds the next training takes."""
        training = self._training
        seconds = training.seconds or self._num_samples() / training.samples_per_s
        return seconds * (self._factor or self._drawn())

    def _drawn(self) -> float:
        training = self._training
        if training.law == "constant":
            return 1.0
        drawn = self._draws.next() + _HALF
        if training.law == "uniform":
            return 1 + training.spread * (2 * drawn - 1)
        return math.exp(training.spread * _NORMAL.inv_cdf(drawn))


def exponential(draws: Draws, mean: float) -> float:
    """Return how long until something that happens by chance, every ``mean`` on the average."""
    return -mean * math.log(draws.next() + _HALF)
