"""Coordinate median and trimmed mean: robust one coordinate at a time.

D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-Robust Distributed Learning: Towards
Optimal Statistical Rates", ICML 2018, definitions 1 and 2, here with weights. Neither suits sparse
updates: a coordinate that most devices did not send has a median of 0, whatever the others say.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.robust import Combined, Float64, norms_of
from aggregator.robust.clipping import SMOOTHING, nearness, usual

Order = npt.NDArray[np.intp]

#: Columns that are sorted at a time: what bounds the memory beside the rows.
_COLUMNS: Final = 1 << 14
#: Half of the weight, but for rounding.
_HALF: Final = 0.5 - 1e-12


def coordinate_median(rows: Float64, weights: Float64) -> Combined:
    """Return the weighted median of each coordinate; the middle of two where both halves are equal.

    Lies on less than half of the weight leave every coordinate among the others' values.
    """

    def parts(sorted_weights: Float64) -> Float64:
        up_to = np.cumsum(sorted_weights, axis=0)
        total = up_to[-1]
        low = (up_to >= _HALF * total).argmax(axis=0)
        high = (up_to > (1 - _HALF) * total).argmax(axis=0)
        chosen = np.zeros_like(up_to)
        columns = np.arange(up_to.shape[1])
        chosen[low, columns] += 0.5
        chosen[high, columns] += 0.5
        return chosen

    return _by_coordinate(rows, weights, parts)


def trimmed_mean(rows: Float64, weights: Float64, *, share: float) -> Combined:
    """Return the weighted mean of each coordinate without the ``share`` of the weight at each end.

    ``share`` from 0 (the mean) to below 0.5. Lies on no more than this share leave every coordinate
    among the others' values.
    """

    def parts(sorted_weights: Float64) -> Float64:
        up_to = np.cumsum(sorted_weights, axis=0)
        total = up_to[-1]
        inner = np.clip(up_to, share * total, (1 - share) * total)
        outer = np.clip(up_to - sorted_weights, share * total, (1 - share) * total)
        return np.asarray((inner - outer) / ((1 - 2 * share) * total))

    return _by_coordinate(rows, weights, parts)


def _by_coordinate(
    rows: Float64, weights: Float64, parts: Callable[[Float64], Float64]
) -> Combined:
    """Sum each column by the parts (summing to 1) that its values in order get by their weights.

    Every row lies in the middle of some columns by chance: what it keeps goes by its distance.
    """
    vector, squares = np.empty(rows.shape[1]), np.zeros(len(rows))
    for columns in _blocks(rows.shape[1]):
        block = rows[:, columns]
        order: Order = np.argsort(block, axis=0, kind="stable")
        in_order = np.take_along_axis(block, order, axis=0)
        vector[columns] = (parts(weights[order]) * in_order).sum(axis=0)
        squares += norms_of(block - vector[columns]) ** 2
    least = SMOOTHING * usual(norms_of(rows))
    return Combined(vector, nearness(np.sqrt(squares), least))


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _COLUMNS) for start in range(0, size, _COLUMNS))
