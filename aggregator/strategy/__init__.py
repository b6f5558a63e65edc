"""Strategies: how a mean delta becomes new params. A strategy is two pure functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
#: What a strategy remembers from one version to the next: float64 vectors by name.
State = Mapping[str, Float64]


@dataclass(frozen=True, slots=True)
class Strategy:
    """``init(size)`` makes the first state; ``apply`` takes one step.

    ``apply(params, mean_delta, state)`` gets float32 params and a float64 mean delta of the same
    size, changes neither, and returns new params (float64, rounded by the caller) and state.
    """

    init: Callable[[int], State]
    apply: Callable[[Float32, Float64, State], tuple[Float64, State]]
