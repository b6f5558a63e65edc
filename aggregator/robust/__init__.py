"""Robust rules: one vector out of many, of which some may be lies. Pure; one paper a file.

Rows are single updates of a plain buffer, or the means of groups under masking; the rules do not
care. Every rule is called ``combine(rows, weights)``: float64 rows (n, d) with n >= 1, float64
weights (n,) above 0, both finite and not changed. `aggregator.robust.config` makes it from what
an operator sets.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class Combined(NamedTuple):
    """The ``vector`` (d,) that stands for all rows, and how much of each row is ``kept`` (n,).

    1: as much as in the mean; 0: nothing. Rows times ``kept`` are what is safe to remember.
    """

    vector: Float64
    kept: Float64


#: ``combine(rows, weights)``.
Combine = Callable[[Float64, Float64], Combined]


def mean(rows: Float64, weights: Float64) -> Combined:
    """Return the weighted mean, which a single row can move anywhere."""
    return Combined(weighted_mean(rows, weights), np.ones(len(rows)))


def weighted_mean(rows: Float64, weights: Float64) -> Float64:
    """Return the weighted mean of the rows (d,); the weights' sum must be above 0."""
    return np.asarray((weights / weights.sum()) @ rows)


def norms_of(rows: Float64) -> Float64:
    """Return the L2 norm of each row (n,)."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))
