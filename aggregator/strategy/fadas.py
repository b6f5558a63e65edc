"""FADAS: Adam at the server, with shorter steps where updates are late.

Y. Wang, S. Wang, S. Lu, J. Chen, "FADAS: Towards Federated Adaptive Asynchronous Optimization",
ICML 2024: AMSGrad over mean deltas, and a learning rate that is divided by the largest staleness in
the buffer where that exceeds ``patience`` (the paper's tau_c).

With m, v and t as in Adam, and each coordinate of ``most`` the largest v so far::

    params + rate * (m / (1 - beta1**t)) / (sqrt(most / (1 - beta2**t)) + epsilon)
    rate = learning_rate / max(staleness)  if max(staleness) > patience  else learning_rate

Works under masking: it needs the sum, and the base versions, which leases name.
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

_EPSILON = 1e-8


def fadas(
    *,
    learning_rate: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.99,
    patience: float = 3.0,
) -> Strategy:
    """Delay-adaptive Adam; ``patience`` in versions."""
    check_range("learning_rate", learning_rate, *LEARNING_RATES)
    check_range("beta1", beta1, 0.0, 0.9999)
    check_range("beta2", beta2, 0.0, 0.999999)
    check_range("patience", patience, 0.0, 1e6)

    def init(size: int) -> State:
        return {"m": np.zeros(size), "v": np.zeros(size), "most": np.zeros(size), "t": np.zeros(1)}

    def apply(
        params: Float32, mean_delta: Float64, state: State, counted: Counted
    ) -> tuple[Float64, State]:
        t = float(state["t"][0]) + 1
        m = beta1 * state["m"] + (1 - beta1) * mean_delta
        v = beta2 * state["v"] + (1 - beta2) * mean_delta**2
        most = np.maximum(state["most"], v)
        latest = max(counted.staleness, default=0)
        rate = learning_rate / latest if latest > patience else learning_rate
        scale = np.sqrt(most / (1 - beta2**t)) + _EPSILON
        after = {"m": m, "v": v, "most": most, "t": np.array([t])}
        return params + rate * (m / (1 - beta1**t)) / scale, after

    return Strategy(init, apply)
