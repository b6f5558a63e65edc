"""Group testing: who spoils the groups it is in, from tests of groups alone.

M. Xhemrishi, J. Ostman, A. Wachter-Zeh, A. Graell i Amat, "FedGT: Identification of Malicious
Clients in Federated Learning with Secure Aggregation", IEEE Transactions on Information Forensics
and Security 20, 2025. FedGT draws overlapping groups in one round from the parity-check matrix of
a code (`bch_groups`), calls a group positive if its model is bad, and decodes who is malicious
(`posterior`). Here the groups of successive buffers, which are drawn anew each time
(`protocol.secagg.groups`), are the rows of the matrix, and nobody is in two sums of one round.

Positive or not is little to know of a group when there are few in a buffer. To the first order a
group's mean changes the loss by the mean of what its members' updates would. So `influence` takes
by how much each group did (`harm`), and finds that of the devices by least squares; `suspicion`
says whose is worse than the others', and how sure that is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.robust import Float64

Membership = npt.NDArray[np.bool_]
Outcomes = npt.NDArray[np.bool_]

#: 2^N sets of devices are gone through; more take too long.
MOST_EXACT: Final = 18
#: Rounds of belief propagation; how much of the last messages is kept, so that they settle.
_ROUNDS: Final = 50
_KEPT: Final = 0.5
#: No probability is nearer to 0 or 1 than this.
_LEAST: Final = 1e-9
#: Ridge, as a part of how often a device is tested on average: only so much that devices which were
#: never tested apart have errors, large ones, instead of none.
_RIDGE: Final = 1e-3
#: A device is suspected beyond so many standard deviations.
_DEVIATIONS: Final = 2.0
#: Nor if its updates alone would do less than a tenth more `harm` than the others': near the end
#: of training even honest updates do a little, some device always most, and significantly once
#: there are enough tests.
_HARM: Final = 0.1
#: No group does more than this, or it would hide in its own noise what others do (in logarithms).
_MOST_HARM: Final = 1.0
#: What is added to losses before they are compared, as a part of an untrained model's.
_FLOOR: Final = 1 / 3
#: A standard normal number deviates so many times its median deviation.
_MAD: Final = 1.4826
#: Where the parity checks of the binary BCH code (15, 7) have ones: 1 + x + x^3 + x^7, shifted.
_BCH_15_7: Final = (0, 1, 3, 7)
_BCH_TESTS: Final = 8


@dataclass(frozen=True, slots=True)
class Noise:
    """How good tests are: ``prevalence``, the part of devices that is malicious beforehand.

    ``false_alarm``: how often a group of honest devices is positive; ``miss``: how often one with
    a malicious device is negative.
    """

    prevalence: float = 0.1
    false_alarm: float = 0.05
    miss: float = 0.2

    def likelihoods(self, outcomes: Outcomes) -> tuple[Float64, Float64]:
        """Return the probability of each outcome if all are honest, and if one or more is not."""
        clean = np.where(outcomes, self.false_alarm, 1.0 - self.false_alarm)
        spoilt = np.where(outcomes, 1.0 - self.miss, self.miss)
        return clean, spoilt


def posterior(groups: Membership, outcomes: Outcomes, noise: Noise) -> Float64:
    """Return the probability (N,) that each device is malicious.

    ``groups`` (T, N) has who was in each test, ``outcomes`` (T,) whether it was positive.
    """
    if groups.shape[1] <= MOST_EXACT:
        return _enumerated(groups, outcomes, noise)
    return _propagated(groups, outcomes, noise)


def _enumerated(groups: Membership, outcomes: Outcomes, noise: Noise) -> Float64:
    num_devices = groups.shape[1]
    sets = np.arange(1 << num_devices, dtype=np.int64)
    bits = np.int64(1) << np.arange(num_devices, dtype=np.int64)
    clean, spoilt = (np.log(each) for each in noise.likelihoods(outcomes))
    odds = np.log(noise.prevalence / (1.0 - noise.prevalence))
    weights = np.zeros(len(sets))
    for bit in bits:
        weights += odds * ((sets & bit) != 0)
    for test, members in enumerate(groups):
        hit = (sets & bits[members].sum()) != 0
        weights += np.where(hit, spoilt[test], clean[test])
    weights = np.exp(weights - weights.max())
    weights /= weights.sum()
    return np.array([weights[(sets & bit) != 0].sum() for bit in bits])


def _propagated(groups: Membership, outcomes: Outcomes, noise: Noise) -> Float64:
    """Sum-product on the bipartite graph of tests and devices; messages are log odds (T, N)."""
    clean, spoilt = (each[:, None] for each in noise.likelihoods(outcomes))
    prior = np.log(noise.prevalence / (1.0 - noise.prevalence))
    to_devices = np.zeros(groups.shape)
    for _ in range(_ROUNDS):
        to_tests = prior + to_devices.sum(axis=0) - to_devices
        honest = np.where(groups, _honest(to_tests), 1.0)
        others = honest.prod(axis=1, keepdims=True) / honest
        if_honest = clean * others + spoilt * (1.0 - others)
        fresh = np.where(groups, np.log(spoilt) - np.log(if_honest), 0.0)
        to_devices = _KEPT * to_devices + (1.0 - _KEPT) * fresh
    return np.asarray(1.0 - _honest(prior + to_devices.sum(axis=0)))


def _honest(log_odds: Float64) -> Float64:
    """Return the probability of being honest from log odds of being malicious."""
    return np.asarray(np.clip(1.0 / (1.0 + np.exp(np.clip(log_odds, -50, 50))), _LEAST, 1 - _LEAST))


def stand_out(badness: Sequence[float], times: float) -> Outcomes:
    """Return which of the groups of one buffer are worse than usual, as `Outcomes`.

    ``badness``, of whatever kind, is larger the worse; a group stands out if it is above the median
    by more than ``times`` the usual deviation. With most groups alike to the bit, any other does.
    """
    values = np.asarray(badness, np.float64)
    above = values - np.median(values)
    usual = _MAD * float(np.median(np.abs(above)))
    return np.asarray(above > max(times * usual, 1e-12))


def harm(loss: float, before: float, untrained: float) -> float:
    """Return how much worse a loss is than the one before: a logarithm, below 0 if it is better.

    Both are counted with a third of the loss of an ``untrained`` model on top. Without that, the
    last hundredth to be learned would weigh as the first half, and at the end of training honest
    updates look like attacks. From -1 to 1.
    """
    floor = _FLOOR * untrained
    change = math.log((loss + floor) / (before + floor))
    return min(max(change, -_MOST_HARM), _MOST_HARM)


class Influence(NamedTuple):
    """By how much the loss grows with each device's updates (N,), and the standard errors (N,)."""

    effects: Float64
    errors: Float64


