"""Groups of devices by pace, and the running mean of each group's deltas.

Memory: groups x params x 4 bytes; fleets have a few groups, `NUM_GROUPS` at most. A mean changes
with a version that counted updates of its group, and is stored with it. A group that is gone no
longer counts: what it last wanted would be added to every step, and nobody would say when that is
enough.
"""

import math
from collections.abc import Mapping
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from aggregator.actions import Action, Store
from aggregator.records import DocumentRecord
from aggregator.strategy.stratified import lacking

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

#: Documents of this name and a group's number hold its `_Stratum`.
STRATUM: Final = "stratum/"
NUM_GROUPS: Final = 8
#: How far an update moves the mean of its group.
FOLLOW: Final = 0.1
#: A group is gone when each of its devices has missed so many of its turns.
TURNS: Final = 10
_VERSION_BYTES: Final = 8


class _Stratum(NamedTuple):
    """The mean delta of a group, and the version that counted its newest update."""

    version: int
    mean: Float32

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read what `pack` wrote."""
        version = int.from_bytes(data[:_VERSION_BYTES], "little")
        return cls(version, np.frombuffer(data, "<f4", offset=_VERSION_BYTES))

    def pack(self) -> bytes:
        """Return the bytes to be stored: the version, then the mean as float32."""
        return self.version.to_bytes(_VERSION_BYTES, "little") + self.mean.tobytes()


def group_of(gap: float) -> int:
    """Return the group of devices with a ``gap`` of so many versions between updates.

    It is the nearest power of 4: groups of twos are no better (docs/adr/0022), and are more.
    """
    return min(NUM_GROUPS - 1, round(math.log(max(1.0, gap), 4)))


class Strata:
    """Of one task, whose deltas have ``size`` values; ``documents`` is what the store keeps."""

    def __init__(self, documents: Mapping[str, bytes], size: int) -> None:
        self._size = size
        self._groups: dict[int, _Stratum] = {
            int(key.removeprefix(STRATUM)): _Stratum.unpack(data)
            for key, data in documents.items()
            if key.startswith(STRATUM) and len(data) == _VERSION_BYTES + 4 * size
        }

    def lacking(
        self, fleet: Mapping[int, float], buffer: Mapping[int, float], version: int
    ) -> Float64:
        """Return what a buffer lacks of the fleet, by the weight of each group in either.

        ``version`` is the newest. Groups that are gone are of no fleet.
        """
        means = {
            group: known.mean.astype(np.float64)
            for group, known in sorted(self._groups.items())
            if group in buffer or version - known.version <= TURNS * 4**group
        }
        return lacking(means, fleet, buffer, self._size)

    def counted(self, version: int, means: Mapping[int, tuple[int, Float64]]) -> list[Action]:
        """A version counted so many updates of each group, with this mean: follow them."""
        stores: list[Action] = []
        for group, (num_updates, mean) in sorted(means.items()):
            known = self._groups.get(group)
            part = 1.0 if known is None else 1.0 - (1.0 - FOLLOW) ** num_updates
            start = np.zeros(self._size) if known is None else known.mean.astype(np.float64)
            followed = _Stratum(version, (start + part * (mean - start)).astype("<f4"))
            self._groups[group] = followed
            stores.append(Store(DocumentRecord(f"{STRATUM}{group}", followed.pack())))
        return stores
