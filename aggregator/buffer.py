"""The buffer: admitted updates that wait for a step, as one running sum.

Convention: the mean delta is ``sum(w_i * delta_i) / sum(w_i)`` by default (``normalise =
"weights"``); with ``normalise = "goal"`` it is ``sum(w_i * delta_i) / num_updates`` as in FedBuff's
Algorithm 1 (Nguyen et al. 2022), in which staleness also shortens the step. The sum is taken in
float64 in journal order, so that a replay gives the same bytes.
"""

import numpy as np
import numpy.typing as npt

from protocol.vectors.packing import SparseDelta

Float64 = npt.NDArray[np.float64]


class Buffer:
    """Weighted sum of deltas of ``size`` values, and whose they are."""

    def __init__(self, size: int) -> None:
        self._total: Float64 = np.zeros(size)
        self.weight = 0.0
        self.ids: list[bytes] = []
        self.devices: set[str] = set()

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, lease_id: bytes, device: str, delta: SparseDelta, weight: float) -> None:
        """Take one delta into the sum, ``weight`` > 0."""
        delta.add_to(self._total, weight)
        self.weight += weight
        self.ids.append(lease_id)
        self.devices.add(device)

    def mean(self, normalise: str) -> Float64:
        """Return the mean delta, by the convention named; the buffer must not be empty."""
        return self._total / (self.weight if normalise == "weights" else len(self.ids))

    def clear(self) -> None:
        """Start again with nothing, in the same memory."""
        self._total.fill(0.0)
        self.weight = 0.0
        self.ids = []
        self.devices = set()
