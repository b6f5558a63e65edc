"""Strategies: how a mean delta becomes new params. A strategy is two pure functions.

One paper a file. Each says whether it works under masking, where the aggregator sees the sum of a
buffer and whose updates are in it, but no single update.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """What a mean delta is made of: so many updates, and of how many devices until then.

    ``num_devices`` counts those with an update counted since the mask epoch began (plain tasks:
    since the task did), this step's included. ``staleness`` has that of each update, ``weight`` is
    what the task's staleness rule makes of it, on average. What only some strategies are given:
    ``drift``, base params minus current ones (`Strategy.drifts`); ``replaced``, the sum of what was
    last counted of each device (`Strategy.caches`); ``lacking``, what the mean lacks of the fleet's
    (`Strategy.strata`). All float64, of the size of the mean delta.
    """

    num_updates: int
    num_devices: int
    staleness: tuple[int, ...] = ()
    weight: float = 1.0
    drift: Float64 | None = None
    replaced: Float64 | None = None
    lacking: Float64 | None = None


@dataclass(frozen=True, slots=True)
class Strategy:
    """``init(size)`` makes the first state; ``apply`` takes one step.

    ``apply(params, mean_delta, state, counted)`` gets float32 params and a float64 mean delta of
    the same size, changes neither, and returns new params (float64, rounded by the caller) and
    state. ``calibrated``: updates are differences to the device's last counted one. ``drifts``,
    ``caches``, ``strata``: what it must be told, see `Counted`. ``plain_sum``: it is right if all
    updates weigh the same. ``unmaskable`` says why it does not work under masking; empty: it does.
    """

    init: Callable[[int], State]
    apply: Callable[[Float32, Float64, State, Counted], tuple[Float64, State]]
    calibrated: bool = False
    drifts: bool = False
    caches: bool = False
    strata: bool = False
    plain_sum: bool = False
    unmaskable: str = ""

    @property
    def balances(self) -> bool:
        """Whether it balances fast and slow devices itself, so that no weight of theirs may."""
        return self.plain_sum or self.strata
