"""Groups of devices by pace, and the running mean of each group's deltas.

Memory: groups x params x 4 bytes; fleets have a few groups, `NUM_GROUPS` at most. A mean changes
with a version that counted updates of its group, and is stored with it.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.actions import Action, Store
from aggregator.records import DocumentRecord
from aggregator.strategy.stratified import lacking

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: Documents of this name and a group's number hold its float32 mean delta.
STRATUM: Final = "stratum/"
NUM_GROUPS: Final = 8
#: How far an update moves the mean of its group.
FOLLOW: Final = 0.1


def group_of(gap: float) -> int:
    """Return the group of devices with a ``gap`` of so many versions between updates.

    It is the nearest power of 4: groups of twos are no better (docs/adr/0022), and are more.
    """
    return min(NUM_GROUPS - 1, round(math.log(max(1.0, gap), 4)))


class Strata:
    """Of one task, whose deltas have ``size`` values; ``documents`` is what the store keeps."""

    def __init__(self, documents: Mapping[str, bytes], size: int) -> None:
        self._size = size
        self._means: dict[int, Float32] = {
            int(key.removeprefix(STRATUM)): np.frombuffer(data, "<f4")
            for key, data in sorted(documents.items())
            if key.startswith(STRATUM) and len(data) == 4 * size
        }

    def lacking(self, fleet: Mapping[int, float], buffer: Mapping[int, float]) -> Float64:
        """Return what a buffer lacks of the fleet, by the weight of each group in either."""
        means = {group: mean.astype(np.float64) for group, mean in sorted(self._means.items())}
        return lacking(means, fleet, buffer, self._size)

    def counted(self, means: Mapping[int, tuple[int, Float64]]) -> list[Action]:
        """A version counted so many updates of each group, with this mean: follow them."""
        stores: list[Action] = []
        for group, (num_updates, mean) in sorted(means.items()):
            before = self._means.get(group)
            part = 1.0 if before is None else 1.0 - (1.0 - FOLLOW) ** num_updates
            start = np.zeros(self._size) if before is None else before.astype(np.float64)
            self._means[group] = (start + part * (mean - start)).astype("<f4")
            stores.append(Store(DocumentRecord(f"{STRATUM}{group}", self._means[group].tobytes())))
        return stores
