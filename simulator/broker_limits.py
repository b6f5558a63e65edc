"""What a broker holds for one client, and what it does not: the numbers of mosquitto 2.0."""

import math
from dataclasses import dataclass
from typing import Self

from protocol.errors import ConfigError

_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerLimits:
    """Limits per client, named as mosquitto's settings; 0 is none. Raises ConfigError.

    Of messages with QoS 1 at most ``max_inflight_messages`` are under way and not acknowledged; of
    the others ``max_queued_messages`` wait, until those that wait have ``max_queued_bytes``. What
    comes beyond is dropped, and nobody is told. A session ends when its client has been away for
    ``session_expiry_s``, or sooner where the client asked for that. ``persistence``: sessions and
    what is retained survive a restart.
    """

    max_inflight_messages: int = 0
    max_queued_messages: int = 0
    max_queued_bytes: int = 0
    session_expiry_s: float = math.inf
    persistence: bool = True

    def __post_init__(self) -> None:
        for name in ("max_inflight_messages", "max_queued_messages", "max_queued_bytes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 (no limit) or more, not {getattr(self, name)}")
        if not self.session_expiry_s > 0:
            raise ConfigError(f"session_expiry_s must be above 0, not {self.session_expiry_s}")

    @classmethod
    def stock(cls) -> Self:
        """Return what mosquitto 2.0 does without a configuration."""
        return cls(max_inflight_messages=20, max_queued_messages=1_000, persistence=False)

    @classmethod
    def shipped(cls) -> Self:
        """Return what ``broker_config/mosquitto.conf`` sets."""
        return cls(
            max_inflight_messages=2_000,
            max_queued_messages=1_000_000,
            max_queued_bytes=268_435_456,
            session_expiry_s=14 * _DAY_S,
        )

    def has_room(self, num_messages: int, num_bytes: int) -> bool:
        """Whether one more message may wait behind so many."""
        if self.max_queued_messages and num_messages >= self.max_queued_messages:
            return False
        return not self.max_queued_bytes or num_bytes < self.max_queued_bytes
