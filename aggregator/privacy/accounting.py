"""What was spent, and what that means: rho of zCDP in, epsilon out.

Each release with Gaussian noise, continuous or discrete, of a sum that a device moves by C at most
and whose noise has the standard deviation z C costs that device ``rho = 1 / (2 z**2)`` (M. Bun, T.
Steinke, "Concentrated differential privacy", TCC 2016; discrete: C. Canonne, G. Kamath, T. Steinke,
NeurIPS 2020, Theorem 4). Costs add up, also where what is released next, and to whom, is chosen by
what was released before, as long as nobody goes beyond a bound that was fixed beforehand (V.
Feldman, T. Zrnic, "Individual privacy accounting via a Renyi filter", NeurIPS 2021; J. Whitehouse
et al., "Fully-adaptive composition in differential privacy", ICML 2023).

A release that a device took no part in costs it nothing. One that it took part in costs the full
price: that others might have been picked instead makes nothing cheaper here (docs/adr/0031).

Rho is counted in billionths, whole ones, and rounded against the task: sums have no error.
"""

import math
from functools import lru_cache
from typing import Final

from protocol.noise import cost_nano

#: Nobody would call more than this private.
MAX_EPSILON: Final = 1e3
NANO: Final = 1_000_000_000


@lru_cache(maxsize=256)
def epsilon(rho_nano: int, delta: float) -> float:
    """The epsilon, at ``delta``, of all releases that cost a device so much.

    By `dp_accounting`'s Renyi accountant: an upper bound, a tenth above the least at 2.
    """
    if rho_nano <= 0:
        return 0.0
    # Takes a second to import, and is for tasks with a budget only.
    from dp_accounting import ZCDpEvent  # noqa: PLC0415
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    return float(RdpAccountant().compose(ZCDpEvent(rho_nano / NANO)).get_epsilon(delta))


@lru_cache(maxsize=16)
def largest_rho(most_epsilon: float, delta: float) -> int:
    """The largest rho whose epsilon at ``delta`` is no larger; 0 if there is none."""
    low, high = 0, int((most_epsilon + 1.0) * NANO)  # epsilon is above rho
    while high - low > 1:
        middle = (low + high) // 2
        if epsilon(middle, delta) <= most_epsilon:
            low = middle
        else:
            high = middle
    return low


def multiplier_milli(rho_nano: int, num_updates: int) -> int:
    """The least noise multiplier, in thousandths, at which so many updates cost no more.

    0 if no multiplier is large enough.
    """
    each = rho_nano // num_updates
    if not each:  # none costs less than one billionth
        return 0
    least_square = -(-cost_nano(1) // each)
    return math.isqrt(least_square - 1) + 1
