"""Synchronous scheduling: rounds.

FedAvg: H. B. McMahan et al., AISTATS 2017, Algorithm 1; over-selection and deadline after K.
Bonawitz et al., "Towards Federated Learning at Scale", MLSys 2019, section 2.

A round gives ``ceil(size * over_selection)`` leases at once and closes with the first ``size``
updates, or at its deadline with at least ``quorum``. A round that has fewer at its deadline is not
thrown away: more devices get leases for the same version until the quorum is there.

Where a rule chooses among those who wait, a round opens as soon as everybody who is online waits,
or ``gather_s`` after the last one: else those who were in that one could never be in the next.
"""

import math
from dataclasses import dataclass
from typing import Final

from aggregator.scheduling import Supply, View
from aggregator.wording import many
from protocol.errors import ConfigError
from protocol.messages import MAX_COUNTED

#: `over_selection` that follows the measured part of leases that bring no update; and its most.
AUTO: Final = 0.0
_MOST: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Settings of mode ``rounds``. ``quorum`` 0 means half of ``size``, rounded up.

    ``over_selection`` 0: as many leases as bring ``size`` updates by the measured drop-out.
    """

    size: int = 10
    over_selection: float = 1.0
    quorum: int = 0
    deadline_s: float = 120.0
    gather_s: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_COUNTED:
            raise ConfigError(f"size must be from 1 to {MAX_COUNTED}, not {self.size}")
        if self.over_selection != AUTO and not 1.0 <= self.over_selection <= 10.0:  # noqa: PLR2004 - beyond it is surely a mistake
            raise ConfigError(
                f"over_selection must be from 1 to 10, or 0 (measured), not {self.over_selection}"
            )
        if not 0 <= self.quorum <= self.size:
            raise ConfigError(f"quorum must be from 0 to size ({self.size}), not {self.quorum}")
        if self.deadline_s <= 0 or self.gather_s < 0:
            raise ConfigError("deadline_s must be above 0 and gather_s not below")

    @property
    def needed(self) -> int:
        """The quorum as a number of updates."""
        return self.quorum or math.ceil(self.size / 2)

    @property
    def selection(self) -> int:
        """How many leases a round opens with while none is known to be lost."""
        return math.ceil(self.size * max(1.0, self.over_selection))

    @property
    def per_version(self) -> int:
        """How many leases a version needs."""
        return self.selection

    def wanted(self, supply: Supply) -> int:
        """Return how many leases a round opens with."""
        if self.over_selection != AUTO:
            return self.selection
        return math.ceil(self.size * min(_MOST, 1.0 / max(supply.completion, 1.0 / _MOST)))

    def num_grants(self, view: View) -> int:
        """Return how many of the waiting devices get a lease now."""
        if view.opened_at is None:
            return self._opening(view)
        if view.now < view.opened_at + self.deadline_s and view.num_active > 0:
            return 0
        missing = self.wanted(view.supply) - view.num_buffered - view.num_active
        return min(view.supply.num_grantable, max(0, missing))

    def _opening(self, view: View) -> int:
        supply, wanted = view.supply, self.wanted(view.supply)
        is_everybody = not supply.is_choosing or view.num_waiting >= supply.num_online
        if supply.num_grantable >= wanted and is_everybody:
            return wanted
        since = self._gathering_since(view)
        if since is None or view.now < since + self.gather_s:
            return 0
        return min(wanted, supply.num_grantable)

    def _gathering_since(self, view: View) -> float | None:
        """Return when the round began to gather; None: too few wait."""
        if view.gathering_since is None or view.num_waiting < self.needed:
            return None
        supply = view.supply
        if not supply.is_choosing or supply.ended_at is None:
            return view.gathering_since
        return max(view.gathering_since, supply.ended_at)

    def is_due(self, view: View) -> bool:
        """The round closes now."""
        if view.num_buffered >= self.size:
            return True
        if view.opened_at is None or view.num_buffered < self.needed:
            return False
        return view.num_active == 0 or view.now >= view.opened_at + self.deadline_s

    def next_deadline(self, view: View) -> float | None:
        """Return when something may become due without a message; None: never."""
        if view.opened_at is not None:
            at = view.opened_at + self.deadline_s
        else:
            since = self._gathering_since(view)
            if since is None:
                return None
            at = since + self.gather_s
        return at if at > view.now else None

    def waiting_for(self, view: View) -> str:
        """Return, for a person, what would close or open the round."""
        wanted = self.wanted(view.supply)
        since = self._gathering_since(view)
        if view.opened_at is None and (view.num_waiting < wanted or since is None):
            return f"{many(wanted, 'device')} to check in ({view.num_waiting} waiting)"
        if view.opened_at is None:
            gather_s = max(0.0, (since or 0.0) + self.gather_s - view.now)
            return f"the others to check in ({view.num_waiting} waiting), {gather_s:.0f} s at most"
        left_s = view.opened_at + self.deadline_s - view.now
        if left_s > 0:
            return f"{view.num_buffered} of {self.size} updates; deadline in {left_s:.0f} s"
        return f"the quorum: {view.num_buffered} of {self.needed} updates, deadline passed"
