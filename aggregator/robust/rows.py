"""A buffer that keeps its updates one by one until it closes, for a rule to compare them.

Memory: the updates as they came, and for a moment, while it closes, number x size float64 (not
where rows are only clipped). With groups of devices (`aggregator.strata`) the rule judges the whole
buffer at once, as a group has too few updates in it to tell who is the exception; the groups' means
are then taken of what it kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aggregator.robust import Combined, Float64
from aggregator.robust.config import NORM_CLIP, RobustConfig
from aggregator.robust.history import History, Seen
from aggregator.robust.root import RootDelta
from protocol.vectors.packing import SparseDelta


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One update: its delta, its ``weight`` apart from samples, how many samples it claims."""

    lease_id: bytes
    device: str
    delta: SparseDelta
    weight: float
    claim: int
    group: int = 0


class Judged(NamedTuple):
    """What a rule made of a buffer.

    ``vector`` is the mean delta, ``kept`` what is left of each update, from 0 to 1. ``samples``
    are what the devices' updates weighed; ``weights`` and ``means`` are by group, ``seen`` is for
    `History`.
    """

    vector: Float64
    kept: tuple[tuple[str, float], ...]
    samples: Mapping[str, int]
    weights: Mapping[int, float]
    means: Mapping[int, tuple[int, Float64]]
    seen: tuple[Seen, ...]
    #: The part of the buffer's weight that was left out.
    left_out: float


class RowBuffer:
    """Updates in journal order. ``history`` says what is usual, ``root`` what is trusted."""

    def __init__(
        self, config: RobustConfig, size: int, history: History, root: RootDelta | None = None
    ) -> None:
        self._config = config
        self._size = size
        self._history = history
        self._root = root
        self._rows: list[Row] = []
        #: Whose they are.
        self.devices: set[str] = set()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> list[bytes]:
        """Whose they are, by lease."""
        return [row.lease_id for row in self._rows]

    def add(self, row: Row) -> None:
        """Take one update."""
        self._rows.append(row)
        self.devices.add(row.device)

    def clear(self) -> None:
        """Start again with nothing."""
        self._rows, self.devices = [], set()

    def judged(self, *, by_number: bool) -> Judged:
        """Return what the rule makes of the updates, of which there must be one or more.

        ``by_number``: the sum is divided by their number instead of their weight, as `Buffer.mean`
        has it.
        """
        given, history = self._rows, self._history
        claims = [row.claim for row in given]
        samples = [capped(claim, self._config, history.usual_samples(claims)) for claim in claims]
        weights = np.array([row.weight for row in given]) * samples
        norms = norms_of([row.delta for row in given])
        judge = self._clipped if self._config.rule == NORM_CLIP else self._compared
        vector, kept = judge(norms, weights)
        scale = float(weights.sum()) / len(given) if by_number else 1.0
        by_group = self._by_group(weights)
        totals = self._totals(weights * kept)
        return Judged(
            vector * scale,
            tuple((row.device, float(part)) for row, part in zip(given, kept, strict=True)),
            {row.device: each for row, each in zip(given, samples, strict=True)},
            {group: weight for group, (_, weight) in by_group.items()},
            {group: (number, totals[group] / of) for group, (number, of) in by_group.items()},
            tuple(Seen(*each) for each in zip(norms.tolist(), claims, strict=True)),
            1.0 - float(weights @ kept / weights.sum()),
        )

    def _clipped(self, norms: Float64, weights: Float64) -> Combined:
        """What `RobustConfig.combine` gives for this rule, without all rows in full."""
        shortened, trust = self._config.screened(norms, self._history.usual_norm(norms.tolist()))
        kept = shortened * trust
        total = np.sum(list(self._totals(weights * kept).values()), axis=0)
        return Combined(total / float(weights @ trust), kept)

    def _compared(self, norms: Float64, weights: Float64) -> Combined:
        deltas = np.empty((len(self._rows), self._size))
        for place, row in enumerate(self._rows):
            deltas[place] = row.delta.dense()
        combine = self._config.combine(
            usual_norm=self._history.usual_norm(norms.tolist()),
            centre=self._history.centre,
            root=None if self._root is None else self._root(),
        )
        return combine(deltas, weights)

    def _by_group(self, weights: Float64) -> dict[int, tuple[int, float]]:
        """Return how many updates there are of each group, and their weight."""
        found: dict[int, tuple[int, float]] = {}
        for row, weight in zip(self._rows, weights.tolist(), strict=True):
            number, total = found.get(row.group, (0, 0.0))
            found[row.group] = number + 1, total + weight
        return found

    def _totals(self, parts: Float64) -> dict[int, Float64]:
        """Return the sum of each group's updates, so much of each."""
        totals = {row.group: np.zeros(self._size) for row in self._rows}
        for row, part in zip(self._rows, parts.tolist(), strict=True):
            row.delta.add_to(totals[row.group], part)
        return totals


def norms_of(deltas: Sequence[SparseDelta]) -> Float64:
    """Return the L2 norm of each (n,)."""
    return np.array([np.linalg.norm(delta.values.astype(np.float64)) for delta in deltas])


def capped(claim: int, config: RobustConfig, usual: float | None) -> int:
    """Return how many samples count of so many claimed, 1 or more; ``usual`` None: all of them."""
    if usual is None or not config.samples_ratio:
        return claim
    return max(1, min(claim, int(config.samples_ratio * usual)))
