"""What releases cost, and what the sum of it means: rho of zCDP in, epsilon out.

Each release with Gaussian noise, continuous or discrete, of a sum that a device moves by C at most
and whose noise has the standard deviation z C costs that device ``rho = 1 / (2 z**2)`` (M. Bun, T.
Steinke, "Concentrated differential privacy", TCC 2016; discrete: C. Canonne, G. Kamath, T. Steinke,
NeurIPS 2020, Theorem 4). Costs add up, also where what is released next, and to whom, is chosen by
what was released before, as long as nobody goes beyond a bound that was fixed beforehand (V.
Feldman, T. Zrnic, "Individual privacy accounting via a Renyi filter", NeurIPS 2021; J. Whitehouse
et al., "Fully-adaptive composition in differential privacy", ICML 2023).

A release that a device took no part in costs it nothing. One that it took part in costs the full
price: that others might have been picked instead makes nothing cheaper here (docs/adr/0031).
"""

import math
from functools import lru_cache
from typing import Final

#: Nobody would call more than this private.
MAX_EPSILON: Final = 1e3
_STEPS: Final = 60


def cost(noise_multiplier: float) -> float:
    """Rho of one update in a release with this z; rounded up."""
    return math.nextafter(0.5 / noise_multiplier**2, math.inf)


@lru_cache(maxsize=256)
def epsilon(rho: float, delta: float) -> float:
    """The epsilon, at ``delta``, of all releases that cost a device ``rho``.

    By `dp_accounting`'s Renyi accountant: an upper bound, a tenth above the least at 2.
    """
    if rho <= 0:
        return 0.0
    # Takes a second to import, and is for tasks with a budget only.
    from dp_accounting import ZCDpEvent  # noqa: PLC0415
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    return float(RdpAccountant().compose(ZCDpEvent(rho)).get_epsilon(delta))


@lru_cache(maxsize=16)
def largest_rho(most_epsilon: float, delta: float) -> float:
    """The largest rho whose epsilon at ``delta`` is no larger; rounded down."""
    low, high = 0.0, most_epsilon + 1.0  # epsilon is above rho from 0 on
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if epsilon(middle, delta) <= most_epsilon:
            low = middle
        else:
            high = middle
    return low


def multiplier(rho: float, num_updates: int) -> float:
    """The z at which so many updates of a device cost ``rho``; rounded up."""
    return math.sqrt(num_updates / (2 * rho)) * (1 + 1e-9)
