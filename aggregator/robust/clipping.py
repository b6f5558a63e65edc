"""Norm clipping: no row is longer than a radius, and who was longer is trusted less.

Z. Sun, P. Kairouz, A. T. Suresh, H. B. McMahan, "Can You Really Backdoor Federated Learning?",
2019, section 4: rows are shortened to a radius. That bounds what a liar adds to a step, but leaves
it the most there is, step after step. So `screened` also takes weight from who was longer: an
influence that falls again beyond a point (F. R. Hampel, "The Influence Curve and its Role in Robust
Estimation", Journal of the American Statistical Association 69, 1974), largest at the radius.
"""

from collections.abc import Sequence
from statistics import median
from typing import Final

import numpy as np

from aggregator.robust import Combined, Float64, norms_of, weighted_mean

#: Below this part of the rows' usual length, a distance is none.
SMOOTHING: Final = 1e-6
#: Where a norm is 0, nothing needs to be scaled.
_TINY: Final = 1e-300
#: The power by which trust falls with a row's length: twice the radius, an eighth.
FALL: Final = 3


def scales(norms: Float64, radius: float) -> Float64:
    """Return what rows of these norms are multiplied by (n,), above 0 and at most 1."""
    return np.asarray(radius / np.maximum(np.maximum(norms, radius), _TINY))


def screened(norms: Float64, radius: float) -> tuple[Float64, Float64]:
    """Return what rows of these norms, and their weights, are multiplied by (n,) each.

    Above 0 and at most 1; all 1 if the ``radius`` is 0: nobody knows what is usual.
    """
    kept = scales(norms, radius) if radius > 0.0 else np.ones(len(norms))
    return kept, kept**FALL


def clipped_mean(rows: Float64, weights: Float64, *, radius: float) -> Combined:
    """Return the weighted mean of the rows, each scaled to a norm of ``radius`` at most."""
    kept = scales(norms_of(rows), radius)
    return Combined(weighted_mean(rows * kept[:, None], weights), kept)


def usual(lengths: Sequence[float] | Float64) -> float:
    """Return the median, which less than half of them cannot move out of the rest."""
    known = lengths.tolist() if isinstance(lengths, np.ndarray) else lengths
    return float(median(known))  # a hundred numbers: NumPy would take longer to begin


def usual_length(norms: Sequence[float] | Float64) -> float:
    """Return the median of the norms above 0; 0 if there is none. No change is no measure."""
    lengths = [norm for norm in norms if norm > 0.0]
    return usual(lengths) if lengths else 0.0


def nearness(distances: Float64, least: float) -> Float64:
    """Return 1 for rows that are no farther than the usual one, else as much less as they are.

    Distances below ``least`` count as none.
    """
    near = max(usual(distances), least)
    return scales(np.maximum(distances, least), near) if near > 0.0 else (distances == 0.0) * 1.0
