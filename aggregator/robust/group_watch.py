"""Watches the groups of masked buffers: after enough of them, says whose updates do harm.

Pure; what it knows is lost with a restart, and gathered again.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from aggregator.robust.group_testing import influence, suspicion
from aggregator.strategy import Float32

#: Groups are judged when there are so many for each device: 20 buffers of 15 in groups of three.
TESTS_A_DEVICE: Final = 7
#: The newest are kept, so many times as many: what a device did long ago does not count for ever.
WINDOWS: Final = 2
#: Of more devices nobody is judged: it takes the cube of their number in time.
MOST_DEVICES: Final = 500


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What groups would make of a model alone: its params, and with each group's mean added.

    ``groups`` has the devices of each, and its params.
    """

    params: Float32
    groups: tuple[tuple[tuple[str, ...], Float32], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """A group: its devices, and the `aggregator.robust.group_testing.harm` that its mean does."""

    devices: tuple[str, ...]
    change: float


class GroupWatch:
    """The newest tests of groups; they are judged again and again, once there are enough."""

    def __init__(self) -> None:
        self._tests: deque[Trial] = deque()
        self._num_tests_of: Counter[str] = Counter()
        self._num_new = 0

    def __len__(self) -> int:
        return len(self._tests)

    def seen(self, tests: Sequence[Trial]) -> Mapping[str, float]:
        """Take the groups of one buffer; return how sure it is that each device does harm.

        That is what the tests at hand say, not what is to be added to an earlier judgement: 0 of
        most devices, or of all. Empty most times: it is judged once there is a test more for each
        device.
        """
        for test in tests:
            if np.isfinite(test.change):
                self._tests.append(test)
                self._num_tests_of.update(test.devices)
                self._num_new += 1
        while len(self._tests) > WINDOWS * TESTS_A_DEVICE * min(self._num_devices, MOST_DEVICES):
            self._drop(self._tests.popleft())
        num_devices = self._num_devices
        is_enough = len(self._tests) >= TESTS_A_DEVICE * num_devices
        if not is_enough or self._num_new < num_devices or not 0 < num_devices <= MOST_DEVICES:
            return {}
        self._num_new = 0
        return self._judged(sorted(self._num_tests_of))

    def forget(self, device: str) -> None:
        """Forget all groups with this device, which begins anew."""
        tests, self._tests = self._tests, deque()
        for test in tests:
            if device in test.devices:
                self._drop(test)
            else:
                self._tests.append(test)

    @property
    def _num_devices(self) -> int:
        return len(self._num_tests_of)

    def _drop(self, test: Trial) -> None:
        for device in test.devices:
            self._num_tests_of[device] -= 1
            if not self._num_tests_of[device]:
                del self._num_tests_of[device]

    def _judged(self, names: Sequence[str]) -> Mapping[str, float]:
        places = {name: place for place, name in enumerate(names)}
        groups = np.zeros((len(self._tests), len(names)), np.bool_)
        for row, test in zip(groups, self._tests, strict=True):
            row[[places[device] for device in test.devices]] = True
        changes = np.array([test.change for test in self._tests])
        sure = suspicion(influence(groups, changes))
        return dict(zip(names, sure.tolist(), strict=True))
