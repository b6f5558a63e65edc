"""Strategies: how a mean delta becomes new params. A strategy is two pure functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from protocol.errors import ConfigError

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
#: What a strategy remembers from one version to the next: float64 vectors by name.
State = Mapping[str, Float64]


#: Server learning rates that make sense; FedBuff's authors used up to 40.9.
LEARNING_RATES = (1e-6, 1e3)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise ConfigError(f"options.{name} must be from {low} to {high}, not {value}")


class Counted(NamedTuple):
    """What a mean delta is made of: so many updates, and of how many devices until then.

    ``num_devices`` counts those with an update counted since the mask epoch began (plain tasks:
    since the task did), this step's included.
    """

    num_updates: int
    num_devices: int


@dataclass(frozen=True, slots=True)
class Strategy:
    """``init(size)`` makes the first state; ``apply`` takes one step.

    ``apply(params, mean_delta, state, counted)`` gets float32 params and a float64 mean delta of
    the same size, changes neither, and returns new params (float64, rounded by the caller) and
    state. ``calibrated``: updates are differences to the device's last counted one.
    """

    init: Callable[[int], State]
    apply: Callable[[Float32, Float64, State, Counted], tuple[Float64, State]]
    calibrated: bool = False
