"""The line of model versions: the current params, and the step from a mean delta to the next."""

import hashlib
from collections.abc import Iterable

import numpy as np

from aggregator.records import VersionRecord
from aggregator.statistics import Statistics
from aggregator.strategy import Counted, Float32, Float64, State, Strategy
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.vectors.layout import Subset, params_from_bytes


def wanted(newest: int, running: Iterable[int], keep_versions: int) -> set[int]:
    """Return the versions that somebody may still fetch: the newest ones, and those of leases."""
    return {*running, *range(newest - keep_versions + 1, newest + 1)}


class Versions:
    """Holds the newest version; `step` makes the next one out of it."""

    def __init__(
        self,
        strategy: Strategy,
        trained: Subset,
        newest: VersionRecord,
        statistics: Statistics | None = None,
    ) -> None:
        """Start from a stored version.

        Raises ConfigError if its params are not those of ``trained.whole``: the model was changed
        under a task that has versions.
        """
        self._strategy = strategy
        self._subset = trained
        self._statistics = statistics
        try:
            self.params: Float32 = params_from_bytes(newest.params, trained.whole.size)
        except RemoteProtocolError as error:
            raise ConfigError(
                f"task.model: version {newest.version} in the store does not fit it"
                f" ({error.detail}); give a changed model a new task name"
            ) from None
        self._state: State = strategy.init(trained.layout.size)
        if newest.strategy_state.keys() == self._state.keys():
            self._state = {
                name: np.frombuffer(data, "<f8") for name, data in newest.strategy_state.items()
            }
        self.newest = newest

    @property
    def number(self) -> int:
        """The current version."""
        return self.newest.version

    @property
    def trained(self) -> Float32:
        """Those of the current params that steps move."""
        return self._subset.take(self.params)

    def forget(self) -> None:
        """Begin anew with what the strategy remembers of single devices: a mask epoch ended."""
        if self._strategy.calibrated:
            self._state = self._strategy.init(self._subset.layout.size)

    def step(
        self,
        mean_delta: Float64,
        ids: tuple[bytes, ...],
        counted: Counted | None = None,
        *,
        gain: float = 1.0,
    ) -> VersionRecord | None:
        """Make the next version, or return None, changing nothing, if it would not be finite.

        ``ids`` are counted in it; ``counted`` says what a strategy may know of them (None: how many
        they are), ``gain`` is as in `aggregator.statistics.gain_of`.
        """
        of = counted or Counted(len(ids), 0)
        exact, state = self._strategy.apply(self.trained, mean_delta, self._state, of)
        if self._statistics is not None:
            gain = 0.0 if self._strategy.calibrated else gain
            exact = self._statistics.settle(self.trained, mean_delta, exact, gain)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = exact.astype("<f4")
        if not np.isfinite(moved).all():
            return None
        params = self._subset.replaced(self.params, moved)
        data = params.tobytes()
        encoded = {name: np.asarray(vector, "<f8").tobytes() for name, vector in state.items()}
        digest = hashlib.sha256(data).digest()
        self.newest = VersionRecord(self.number + 1, data, digest, ids, encoded)
        self.params, self._state = params, state
        return self.newest
