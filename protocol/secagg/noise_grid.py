"""How much noise each device adds beneath its mask, so that any sum that is learned has enough.

P. Kairouz, Z. Liu, T. Steinke, "The distributed discrete Gaussian mechanism for federated learning
with secure aggregation", ICML 2021, without its rotation: elements are wide enough here. No sum is
learned over fewer than m devices, of which t may be malicious and leave their noise out, or know
it. So each adds enough for m - t of them to make up the whole: noise of sigma / sqrt(m - t). Sums
of discrete Gaussians are not discrete Gaussians, but from a sigma of 4 each on differ from them by
less than 1e-60 in rho (Theorem 1 there).
"""

from functools import lru_cache
from math import isqrt
from typing import Final, NamedTuple

import numpy as np

from protocol.errors import ConfigError
from protocol.noise import MAX_LOG_SIGMA, discrete_gaussian
from protocol.secagg.field import Elements

#: Below it, sums of discrete Gaussians need an account of their own.
MIN_LOG_SIGMA: Final = 2
#: Noise of so many sigma has its place beside the values: more has a chance of 1e-55.
TAIL: Final = 16
MILLI: Final = 1_000


class NoiseGrid(NamedTuple):
    """Values and noise are whole numbers of steps; a step is ``unit`` elements.

    An update is at most ``bound`` steps long in L2 norm; a device's noise has a standard deviation
    of 2**``log_sigma`` steps.
    """

    bound: int
    log_sigma: int
    unit: int

    def noisy(self, elements: Elements, seed: bytes, limit: int) -> Elements:
        """Return elements with fresh noise, within ``limit``; ``seed`` is for nothing else."""
        noise = discrete_gaussian(seed, self.log_sigma, elements.size)
        noisy: Elements = np.clip(elements + self.unit * noise, -limit, limit)
        return noisy


@lru_cache(maxsize=16)
def noise_grid(limit: int, num_honest: int, multiplier_milli: int) -> NoiseGrid:
    """The finest grid on which no element of an update is above ``limit``.

    The noise of ``num_honest`` devices is ``multiplier_milli`` thousandths of the bound together.
    Whole numbers only, as all parties must find the same. Raises ConfigError if there is no room.
    """
    for log_sigma in range(MAX_LOG_SIGMA, MIN_LOG_SIGMA - 1, -1):
        bound = isqrt(num_honest * MILLI**2 << 2 * log_sigma) // multiplier_milli
        most = bound + (TAIL << log_sigma)
        if most <= limit:
            return NoiseGrid(bound, log_sigma, limit // most)
    raise ConfigError(
        f"noise of {multiplier_milli / MILLI:g} times the clip has no room in elements up to"
        f" {limit}: use seedmask, lower the goal, or allow a larger epsilon"
    )
