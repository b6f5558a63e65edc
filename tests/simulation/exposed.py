"""Which sums of masks answers give away, by linear algebra over all answers of a history.

The argument. What a holder has answered are its shares' sums over sets of masks; the span V_h of
these sets' indicators is all that can be made of its answers. With T noise blocks, T shares of a
vector's sum say nothing. The t malicious holders are taken to give every share they have, so a
vector v of masks is *exposed* as soon as T + 1 - t honest holders have v in V_h. What is exposed
altogether is the span of all exposed vectors, and no vector in it may show fewer than
``min_contributors`` devices.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

import numpy as np

from tests.support.elimination import echelon, rank

#: The dealer's index and the mask's counter.
Mask = tuple[int, int]
Sum = frozenset[Mask]

_MODULUS = 65_521


def common_sums(spans: Sequence[Collection[Sum]]) -> set[Sum]:
    """Return the basis of what is in all of the spans, each spanned by disjoint sums.

    A vector in all of them is constant on every sum of every holder, and zero where one has none.
    """
    blocks = [set(each) for span in spans for each in span]
    joined: list[set[Mask]] = []
    for block in blocks:
        touching = [other for other in joined if other & block]
        joined = [other for other in joined if not other & block]
        joined.append(block.union(*touching))
    covered = [frozenset[Mask]().union(*span) for span in spans]
    return {frozenset(each) for each in joined if all(each <= cover for cover in covered)}


def exposed(answered: Iterable[Collection[Sum]], num_needed: int) -> set[Sum]:
    """Return sums that span what any ``num_needed`` of these honest holders expose."""
    spans = [frozenset(sums) for sums in answered if sums]
    found: set[Sum] = set()
    for chosen in {frozenset(combination) for combination in combinations(spans, num_needed)}:
        found |= common_sums(list(chosen))
    return found


def fewest_devices(sums: Collection[Sum]) -> int:
    """Return how many devices the vector of the fewest devices in the span of ``sums`` shows.

    Such a vector is zero on as many devices as possible: on a largest set of columns that still
    leaves a vector, whose rank is one less than all. A large number if there is nothing.
    """
    masks = sorted(frozenset[Mask]().union(*sums))
    if not masks:
        return 1 << 30
    # A device's masks in the same sums have the same column.
    shown: dict[tuple[int, ...], set[int]] = {}
    for dealer, counter in masks:
        column = tuple(int((dealer, counter) in each) for each in sums)
        shown.setdefault(column, set()).add(dealer)
    columns, dealers = np.array(list(shown), dtype=np.int64), list(shown.values())
    height = rank(columns, _MODULUS)
    fewest = len(masks)
    for zeros in combinations(range(len(columns)), height - 1):
        order = [*zeros, *(each for each in range(len(columns)) if each not in zeros)]
        reduced, found = echelon(columns[order].T, _MODULUS, height - 1)
        if found == height - 1:
            left = [dealers[order[at]] for at in np.flatnonzero(reduced[found:].any(axis=0))]
            fewest = min(fewest, len(set[int]().union(*left)))
    return fewest
