"""What is usual: the lengths and claims of the updates counted last, and the last step.

A buffer in which attackers are the majority by chance has nothing to compare with but earlier
ones. All of it changes with a version and is stored with it, so that a replay of the journal finds
what was there when its updates came.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.actions import Action, Store
from aggregator.records import DocumentRecord
from aggregator.robust import Float64
from aggregator.robust.clipping import usual, usual_length

#: The documents' names.
USUAL: Final = "robust/usual"
CENTRE: Final = "robust/centre"
#: How many updates are remembered.
NUM_REMEMBERED: Final = 100


class Seen(NamedTuple):
    """One update: its length (0: nobody asked), and the samples claimed."""

    norm: float
    samples: int


class History:
    """Of one task, whose deltas have ``size`` values; ``documents`` is what the store keeps.

    ``centre`` is the last step, zeros before the first; kept only if ``has_centre``.
    """

    def __init__(self, documents: Mapping[str, bytes], size: int, *, has_centre: bool) -> None:
        self._has_centre = has_centre
        stored = np.frombuffer(documents.get(USUAL, b""), "<f8").reshape(-1, len(Seen._fields))
        self._seen = [Seen(norm, int(samples)) for norm, samples in stored.tolist()]
        centre = documents.get(CENTRE, b"")
        is_whole = len(centre) == 4 * size
        self.centre: Float64 = (
            np.frombuffer(centre, "<f4").astype(np.float64) if is_whole else np.zeros(size)
        )

    def usual_norm(self, norms: Sequence[float]) -> float:
        """Return the median length of updates, these included; 0 if none has any."""
        return usual_length([*(each.norm for each in self._seen), *norms])

    def usual_samples(self, claims: Sequence[int] = ()) -> float | None:
        """Return the median claim, these included; None if there is none at all."""
        known = [*(each.samples for each in self._seen), *claims]
        return usual(known) if known else None

    def counted(self, seen: Sequence[Seen], step: Float64 | None) -> list[Action]:
        """A version counted these updates, and took this step; return what is stored with it."""
        if not seen or step is None:
            return []
        self._seen = [*self._seen, *seen][-NUM_REMEMBERED:]
        stores: list[Action] = [Store(DocumentRecord(USUAL, np.array(self._seen, "<f8").tobytes()))]
        if self._has_centre:
            rounded: npt.NDArray[np.float32] = step.astype("<f4")
            self.centre = rounded.astype(np.float64)
            stores.append(Store(DocumentRecord(CENTRE, rounded.tobytes())))
        return stores
