"""Norm clipping: no row is longer than a radius.

Z. Sun, P. Kairouz, A. T. Suresh, H. B. McMahan, "Can You Really Backdoor Federated Learning?",
2019, section 4. It bounds what an attacker adds to a step, in any direction; it does not recognise
one.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from aggregator.robust import Combined, Float64, norms_of, weighted_mean

#: Below this part of the rows' usual length, a distance is none.
SMOOTHING: Final = 1e-6
#: Where a norm is 0, nothing needs to be scaled.
_TINY: Final = 1e-300


def scales(norms: Float64, radius: float) -> Float64:
    """Return what rows of these norms are multiplied by (n,), above 0 and at most 1."""
    return np.minimum(1.0, radius / np.maximum(norms, _TINY))


def clipped_mean(rows: Float64, weights: Float64, *, radius: float) -> Combined:
    """Return the weighted mean of the rows, each scaled to a norm of ``radius`` at most."""
    kept = scales(norms_of(rows), radius)
    return Combined(weighted_mean(rows * kept[:, None], weights), kept)


def usual(lengths: Sequence[float] | Float64) -> float:
    """Return the median, which less than half of them cannot move out of the rest."""
    return float(np.median(lengths))


def nearness(distances: Float64, least: float) -> Float64:
    """Return 1 for rows that are no farther than the usual one, else as much less as they are.

    Distances below ``least`` count as none.
    """
    near = max(usual(distances), least)
    return scales(np.maximum(distances, least), near) if near > 0.0 else (distances == 0.0) * 1.0
