"""Calibrated buffers: fast devices do not outvote the others.

CA2FL: Y. Wang, Y. Cao, J. Wu, R. Chen, J. Chen, "Tackling the Data Heterogeneity in Asynchronous
Federated Learning with Cached Update Calibration", ICLR 2024, with the cache on the device: device
i keeps h_i, its last counted delta, and uploads delta_i - h_i. The server needs one vector, the sum
of all h_i, and a plain unweighted sum of what is uploaded.

With K updates in the buffer, A their sum, N devices that had one counted before, and K' of the K
updates of such devices::

    v = (K' / K) sum(h) / N + A / K     the step
    sum(h) += A                         since each h_i becomes delta_i

Where all have been seen (K' = K) this is the paper's. A device's first update is no difference and
counts as it is, so that a fleet of which nobody has been seen makes FedBuff's steps. (The paper's,
with h_i = 0 for all N, are short then; with K' = K ours would be twice too long.)

Works under masking: whose updates are in a sum is known, and all of them weigh the same.
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


def calibrated(*, learning_rate: float = 1.0) -> Strategy:
    """``params + learning_rate * v``."""
    check_range("learning_rate", learning_rate, *LEARNING_RATES)

    def init(size: int) -> State:
        return {"sum": np.zeros(size), "num_devices": np.zeros(1)}

    def apply(
        params: Float32, mean_delta: Float64, state: State, counted: Counted
    ) -> tuple[Float64, State]:
        num_before = float(state["num_devices"][0])
        num_again = counted.num_updates - (counted.num_devices - num_before)
        known = state["sum"] / max(1.0, num_before)
        step = mean_delta + known * (num_again / counted.num_updates)
        after = {
            "sum": state["sum"] + mean_delta * counted.num_updates,
            "num_devices": np.array([float(counted.num_devices)]),
        }
        return params + learning_rate * step, after

    return Strategy(init, apply, calibrated=True, plain_sum=True)
