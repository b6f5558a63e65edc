"""What steps know of single devices and of groups of them, from one version to the next.

Five parts, each kept only for the strategies and weights that ask: who took part
(`Participation`), the last delta of each device (`Caches`), the mean delta of each group
(`Strata`), what is usual of updates (`History`), and the params that those still at work have
started from (``bases``). All but the bases are stored with the version that changes them; bases are
gone after a restart.
"""

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from aggregator.actions import Action
from aggregator.buffers import Outcome
from aggregator.caches import Caches
from aggregator.participation import Participation
from aggregator.robust.config import CENTRED_CLIP
from aggregator.robust.history import History
from aggregator.strata import Strata
from aggregator.strategy import Counted
from aggregator.task_config import TaskConfig

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


class Memory:
    """Of one task, whose deltas have ``size`` values; ``documents`` is what the store keeps.

    ``epochs`` as `Participation` has them.
    """

    def __init__(
        self, config: TaskConfig, documents: Mapping[str, bytes], epochs: str, size: int
    ) -> None:
        self._strategy = strategy = config.strategy.strategy()
        self._weigh = config.staleness_weight()
        is_noted = strategy.calibrated or strategy.caches or strategy.strata
        self.participation = Participation(documents, epochs, config.fairness, is_noted=is_noted)
        self._caches = Caches(documents, size)
        self._strata = Strata(documents, size)
        has_centre = config.robust.rule == CENTRED_CLIP
        self.history = History(documents, size, has_centre=has_centre)
        self._bases: dict[int, Float32] = {}

    def published(self, version: int, params: Float32, needed: Collection[int]) -> None:
        """Devices may start from these params (the trained ones) now, and from ``needed`` still."""
        if self._strategy.drifts:
            bases = {each: base for each, base in self._bases.items() if each in needed}
            self._bases = {**bases, version: params}

    def told(
        self, outcome: Outcome, staleness: Mapping[str, int], version: int, params: Float32
    ) -> Counted | None:
        """Return what the strategy may know of a buffer beside its mean.

        ``staleness`` by device, ``version`` and ``params`` the current ones. None: an update's base
        is not kept any more, and the strategy needs it.
        """
        strategy, late = self._strategy, tuple(staleness.values())
        drift = self._drift([version - each for each in late], params) if strategy.drifts else None
        if strategy.drifts and drift is None:
            return None
        return Counted(
            len(outcome.ids),
            self.participation.num_devices(staleness),
            staleness=late,
            weight=sum(map(self._weigh, late)) / max(1, len(late)),
            drift=drift,
            replaced=self._caches.replaced(outcome.deltas) if strategy.caches else None,
            lacking=self._lacking(outcome, version) if strategy.strata else None,
        )

    def counted(self, outcome: Outcome, staleness: Mapping[str, int], version: int) -> list[Action]:
        """A version counted this buffer: return what is stored with it."""
        return [
            *self.participation.counted(version, staleness, outcome.samples),
            *self._caches.counted(outcome.deltas),
            *self._strata.counted(version, outcome.means),
            *self.history.counted(outcome.seen, outcome.mean),
        ]

    def _lacking(self, outcome: Outcome, version: int) -> Float64:
        return self._strata.lacking(self.participation.fleet, outcome.weights, version)

    def _drift(self, versions: list[int], params: Float32) -> Float64 | None:
        """How far the bases, on average, are from the current params; None: one is not kept."""
        if not all(version in self._bases for version in versions):
            return None
        now = params.astype(np.float64)
        return np.asarray(np.mean([self._bases[version] - now for version in versions], axis=0))
