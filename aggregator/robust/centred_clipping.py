"""Centred clipping: norm clipping around the last step instead of around nothing.

S. P. Karimireddy, L. He, M. Jaggi, "Learning from History for Byzantine Robust Optimization",
ICML 2021, algorithm 2: v <- v + mean(clip(row - v, radius)), from v = the last step. Lies move v by
no more than the radius a step, and must agree over many to go far.
"""

import numpy as np

from aggregator.robust import Combined, Float64, norms_of, weighted_mean
from aggregator.robust.clipping import scales, usual


def centred_clip(
    rows: Float64, weights: Float64, *, centre: Float64, radius: float = 0.0, num_steps: int = 3
) -> Combined:
    """Return where ``num_steps`` clipped means from ``centre`` (d,) lead.

    ``radius`` 0: the median distance of the rows from where it is.
    """
    vector, kept = np.array(centre, np.float64), np.ones(len(rows))
    for _ in range(num_steps):
        away = rows - vector
        distances = norms_of(away)
        kept = scales(distances, radius or usual(distances))
        away *= kept[:, None]
        vector = vector + weighted_mean(away, weights)
    return Combined(vector, kept)
