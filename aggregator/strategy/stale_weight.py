"""FedStaleWeight: who is late on average weighs more.

J. Ma, A. Tu, Y. Chen, V. J. Reddi, "FedStaleWeight: Buffered Asynchronous Federated Learning with
Fair Aggregation via Staleness Reweighting", 2024: weights in proportion to the mean staleness of a
device, normalised in the buffer. The aggregator sees staleness itself, so a device cannot gain by
a claim. Ours adds 1, so that a device that is never late has a weight, too.

Does not work under masking: updates are summed before the aggregator could weigh them.
"""


def stale_weight(mean_staleness: float) -> float:
    """Weight of a device whose updates were so many versions late on average, 1 or more."""
    return 1.0 + mean_staleness
