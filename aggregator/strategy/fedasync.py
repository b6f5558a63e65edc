"""FedAsync: each update moves the model at once, towards what its device trained.

C. Xie, S. Koyejo, I. Gupta, "Asynchronous Federated Optimization", 2019, Algorithm 1: with a base
of staleness s, ``params = (1 - a) params + a (base + delta)`` where ``a = alpha * weight(s)`` and
the weight is one of section 5's (`protocol.staleness`): constant, polynomial or hinge. What others
did since the base is undone by as much, which is the difference to FedBuff with a goal of 1.

Does not work under masking: it takes updates one at a time, and the sum of one shows it.
"""

from aggregator.strategy import (
    Counted,
    Float32,
    Float64,
    State,
    Strategy,
    check_range,
)


def fedasync(*, alpha: float = 0.6) -> Strategy:
    """``params + alpha * weight * (drift + delta)``; the paper's alpha is 0.6."""
    check_range("alpha", alpha, 1e-6, 1.0)

    def apply(
        params: Float32, mean_delta: Float64, state: State, counted: Counted
    ) -> tuple[Float64, State]:
        if counted.drift is None:
            raise ValueError("fedasync needs the params that the device started from")
        return params + alpha * counted.weight * (counted.drift + mean_delta), state

    return Strategy(
        lambda _size: {},
        apply,
        drifts=True,
        unmaskable="it takes updates one at a time, and a sum of one hides nothing",
    )
