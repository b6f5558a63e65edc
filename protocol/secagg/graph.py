"""Who masks with whom: everybody up to 50 devices, beyond that a k-regular graph (SecAgg+).

Bell et al., CCS 2020: masks and shares go to k neighbours instead of to all. Ours is a Harary
graph: the devices stand in a ring, in an order drawn from a public seed, and a device's neighbours
are the k / 2 next to it on either side.

Bell et al. bound the chance that dropouts and malicious devices happen to isolate somebody. A
malicious aggregator does not wait for chance: it chooses who "dropped". In a ring this can be ruled
out exactly. What is left of it falls apart only where two runs of k / 2 neighbouring places are
empty; so if no two such runs together hold at most t survivors, then no t malicious devices can cut
the others in two, wherever they are. Devices check that (`Graph.is_cuttable`) before they answer,
and the probability of an isolated honest part is zero, not 2**-40.

What is left to chance is whether a round completes when N - U devices drop out at random, and k is
the smallest degree for which it fails to with a probability of at most 2**-30 (exact hypergeometric
tails, union bound).
"""

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb
from typing import Final

import numpy as np

from protocol.stream import Stream

COMPLETE_UP_TO: Final = 50
MAX_FAILURE: Final = Fraction(1, 1 << 30)


@dataclass(frozen=True, slots=True)
class Graph:
    """Devices in their order around the ring; each has the ``degree`` nearest as neighbours.

    ``threshold`` is the number of holders that rebuild a secret of a device.
    """

    ring: tuple[int, ...]
    degree: int
    threshold: int

    def holders(self, device: int) -> tuple[int, ...]:
        """Return who holds shares of ``device``, sorted: its neighbours and itself."""
        size = len(self.ring)
        if self.degree == size - 1:
            return tuple(range(size))
        place, half = self.ring.index(device), self.degree // 2
        near = range(place - half, place + half + 1)
        return tuple(sorted(self.ring[other % size] for other in near))

    def is_cuttable(self, survivors: Collection[int], num_malicious: int) -> bool:
        """Say whether ``num_malicious`` of the survivors could part the others (see above)."""
        size, half = len(self.ring), self.degree // 2
        if self.degree == size - 1:
            return False
        alive = np.isin(self.ring, tuple(survivors)).astype(np.int64)
        in_run = sum(np.roll(alive, -place) for place in range(half))
        apart = range(half + 1, size - half)  # a place or more between the two runs, on both sides
        return any(bool((in_run + np.roll(in_run, -gap) <= num_malicious).any()) for gap in apart)


@lru_cache(maxsize=8)
def graph(seed: bytes, num_devices: int, num_malicious: int, num_answers: int) -> Graph:
    """Return the graph of one round, the same for everybody who knows the public ``seed``."""
    degree, threshold = plan(num_devices, num_malicious, num_answers)
    ring = tuple(int(device) for device in Stream(seed).permutation(num_devices))
    return Graph(ring, degree, threshold)


@lru_cache(maxsize=8)
def plan(num_devices: int, num_malicious: int, num_answers: int) -> tuple[int, int]:
    """Return degree and threshold for N devices, t malicious, U that stay to the end.

    Complete graph: a threshold above (N + t) / 2, as in Bonawitz et al. Otherwise the largest up to
    that majority of the holders which enough of them survive to reach, and always above t.
    """
    if num_devices > COMPLETE_UP_TO:
        for degree in range(2, num_devices - 1, 2):
            if _cut_probability(num_devices, num_malicious, num_answers, degree) > MAX_FAILURE:
                continue
            threshold = _threshold(num_devices, num_malicious, num_answers, degree)
            if threshold > num_malicious:
                return degree, threshold
    return num_devices - 1, _majority(num_devices, num_malicious)


def _majority(num_holders: int, num_malicious: int) -> int:
    return (num_holders + num_malicious) // 2 + 1


def _threshold(num_devices: int, num_malicious: int, num_answers: int, degree: int) -> int:
    threshold = min(degree, _majority(degree + 1, num_malicious))
    # The worst case for a device's secrets is that all who drop out are others.
    others, alive = num_devices - 1, num_answers - 1
    while num_devices * few_left(others, alive, degree, threshold - 1) > MAX_FAILURE:
        threshold -= 1
    return threshold


def _cut_probability(
    num_devices: int, num_malicious: int, num_answers: int, degree: int
) -> Fraction:
    num_pairs = num_devices * (num_devices - degree - 1) // 2
    return num_pairs * few_left(num_devices, num_answers, degree, num_malicious)


def few_left(num_devices: int, num_alive: int, num_chosen: int, at_most: int) -> Fraction:
    """P(at most that many of ``num_chosen`` devices are alive): the hypergeometric tail, exact."""
    num_dropped = num_devices - num_alive
    ways = sum(
        comb(num_alive, alive) * comb(num_dropped, num_chosen - alive)
        for alive in range(min(at_most, num_chosen) + 1)
    )
    return Fraction(ways, comb(num_devices, num_chosen))
