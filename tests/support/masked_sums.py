"""A buffer of masked updates in memory: dealt, masked, added, answered for, unmasked."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from protocol.secagg import Scheme, scheme, shares
from protocol.secagg.field import Elements
from protocol.secagg.parameters import Parameters
from protocol.stream import Stream, derive
from tests.support.enrolment import parameters

SEED = bytes(range(32))
PUBLIC = derive(SEED, "public")


def cohort(name: str, num_devices: int, size: int = 2_500, bits: int = 18) -> Parameters:
    """Return checked parameters of which 30 % may drop out (rounded down; of 3 devices none)."""
    given = parameters(num_devices, scheme=name, size=size, bits=bits, samples_cap=100)
    answers = max(given.num_noise + 1, num_devices - 3 * num_devices // 10)
    given = parameters(
        num_devices, scheme=name, size=size, bits=bits, samples_cap=100, num_answers=answers
    )
    given.check()
    return given


def values_of(given: Parameters, device: int) -> Elements:
    """Return any values; those of the first elements are extreme, with the same sign everywhere."""
    stream = Stream(derive(SEED, "values", device))
    values = stream.integers(2 * given.limit + 1, given.size) - given.limit
    values[:3] = given.limit, -given.limit, 0
    values[-1] = given.step * (1 + int(stream.integers(given.levels, 1)[0]))
    return values


@dataclass(frozen=True)
class Dealt:
    """What a device has before it drops out or not: a secret, and everybody's shares of it."""

    secret: Elements
    shares: Elements


@lru_cache(maxsize=256)
def deal(given: Parameters, device: int) -> Dealt:
    """Return the one mask of a device."""
    chosen: Scheme = scheme(given.scheme)
    seed = derive(SEED, "mask", device)
    secret = chosen.secret(given, seed)
    return Dealt(secret, shares.deal(secret, chosen.sharing(given), seed))


def body_of(given: Parameters, dealt: Mapping[int, Dealt], device: int) -> bytes:
    """Return the masked update of a device."""
    values, seed = values_of(given, device), derive(SEED, "mask", device)
    return scheme(given.scheme).mask(given, PUBLIC, dealt[device].secret, values, seed)


def recovered(
    given: Parameters,
    dealt: Mapping[int, Dealt],
    contributors: Sequence[int],
    holders: Collection[int],
    weights: Sequence[int] | None = None,
) -> Elements:
    """Return the sum of the contributors' secrets, as the holders' answers give it."""
    chosen = scheme(given.scheme)
    sharing = chosen.sharing(given)
    answers = {
        holder: shares.add(
            np.stack([dealt[device].shares[holder] for device in contributors]),
            sharing.modulus,
            weights,
        )
        for holder in holders
    }
    return shares.recover(answers, sharing, chosen.secret_size(given)).secret


def masked_total(
    given: Parameters, dealt: Mapping[int, Dealt], contributors: Sequence[int]
) -> Elements:
    """Return the running sum of the contributors' updates."""
    total = np.zeros(given.size, np.int64)
    for device in contributors:
        scheme(given.scheme).add(given, total, body_of(given, dealt, device))
    return total


@dataclass(frozen=True)
class Story:
    """Who still was there: dealers, those of them that sent updates, those that answered."""

    dealers: list[int]
    contributors: list[int]
    holders: list[int]


def story(given: Parameters, stage: str, num_dropped: int) -> Story:
    """Return who is left if so many drop out at a stage; then exactly U of the others answer."""
    draw = random.Random(num_dropped)  # noqa: S311 - a sample of cases, not a secret
    everybody = list(range(given.num_devices))
    draw.shuffle(everybody)
    gone, left = everybody[:num_dropped], everybody[num_dropped:]
    dealers = left if stage == "before sharing" else everybody
    contributors = left if stage in ("before sharing", "after sharing") else everybody
    remaining = everybody if stage == "after answering" else left
    holders = draw.sample(remaining, given.num_answers)
    if stage == "after answering":
        holders = gone + [each for each in holders if each not in gone]
        holders = holders[: given.num_answers]
    return Story(dealers, contributors[: given.max_contributors], holders)


def sums_of(given: Parameters, left: Story) -> tuple[Elements, Elements]:
    """Return what the aggregator unmasks, and the sum of the plain values."""
    dealt = {device: deal(given, device) for device in left.dealers}
    total = masked_total(given, dealt, left.contributors)
    secret = recovered(given, dealt, left.contributors, left.holders)
    chosen = scheme(given.scheme)
    sums = chosen.unmask(given, PUBLIC, total, len(left.contributors), secret)
    plain = [values_of(given, device) for device in left.contributors]
    return sums, np.sum(plain, axis=0)


STAGES = ("before sharing", "after sharing", "after upload", "after answering")
COHORTS = (3, 10, 50, 100)
RATES = (0, 15, 30)


def num_dropped(given: Parameters, percent: int) -> int:
    """Return how many drop out at that rate: no more than leave U."""
    return min(percent * given.num_devices // 100, given.num_devices - given.num_answers)
