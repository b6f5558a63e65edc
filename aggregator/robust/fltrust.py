"""FLTrust: rows count as far as they point where training on trusted data does.

X. Cao, M. Fang, J. Liu, N. Z. Gong, "FLTrust: Byzantine-robust Federated Learning via Trust
Bootstrapping", NDSS 2021, algorithm 1: with g0 the server's own update on a root set, a row's trust
is ReLU(cos(row, g0)), and its length becomes that of g0. Bears any number of attackers, and is as
good as the root set is like the devices' data.
"""

import numpy as np

from aggregator.robust import Combined, Float64, norms_of, weighted_mean
from aggregator.robust.clipping import scales


def fltrust(rows: Float64, weights: Float64, *, root: Float64) -> Combined:
    """Return the mean of the rows, each as long as ``root`` (d,), by weight times trust.

    Zeros if nobody is trusted. A row keeps its trust, less if it was longer than ``root``.
    """
    norms, length = norms_of(rows), float(np.linalg.norm(root))
    products = np.maximum(norms * length, np.finfo(np.float64).tiny)
    trust = np.clip(rows @ root / products, 0.0, 1.0)
    kept = trust * scales(norms, length)
    trusted = weights * trust
    if trusted.sum() == 0.0 or length == 0.0:
        return Combined(np.zeros(rows.shape[1]), np.zeros(len(rows)))
    believed = np.flatnonzero(trusted)
    as_long = rows[believed] * (length / norms[believed])[:, None]
    return Combined(weighted_mean(as_long, trusted[believed]), kept)
