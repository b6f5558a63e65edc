"""Whose updates weigh how much, so that fast devices do not outvote slow ones."""

from dataclasses import dataclass
from typing import Final

from protocol.errors import ConfigError

AUTO: Final = "auto"
NONE: Final = "none"
INVERSE_RATE: Final = "inverse_rate"
STALE_WEIGHT: Final = "stale_weight"
#: The rules by which the aggregator weighs plain updates of devices that come seldom.
WEIGHTS: Final = (AUTO, NONE, INVERSE_RATE, STALE_WEIGHT)


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessConfig:
    """How fast and slow devices are balanced. docs/fleets.md says when to change it.

    ``weights`` is what a device's pace makes of its updates' weight; ``auto`` is none.
    ``max_share``: a device of which more than this part of the recently counted updates are gets
    no lease while others train; 1: no such limit. ``max_cache_bytes``: what strategies that keep
    a delta of every device may take.
    """

    weights: str = AUTO
    max_share: float = 1.0
    max_cache_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ConfigError(f"weights {self.weights!r}: use {', '.join(WEIGHTS)}")
        if not 0.0 < self.max_share <= 1.0:
            raise ConfigError(f"max_share must be above 0 and at most 1, not {self.max_share}")
        if not 0 <= self.max_cache_bytes <= 1 << 40:
            raise ConfigError(
                f"max_cache_bytes must be from 0 to 2**40, not {self.max_cache_bytes}"
            )

    @property
    def weighs(self) -> bool:
        """Whether updates of one buffer weigh by their devices' pace."""
        return self.weights not in {AUTO, NONE}
