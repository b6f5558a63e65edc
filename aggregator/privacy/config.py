"""The table ``[privacy]``: what an operator sets about differential privacy."""

import math
from dataclasses import dataclass
from typing import Final

from aggregator.privacy.accounting import MAX_EPSILON, largest_rho, multiplier_milli
from protocol.errors import ConfigError
from protocol.noise import cost_nano

NONE: Final = "none"
CENTRAL: Final = "central"
DISTRIBUTED: Final = "distributed"
MECHANISMS: Final = (NONE, CENTRAL, DISTRIBUTED)

_MILLI: Final = 1_000
_LEAST_NOISE: Final = 0.01
_MOST_NOISE: Final = 1_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyConfig:
    """Client-level differential privacy; docs/configuration.md explains each key.

    ``mechanism``: ``none``; ``central``, the aggregator bounds updates and adds noise;
    ``distributed``, devices do, beneath their masks. A device's updates cost it no more than
    ``epsilon`` at ``delta`` together: then it gets no more leases. Say either ``updates``, how many
    a device may send until then, or the ``noise_multiplier`` z: the noise's standard deviation over
    ``clip``, the largest L2 norm that an update keeps. ``clip_quantile`` above 0 moves the clip (of
    ``central``) to this quantile of the norms, by ``clip_rate``.
    """

    mechanism: str = NONE
    epsilon: float = 8.0
    delta: float = 1e-5
    updates: int = 0
    noise_multiplier: float = 0.0
    clip: float = 1.0
    clip_quantile: float = 0.0
    clip_rate: float = 0.2

    def __post_init__(self) -> None:
        if self.mechanism not in MECHANISMS:
            raise ConfigError(f"mechanism {self.mechanism!r}: use {', '.join(MECHANISMS)}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        if self.enabled:
            self._check_noise()
        if self.mechanism == DISTRIBUTED and self.clip_quantile:
            raise ConfigError(
                "clip_quantile: with distributed noise the clip stands in the signed roster, where"
                " nobody can move it: set clip_quantile = 0, and enrol again for another clip"
            )

    def _check_noise(self) -> None:
        if (self.updates > 0) == (self.noise_multiplier > 0):
            raise ConfigError(
                "say how many updates a device may send in all (updates), and the noise follows;"
                " or how much noise there is (noise_multiplier), and the updates do: one of both"
            )
        if self.noise_multiplier and self.noise_multiplier < _LEAST_NOISE:
            raise ConfigError(
                f"noise_multiplier must be at least {_LEAST_NOISE}, not {self.noise_multiplier}"
            )
        if not 0 < self.multiplier <= _MOST_NOISE:
            raise ConfigError(
                f"epsilon {self.epsilon} for {self.updates} updates needs noise of more than"
                f" {_MOST_NOISE:.0f} times the clip: allow fewer updates, or a larger epsilon"
            )
        if not self.most_updates:
            raise ConfigError(
                f"a single update at noise_multiplier {self.noise_multiplier} costs more than"
                f" epsilon {self.epsilon}: raise either, or say updates instead"
            )

    @property
    def enabled(self) -> bool:
        """Whether anything is promised."""
        return self.mechanism != NONE

    @property
    def is_central(self) -> bool:
        """Whether the aggregator adds the noise."""
        return self.mechanism == CENTRAL

    @property
    def is_distributed(self) -> bool:
        """Whether devices add the noise."""
        return self.mechanism == DISTRIBUTED

    @property
    def multiplier_milli(self) -> int:
        """The noise multiplier z in thousandths, rounded up; 0: none is enough."""
        if self.noise_multiplier:
            return math.ceil(self.noise_multiplier * _MILLI * (1 - 1e-12))
        return multiplier_milli(self.budget, self.updates)

    @property
    def multiplier(self) -> float:
        """The noise multiplier z."""
        return self.multiplier_milli / _MILLI

    @property
    def budget(self) -> int:
        """The largest rho that a device may spend, in billionths."""
        return largest_rho(self.epsilon, self.delta)

    @property
    def cost(self) -> int:
        """Rho of one update, in billionths."""
        return cost_nano(self.multiplier_milli)

    @property
    def most_updates(self) -> int:
        """How many updates a device can send until its budget is spent."""
        return self.budget // self.cost


_RANGES: Final[dict[str, tuple[float, float]]] = {
    "epsilon": (0.01, MAX_EPSILON),
    "delta": (1e-15, 1e-2),
    "updates": (0, 1_000_000),
    "noise_multiplier": (0.0, _MOST_NOISE),
    "clip": (1e-6, 1e6),
    "clip_quantile": (0.0, 0.99),
    "clip_rate": (0.0, 1.0),
}
