"""How the running statistics of batch normalisation follow the devices.

They are measurements, not weights: an update carries how far a device's own are from the model's.
A full step towards them would be right if nobody was late. But updates of one base add up in an
asynchronous task, and a value that follows with a delay of s versions and a gain g swings ever
higher unless g < 2 sin(pi / (2 (2 s + 1))), the stability limit of x' = x + g (target - x[-s])
(S. A. Levin and R. M. May, "A note on difference-delay equations", 1976). 1 / (1 + s) is below it.
No strategy moves them, since momentum and adaptive steps mean nothing to a measurement.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.strategy import Float32, Float64
from device_sdk.engine.spec import ModelSpec
from protocol.vectors.layout import Subset

#: A variance falls to no less than this part of itself in one step, and never to nothing.
LEAST_PART: Final = 0.1
LEAST: Final = 1e-8

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Which of the trained numbers are statistics, and which of those are variances."""

    where: Flags
    variances: Flags

    def settle(self, params: Float32, mean_delta: Float64, exact: Float64, gain: float) -> Float64:
        """Return what a strategy made of the trained ``params``, with statistics put right.

        ``gain`` as `gain_of` says; 0 leaves to the strategy all but the variances' bound.
        """
        if not self.where.any():
            return exact
        settled = exact.copy()
        if gain:
            settled[self.where] = params[self.where] + gain * mean_delta[self.where]
        least = np.maximum(LEAST_PART * params[self.variances], LEAST)
        settled[self.variances] = np.maximum(settled[self.variances], least)
        return settled


def statistics_of(spec: ModelSpec, trained: Subset) -> Statistics:
    """Find the statistics among the trained tensors of a model."""
    where = np.zeros(trained.layout.size, np.bool_)
    variances = where.copy()
    starts = trained.layout.bounds[:-1].tolist()
    for tensor, start in zip(trained.layout.tensors, starts, strict=True):
        position, _, name = tensor.name.split(".")
        if name in spec.layers[int(position)].statistics:
            where[start : start + tensor.size] = True
            variances[start : start + tensor.size] = name == "variance"
    return Statistics(where, variances)


def gain_of(staleness: int, kept: float = 1.0) -> float:
    """How much of a mean delta to take, if the oldest update in it is so many versions late.

    ``kept``: the part of the coordinates that travels, where what travels was enlarged for it.
    """
    return kept / (1 + staleness)
