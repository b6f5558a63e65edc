"""Stratified buffers: a step as if each group of devices had sent its part of the buffer.

Devices are grouped by pace (`aggregator.strata`): how many versions pass between their updates, to
the nearest power of 4. Fast groups send more of a buffer than they are of the fleet; with g_k what
part of the fleet group k is, b_k its part of the buffer, and h_k a running mean of its deltas::

    v = mean + strength * sum((g_k - b_k) h_k)

The sum is what the buffer's mean lacks of the fleet's, known from earlier buffers. This is the
calibration of CA2FL (Y. Wang et al., ICLR 2024: `aggregator.strategy.ca2fl`) as a control variate
by strata: one vector for each group instead of one for each device, which a device that has never
been seen is helped by, too. ``strength`` below 1 because h_k is late: at 1 the slow groups' old
deltas overshoot where local training goes far (docs/adr/0022 has the measurements).

Does not work under masking: the aggregator must see which part of the sum is whose.
"""

from collections.abc import Mapping

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


def stratified(*, learning_rate: float = 1.0, strength: float = 0.5) -> Strategy:
    """``params + learning_rate * v``; ``strength`` 0 is FedBuff."""
    check_range("learning_rate", learning_rate, *LEARNING_RATES)
    check_range("strength", strength, 0.0, 1.0)

    def apply(
        params: Float32, mean_delta: Float64, state: State, counted: Counted
    ) -> tuple[Float64, State]:
        if counted.lacking is None:
            raise ValueError("stratified needs what the buffer lacks of the fleet")
        return params + learning_rate * (mean_delta + strength * counted.lacking), state

    return Strategy(
        lambda _size: {},
        apply,
        strata=True,
        unmaskable='it groups single updates by their devices\' pace: use "calibrated"',
    )


def lacking(
    means: Mapping[int, Float64], fleet: Mapping[int, float], buffer: Mapping[int, float], size: int
) -> Float64:
    """Return the sum of (g_k - b_k) h_k, over the groups that have a mean, of ``size`` values.

    ``fleet`` and ``buffer`` have each group's weight, in any unit; above 0.
    """
    total = np.zeros(size)
    known = sum(weight for group, weight in fleet.items() if group in means)
    whole = sum(buffer.values())
    part = sum(weight for group, weight in buffer.items() if group in means) / whole
    for group, mean in means.items():
        of_fleet = part * fleet.get(group, 0.0) / known if known else 0.0
        total += (of_fleet - buffer.get(group, 0.0) / whole) * mean
    return total
