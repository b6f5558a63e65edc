"""What an operator may set about devices that misbehave: the table ``[conduct]``."""

from dataclasses import dataclass
from typing import Final

from protocol.errors import ConfigError

_RANGES: Final[dict[str, tuple[float, float]]] = {
    "threshold": (0, 1e6),
    "half_life_s": (1, 1e9),
    "messages_per_s": (0.1, 1e6),
    "burst": (10, 10_000_000),
    "bytes_per_s": (1_000, 1e12),
    "burst_bytes": (0, 1 << 40),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConductConfig:
    """When a device is quarantined, and how much it may send.

    ``threshold``: the score at which its updates are refused until `fedbus devices release`; 0
    never does that. ``half_life_s``: after so long without more, a score is half of what it was.
    ``messages_per_s``, ``bytes_per_s``: what a device may send for good, and beyond it
    ``burst`` messages and ``burst_bytes`` at once (0: four updates and 1 MiB); the rest is dropped
    unread. A device that goes on for another burst floods: it is quarantined, and the broker is
    told to let it in no more.
    """

    threshold: float = 10.0
    half_life_s: float = 86_400.0
    messages_per_s: float = 200.0
    burst: int = 1_000
    bytes_per_s: float = 8e6
    burst_bytes: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(
                    f"{name} must be from {low:g} to {high:g}, not {getattr(self, name)}"
                )
