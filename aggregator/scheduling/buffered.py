"""Asynchronous scheduling (FedBuff: J. Nguyen et al., AISTATS 2022, Algorithm 1).

``concurrency`` devices train at all times; whoever finishes is replaced by the one that has waited
longest. A buffer closes when ``goal`` updates are in it, or after ``max_wait_s`` with at least
``min_contributors`` different devices.
"""

from dataclasses import dataclass

from aggregator.scheduling import View
from aggregator.wording import many
from protocol.errors import ConfigError
from protocol.messages import MAX_COUNTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffered:
    """Settings of mode ``buffered``."""

    goal: int = 10
    concurrency: int = 100
    max_wait_s: float = 60.0
    min_contributors: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.goal <= MAX_COUNTED:
            raise ConfigError(f"goal must be from 1 to {MAX_COUNTED}, not {self.goal}")
        if self.concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, not {self.concurrency}")
        if self.max_wait_s <= 0:
            raise ConfigError(f"max_wait_s must be above 0, not {self.max_wait_s}")
        if not 1 <= self.min_contributors <= self.goal:
            raise ConfigError(
                f"min_contributors must be from 1 to goal ({self.goal}),"
                f" not {self.min_contributors}"
            )

    @property
    def per_version(self) -> int:
        """How many leases a version needs."""
        return self.goal

    def num_grants(self, view: View) -> int:
        """Return how many of the waiting devices get a lease now."""
        return max(0, min(view.supply.num_grantable, self.concurrency - view.num_active))

    def is_due(self, view: View) -> bool:
        """The buffer closes now."""
        if view.num_buffered >= self.goal:
            return True
        if view.opened_at is None or view.num_contributors < self.min_contributors:
            return False
        return view.num_buffered > 0 and view.now >= view.opened_at + self.max_wait_s

    def next_deadline(self, view: View) -> float | None:
        """Return when `is_due` may become true without a message; None: never."""
        if view.opened_at is None or view.num_contributors < self.min_contributors:
            return None
        return view.opened_at + self.max_wait_s

    def waiting_for(self, view: View) -> str:
        """Return, for a person, what would close the buffer."""
        goal = many(self.goal - view.num_buffered, "more update")
        goal += f" ({view.num_buffered} of {self.goal})"
        if view.opened_at is None:
            return goal
        missing = self.min_contributors - view.num_contributors
        if missing > 0:
            return f"{goal}, among them from {many(missing, 'more device')}"
        return f"{goal}, or {max(0.0, view.opened_at + self.max_wait_s - view.now):.0f} s"
