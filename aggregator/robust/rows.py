"""A buffer that keeps its updates one by one until it closes, for a rule to compare them.

Memory: the updates as they came, and for a moment, while it closes, number x size float64. With
groups of devices (`aggregator.strata`) the rule judges the whole buffer at once, as a group has too
few updates in it to tell who is the exception; the groups' means are then taken of what it kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from aggregator.robust import Float64, norms_of
from aggregator.robust.config import RobustConfig
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

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> list[bytes]:
        """Whose they are, by lease."""
        return [row.lease_id for row in self._rows]

    @property
    def devices(self) -> set[str]:
        """Whose they are."""
        return {row.device for row in self._rows}

    def add(self, row: Row) -> None:
        """Take one update."""
        self._rows.append(row)

    def clear(self) -> None:
        """Start again with nothing."""
        self._rows = []

    def judged(self, *, by_number: bool) -> Judged:
        """Return what the rule makes of the updates, of which there must be one or more.

        ``by_number``: the sum is divided by their number instead of their weight, as `Buffer.mean`
        has it.
        """
        given, history = self._rows, self._history
        deltas = np.empty((len(given), self._size))
        for place, row in enumerate(given):
            deltas[place] = row.delta.dense()
        claims = [row.claim for row in given]
        norms = norms_of(deltas).tolist()
        samples = [capped(claim, self._config, history.usual_samples(claims)) for claim in claims]
        weights = np.array([row.weight for row in given]) * samples
        usual_norm = history.usual_norm(norms)
        combine = self._config.combine(
            usual_norm=usual_norm,
            centre=history.centre,
            root=None if self._root is None else self._root(),
        )
        vector, kept = combine(deltas, weights)
        deltas *= kept[:, None]
        scale = weights.sum() / len(given) if by_number else 1.0
        groups = np.array([row.group for row in given])
        by_group = {
            group: np.flatnonzero(groups == group) for group in sorted(set(groups.tolist()))
        }
        return Judged(
            vector * scale,
            tuple((row.device, float(part)) for row, part in zip(given, kept, strict=True)),
            {row.device: each for row, each in zip(given, samples, strict=True)},
            {group: float(weights[places].sum()) for group, places in by_group.items()},
            {
                group: (len(places), weights[places] @ deltas[places] / weights[places].sum())
                for group, places in by_group.items()
            },
            tuple(Seen(*each) for each in zip(norms, claims, strict=True)),
            1.0 - float(weights @ kept / weights.sum()),
        )


def capped(claim: int, config: RobustConfig, usual: float | None) -> int:
    """Return how many samples count of so many claimed, 1 or more; ``usual`` None: all of them."""
    if usual is None or not config.samples_ratio:
        return claim
    return max(1, min(claim, int(config.samples_ratio * usual)))
