"""Krum and multi-Krum: the rows that have the closest neighbours.

P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent", NeurIPS 2017, section 4. Where devices have other data, an
honest row that is like no other is not chosen either.
"""

import numpy as np

from aggregator.robust import Combined, Float64, weighted_mean


def least_rows(num_attackers: int) -> int:
    """Return how many rows Krum needs: 2 f + 3."""
    return 2 * num_attackers + 3


def krum_scores(rows: Float64, num_attackers: int) -> Float64:
    """Return each row's sum of squared distances to the n - f - 2 rows next to it (n,).

    Raises ValueError for fewer than `least_rows`.
    """
    if len(rows) < least_rows(num_attackers):
        raise ValueError(f"{len(rows)} rows: Krum needs {least_rows(num_attackers)}")
    products = rows @ rows.T
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * products, 0.0)
    np.fill_diagonal(distances, np.inf)
    neighbours = len(rows) - num_attackers - 2
    return np.asarray(np.sort(distances, axis=1)[:, :neighbours].sum(axis=1))


def multi_krum(
    rows: Float64, weights: Float64, *, num_attackers: int, num_chosen: int = 0
) -> Combined:
    """Return the weighted mean of the ``num_chosen`` rows with the lowest scores.

    1 is Krum; 0 means n - f, all but as many as may be attackers. Raises ValueError for fewer rows
    than 2 ``num_attackers`` + 3.
    """
    scores = krum_scores(rows, num_attackers)
    best = np.argsort(scores, kind="stable")[: num_chosen or len(rows) - num_attackers]
    kept = np.zeros(len(rows))
    kept[best] = 1.0
    return Combined(weighted_mean(rows[best], weights[best]), kept)
