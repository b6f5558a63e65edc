"""Geometric median: the point with the least sum of distances to the rows.

K. Pillutla, S. M. Kakade, Z. Harchaoui, "Robust Aggregation for Federated Learning", IEEE
Transactions on Signal Processing 70, 2022 (RFA), algorithm 2: smoothed Weiszfeld steps, each a
weighted mean. Lies on less than half of the weight move it by a bounded distance, however far they
are. It turns with the rows, so that sparse updates, with nothing in common, are no harm to it.
"""

from typing import Final

import numpy as np

from aggregator.robust import Combined, Float64, norms_of
from aggregator.robust.clipping import SMOOTHING, nearness, usual

#: Steps of Weiszfeld at most; the paper finds 3 to 5 enough.
MAX_STEPS: Final = 50


def geometric_median(rows: Float64, weights: Float64, *, max_steps: int = MAX_STEPS) -> Combined:
    """Return the weighted geometric median.

    A row keeps 1 if it is no farther from it than the usual one (the median of all), and else as
    much less as it is farther.
    """
    norms = norms_of(rows)
    least = SMOOTHING * usual(norms)
    if least == 0.0:  # more than half of the rows are nothing: so is their median
        return Combined(np.zeros(rows.shape[1]), (norms == 0.0).astype(np.float64))
    # From the origin, "no change", where every row is seen as its own length: from the mean, which
    # lies anywhere, the first steps would be lost.
    centre, distances = np.zeros(rows.shape[1]), np.maximum(norms, least)
    for _ in range(max_steps):
        pull = weights / distances
        moved = (pull / pull.sum()) @ rows
        step = float(np.linalg.norm(moved - centre))
        centre = moved
        distances = np.maximum(_distances(rows, norms, centre), least)
        if step <= least:
            break
    return Combined(centre, nearness(distances, least))


def _distances(rows: Float64, norms: Float64, centre: Float64) -> Float64:
    """Return how far each row is from the centre, without a copy of the rows."""
    squares = norms**2 - 2.0 * (rows @ centre) + centre @ centre
    return np.sqrt(np.maximum(squares, 0.0))
