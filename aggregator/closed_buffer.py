"""A closed buffer: its groups, until each has its sum or can have none, and what comes of them.

Without groups (`protocol.secagg.groups`) it is one group, and its mean is the outcome. With groups,
a robust rule makes one vector of their means.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from aggregator.buffers import Outcome
from aggregator.recovery import Recovery
from aggregator.robust.config import RobustConfig
from aggregator.robust.groups import GroupMean, combine_groups
from aggregator.strategy import Float64
from protocol import refusals
from protocol.secagg.field import Elements


@dataclass(slots=True, eq=False)
class _Group:
    """One group: its recovery, and its mean once that is over, None if there is none."""

    recovery: Recovery
    is_open: bool = True
    mean: GroupMean | None = None


class ClosedBuffer:
    """The groups of one buffer. They become one step when the last of them is over."""

    def __init__(self, recoveries: Sequence[Recovery]) -> None:
        self._groups = [_Group(recovery) for recovery in recoveries]

    @property
    def recoveries(self) -> list[Recovery]:
        """Those of all groups."""
        return [group.recovery for group in self._groups]

    @property
    def open(self) -> list[Recovery]:
        """Those that are under way."""
        return [group.recovery for group in self._groups if group.is_open]

    @property
    def num_updates(self) -> int:
        """How many updates are in it."""
        return sum(len(group.recovery.ids) for group in self._groups)

    def recovered(self, recovery: Recovery, sums: Elements) -> None:
        """Note the sums (size,) of a group: of its values and, last, of its weights."""
        group, roster = self._of(recovery), recovery.roster
        weight = roster.parameters.weight_of(int(sums[-1]))
        mean = sums[:-1].astype(np.float64) / (roster.parameters.scale * weight)
        devices = tuple(roster.members[dealer].device for dealer in recovery.masks)
        group.mean = GroupMean(devices, mean)
        group.is_open = False

    def given_up(self, recovery: Recovery) -> None:
        """Note that a group will have no sum."""
        self._of(recovery).is_open = False

    def outcomes(self, robust: RobustConfig, spread: Callable[[Float64], Float64]) -> list[Outcome]:
        """Return the step that its groups give, and the reason for those that are not in it.

        Of which more than half are needed: else those that are missing could be all the honest
        ones. ``spread`` makes a vector of all coordinates of those that the updates had.
        """
        found = [group for group in self._groups if group.mean is not None]
        if 2 * len(found) <= len(self._groups):
            return [_failed(self._groups)]
        means = tuple(group.mean for group in found if group.mean is not None)
        lost = [group for group in self._groups if group.mean is None]
        failed = [_failed(lost)] if lost else []
        if len(self._groups) == 1:
            return [Outcome(_ids(found), spread(means[0].mean))]
        vector, _ = combine_groups(robust, means)
        groups = tuple(replace(group, mean=spread(group.mean)) for group in means)
        return [Outcome(_ids(found), spread(vector), groups=groups), *failed]

    def _of(self, recovery: Recovery) -> _Group:
        return next(group for group in self._groups if group.recovery is recovery)


def _failed(groups: Sequence[_Group]) -> Outcome:
    return Outcome(_ids(groups), None, refusals.RECOVERY_FAILED)


def _ids(groups: Sequence[_Group]) -> tuple[bytes, ...]:
    return tuple(sorted(lease_id for group in groups for lease_id in group.recovery.ids))
