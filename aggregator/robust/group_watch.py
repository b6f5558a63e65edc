"""Watches the groups of masked buffers: after enough of them, says whose updates do harm.

Pure; what it knows is lost with a restart, and gathered again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from aggregator.robust.group_testing import influence, suspects
from aggregator.strategy import Float32

#: Groups are judged when there are so many for each device: 20 buffers of 15 in groups of three.
TESTS_A_DEVICE: Final = 7
#: No more are kept, whatever the number of devices.
MOST_TESTS: Final = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What groups would make of a model alone: its params, and with each group's mean added.

    ``groups`` has the devices of each, and its params.
    """

    params: Float32
    groups: tuple[tuple[tuple[str, ...], Float32], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """A group: its devices, and the logarithm of the loss with its mean over that without."""

    devices: tuple[str, ...]
    change: float


class GroupWatch:
    """Tests of groups, until there are enough to judge; then it begins anew."""

    def __init__(self) -> None:
        self._tests: list[Trial] = []

    def __len__(self) -> int:
        return len(self._tests)

    def seen(self, tests: Sequence[Trial]) -> tuple[str, ...]:
        """Take the groups of one buffer; return who is suspected, which is nobody most times."""
        self._tests += [test for test in tests if np.isfinite(test.change)]
        names = sorted({device for test in self._tests for device in test.devices})
        if len(self._tests) < min(TESTS_A_DEVICE * len(names), MOST_TESTS):
            return ()
        groups = np.zeros((len(self._tests), len(names)), np.bool_)
        for row, test in zip(groups, self._tests, strict=True):
            row[[names.index(device) for device in test.devices]] = True
        changes = np.array([test.change for test in self._tests])
        self._tests = []
        return tuple(names[place] for place in suspects(influence(groups, changes)))
