"""What several seeds say together: means, how sure they are, and differences pair by pair.

All intervals are Student's t at 95 %: seeds are few, and a run's figures are near enough to normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE: Final = 0.95
_MIN_SEEDS: Final = 2
#: With two seeds, t is so wide that a band says nothing.
_MIN_BAND: Final = 3
_NUM_PLACES: Final = 75

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``num`` seeds, and how far off it may be; None where one seed cannot tell."""

    mean: float
    half_width: float | None
    num: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the mean is farther from 0 than it may be off."""
        return self.half_width is not None and abs(self.mean) > self.half_width


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity that keeps its value ``y`` from ``x`` (ascending) until the next one."""

    x: Floats
    y: Floats

    def at(self, places: Floats) -> Floats:
        """Return the value in force at each place; NaN before the first."""
        index = np.searchsorted(self.x, places, side="right") - 1
        return np.where(index < 0, np.nan, self.y[np.maximum(index, 0)])

    def between(self, edges: Floats) -> Floats:
        """Return the mean in each span between ascending edges, none before the first value.

        Each value counts as long as it held.
        """
        inside = self.x[(self.x > edges[0]) & (self.x < edges[-1])]
        places = np.unique(np.concatenate([edges, inside]))
        areas = np.diff(places) * self.at(places[:-1])
        spans = np.searchsorted(places, edges)
        return np.add.reduceat(areas, spans[:-1]) / np.diff(edges)


@dataclass(frozen=True, slots=True)
class Band:
    """The mean of several curves, and where their true mean lies (None for one or two).

    ``seeds`` has a row for each curve, at the same places ``x``.
    """

    x: Floats
    mean: Floats
    seeds: Floats
    half: Floats | None = None


def interval(values: Sequence[float]) -> Interval | None:
    """Return the mean of one value a seed, with its t interval; None without values."""
    if not values:
        return None
    mean = float(np.mean(values))
    if len(values) < _MIN_SEEDS:
        return Interval(mean, None, len(values))
    return Interval(mean, float(_half_width(np.asarray(values)[:, None])[0]), len(values))


def band(curves: Sequence[Curve]) -> Band | None:
    """Return the mean curve, from where all have begun until one ends; None if that is nowhere.

    Of several curves each place is the mean of its surroundings, a hundredth of the whole.
    """
    if not curves or any(len(curve.x) == 0 for curve in curves):
        return None
    if len(curves) == 1:
        return Band(curves[0].x, curves[0].y, curves[0].y[None])
    begin, end = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    if end <= begin:
        return None
    edges = np.linspace(begin, end, _NUM_PLACES + 1)
    values = np.stack([curve.between(edges) for curve in curves])
    half = _half_width(values) if len(curves) >= _MIN_BAND else None
    return Band((edges[1:] + edges[:-1]) / 2, values.mean(axis=0), values, half)


def late_mean(curve: Curve, end: float, part: float = 0.2) -> float | None:
    """Return the mean over the last ``part`` of the time until ``end``.

    Each value counts as long as it held. None for a curve without values.
    """
    if len(curve.x) == 0:
        return None
    begin = max(float(curve.x[0]), end * (1 - part))
    if begin >= end:
        return float(curve.y[-1])
    return float(curve.between(np.asarray([begin, end]))[0])


def _half_width(values: Floats) -> Floats:
    """Return the t interval's half width down each column of (seeds, places)."""
    num = len(values)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, num - 1)
    half: Floats = quantile * values.std(axis=0, ddof=1) / np.sqrt(num)
    return half
