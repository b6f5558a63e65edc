"""FedBuff: a step whenever so many updates have come, whoever they are from.

J. Nguyen et al., "Federated Learning with Buffered Asynchronous Aggregation", AISTATS 2022,
Algorithm 1. The parts lie where others use them, too: `aggregator.scheduling.buffered` closes the
buffer after ``goal`` updates and keeps ``concurrency`` devices at work, `protocol.staleness` weighs
(polynomial, 0.5), `aggregator.buffer` says by what the sum is divided. What is left for here is
FedAvg's step. Server learning rates far from 1 may be right: the authors used up to 40.9.

Works under masking: devices weigh late updates themselves, by the rule that the roster names.
"""

from aggregator.strategy import Strategy
from aggregator.strategy.fedavg import fedavg


def fedbuff(*, learning_rate: float = 1.0) -> Strategy:
    """``params + learning_rate * mean_delta``."""
    return fedavg(learning_rate=learning_rate)
