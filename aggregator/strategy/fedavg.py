"""FedAvg and FedAvgM: the server adds the mean delta.

FedAvg: H. B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, Algorithm 1 in delta form: with a server learning rate of 1 the new params are
the weighted mean of the devices' params. The same step over a buffer is FedBuff's.
FedAvgM: T.-M. H. Hsu, H. Qi, M. Brown, "Measuring the Effects of Non-Identical Data Distribution
for Federated Visual Classification", 2019: momentum over the mean deltas.

Works under masking: it needs the (weighted) sum of the buffer and no more.
"""

import numpy as np

from aggregator.strategy import (
    LEARNING_RATES,
    Counted,
    Float32,
    Float64,
    State,
    Strategy,
    check_range,
)


def fedavg(*, learning_rate: float = 1.0) -> Strategy:
    """``params + learning_rate * mean_delta``."""
    check_range("learning_rate", learning_rate, *LEARNING_RATES)

    def apply(
        params: Float32, mean_delta: Float64, state: State, _counted: Counted
    ) -> tuple[Float64, State]:
        step = learning_rate * mean_delta
        step += params
        return step, state

    return Strategy(lambda _size: {}, apply)


def fedavgm(*, learning_rate: float = 1.0, momentum: float = 0.9) -> Strategy:
    """``velocity = momentum * velocity + mean_delta``; ``params + learning_rate * velocity``."""
    check_range("learning_rate", learning_rate, *LEARNING_RATES)
    check_range("momentum", momentum, 0.0, 0.999)

    def apply(
        params: Float32, mean_delta: Float64, state: State, _counted: Counted
    ) -> tuple[Float64, State]:
        velocity = momentum * state["velocity"] + mean_delta
        return params + learning_rate * velocity, {"velocity": velocity}

    return Strategy(lambda size: {"velocity": np.zeros(size)}, apply)