def influence(groups: Membership, changes: Float64) -> Influence:
    """Return the devices' part in what happened to the loss.

    ``groups`` (T, N) has who was in each group, ``changes`` (T,) the `harm` that its mean does.
    Ridge regression towards the mean change. Devices that were always together share what they did,
    and their errors are so large that nothing is sure of either.
    """
    num_tests, num_devices = groups.shape
    shares = groups / groups.sum(axis=1, keepdims=True)
    common = float(changes.mean())
    squares = shares.T @ shares
    ridge = _RIDGE * np.trace(squares) / num_devices * np.eye(num_devices)
    inverse = np.linalg.inv(squares + ridge)
    effects = common + inverse @ (shares.T @ (changes - common))
    missed = changes - shares @ effects
    variance = float(missed @ missed) / max(1, num_tests - num_devices)
    return Influence(effects, np.sqrt(np.diag(inverse) * variance))


def suspicion(found: Influence) -> Float64:
    """Return how sure it is that a device does harm, (N,): standard errors beyond the limit, or 0.

    Above 0 are devices that make the loss worse significantly, unlike the others, and much: the
    first two limits are at two standard deviations. Where the others differ much among themselves,
    as people do, the limit is as far out. docs/adr/0030 has what that finds and mistakes.
    """
    effects, errors = found
    above = effects - np.median(effects)
    usual = _MAD * float(np.median(np.abs(above)))
    limit = max(_DEVIATIONS * usual, _HARM)
    harms = (effects > _DEVIATIONS * errors) & (above > limit)
    return np.where(harms, (above - limit) / np.maximum(errors, _LEAST), 0.0)


def bch_groups() -> Membership:
    """Return FedGT's groups of 15 devices (8, 15): the parity checks of the BCH code (15, 7).

    Each has four devices, and no sum over fewer can be computed from theirs.
    """
    groups = np.zeros((_BCH_TESTS, 15), np.bool_)
    for test in range(_BCH_TESTS):
        groups[test, [test + place for place in _BCH_15_7]] = True
    return groups
