"""The buffer: admitted updates that wait for a step, as running sums.

Convention: the mean delta is ``sum(w_i * delta_i) / sum(w_i)`` by default (``normalise =
"weights"``); with ``normalise = "goal"`` it is ``sum(w_i * delta_i) / num_updates`` as in FedBuff's
Algorithm 1 (Nguyen et al. 2022), in which staleness also shortens the step. Sums are taken in
float64 in journal order, one for each group of devices where a strategy asks for groups
(`aggregator.strata`), so that a replay gives the same bytes.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from protocol.vectors.packing import SparseDelta

Float64 = npt.NDArray[np.float64]


class Buffer:
    """Weighted sums of deltas of ``size`` values, and whose they are."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._totals: dict[int, Float64] = {0: np.zeros(size)}
        self._numbers: dict[int, int] = {}
        self.weights: dict[int, float] = {}
        self.ids: list[bytes] = []
        self.devices: set[str] = set()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def weight(self) -> float:
        """The sum of all weights."""
        return sum(self.weights.values())

    def add(
        self,
        lease_id: bytes,
        device: str,
        delta: SparseDelta,
        weight: float,
        *,
        group: int = 0,
        is_weighed: bool = False,
    ) -> None:
        """Take one delta into the sum of its group, ``weight`` > 0.

        ``is_weighed``: it has been multiplied by its weight.
        """
        if group not in self._totals:
            self._totals[group] = np.zeros(self._size)
        delta.add_to(self._totals[group], 1.0 if is_weighed else weight)
        self._numbers[group] = self._numbers.get(group, 0) + 1
        self.weights[group] = self.weights.get(group, 0.0) + weight
        self.ids.append(lease_id)
        self.devices.add(device)

    @property
    def total(self) -> Float64:
        """The weighted sum of all deltas; the buffer must not be empty."""
        groups = sorted(self.weights)
        total = self._totals[groups[0]]
        for group in groups[1:]:
            total = total + self._totals[group]
        return total

    def divisor(self, normalise: str) -> float:
        """Return what makes a mean of the sum, by the convention named."""
        return self.weight if normalise == "weights" else len(self.ids)

    def mean(self, normalise: str) -> Float64:
        """Return the mean delta, by the convention named; the buffer must not be empty."""
        return self.total / self.divisor(normalise)

    def means(self) -> Mapping[int, tuple[int, Float64]]:
        """Return how many updates there are of each group, and their weighted mean."""
        return {
            group: (self._numbers[group], self._totals[group] / weight)
            for group, weight in self.weights.items()
        }

    def clear(self) -> None:
        """Start again with nothing, in the same memory."""
        for total in self._totals.values():
            total.fill(0.0)
        self._numbers = {}
        self.weights = {}
        self.ids = []
        self.devices = set()
