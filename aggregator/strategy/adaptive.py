"""FedAdagrad, FedAdam, FedYogi: adaptive server optimisers.

S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2. All three share the
first moment and the step; they differ in how the second moment follows the squared mean delta. As
in the paper there is no bias correction and the second moment starts at ``tau ** 2``.

Works under masking: all that is needed is the mean delta.
"""

from collections.abc import Callable

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

_SecondMoment = Callable[[Float64, Float64], Float64]


def fedadagrad(*, learning_rate: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> Strategy:
    """``v + delta**2``: steps shrink where much has happened."""
    return _adaptive(learning_rate, beta1, tau, lambda v, squared: v + squared)


def fedadam(
    *, learning_rate: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Strategy:
    """``beta2 * v + (1 - beta2) * delta**2``: a moving average."""
    check_range("beta2", beta2, 0.0, 0.999999)
    return _adaptive(
        learning_rate, beta1, tau, lambda v, squared: beta2 * v + (1 - beta2) * squared
    )


def fedyogi(
    *, learning_rate: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Strategy:
    """``v - (1 - beta2) * delta**2 * sign(v - delta**2)``: as Adam, with bounded change."""
    check_range("beta2", beta2, 0.0, 0.999999)
    return _adaptive(
        learning_rate,
        beta1,
        tau,
        lambda v, squared: v - (1 - beta2) * squared * np.sign(v - squared),
    )


def _adaptive(
    learning_rate: float, beta1: float, tau: float, second_moment: _SecondMoment
) -> Strategy:
    check_range("learning_rate", learning_rate, *LEARNING_RATES)
    check_range("beta1", beta1, 0.0, 0.9999)
    check_range("tau", tau, 1e-9, 1e3)

    def init(size: int) -> State:
        return {"m": np.zeros(size), "v": np.full(size, tau**2)}

    def apply(
        params: Float32, mean_delta: Float64, state: State, _counted: Counted
    ) -> tuple[Float64, State]:
        m = beta1 * state["m"] + (1 - beta1) * mean_delta
        v = second_moment(state["v"], mean_delta**2)
        return params + learning_rate * m / (np.sqrt(v) + tau), {"m": m, "v": v}

    return Strategy(init, apply)
