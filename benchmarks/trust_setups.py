"""Fleets under attack: who has what, and what the operator has of its own.

- digits: 24 devices, Dirichlet(1) over labels; skewed: Dirichlet(0.3). wearables: a device for each
  of 17 people, tested on 6 others; operator: one of these is the operator, the others are tested
  on. Asynchronous as by default: buffers of 10, stratified, the default codec; trainings take
  U(1, 5) s.
- paces: the set-up of `benchmarks.fleet_setups` in which slow devices hold other data, for what a
  rule costs where honest minorities look like liars.

All but wearables have a root set for FLTrust that is neither a device's nor tested on: 100 digits,
of those held out; the operator's windows.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import async_time, fleet_setups
from benchmarks.fleet_setups import Samples, Setup
from benchmarks.learning import wearables_folder
from examples import wearables

NUM_DEVICES: Final = 24
#: Of the labels among devices: as in the cited table, and what is harder.
ALPHA: Final = 1.0
SKEWED: Final = 0.3
MIN_SAMPLES: Final = 8
TIMES_S: Final = (1.0, 5.0)
#: Digits in the root set: as many as in FLTrust's paper.
NUM_ROOT: Final = 100
#: Who is the operator, of the people held out.
OPERATOR: Final = wearables.HELD_OUT[0]


def digits(seed: int, alpha: float = ALPHA) -> Setup:
    """24 devices whose labels are skewed."""
    x, y = async_time.digits()
    train, rows = async_time.split(seed)
    shards = tuple(Samples(x[mine], y[mine]) for mine in _dealt(train, y[train], seed, alpha))
    root, held_out = _without_root(Samples(x[rows], y[rows]), seed)
    return _alike(async_time.MODEL, async_time.TRAINING, shards, held_out, root)


def paces(seed: int) -> Setup:
    """20 devices, of which 6 are slow and have other digits."""
    setup = fleet_setups.digits(seed)
    root, held_out = _without_root(setup.held_out, seed)
    slow = np.isin(held_out.y, async_time.SLOW_CLASSES)
    return replace(
        setup, held_out=held_out, slow=Samples(held_out.x[slow], held_out.y[slow]), root=root
    )


def _without_root(held_out: Samples, seed: int) -> tuple[Samples, Samples]:
    """Return the operator's samples, and the others."""
    order = np.random.default_rng([seed, 6]).permutation(len(held_out.y))
    mine, others = order[:NUM_ROOT], order[NUM_ROOT:]
    return (
        Samples(held_out.x[mine], held_out.y[mine]),
        Samples(held_out.x[others], held_out.y[others]),
    )


def _dealt(
    train: async_time.Labels, labels: async_time.Labels, seed: int, alpha: float
) -> list[async_time.Labels]:
    rng = np.random.default_rng([seed, 4])
    while True:
        places = np.empty(train.size, np.int64)
        for label in range(10):
            mine = np.flatnonzero(labels == label)
            shares = rng.dirichlet(np.full(NUM_DEVICES, alpha))
            places[mine] = rng.choice(NUM_DEVICES, mine.size, p=shares)
        if np.bincount(places, minlength=NUM_DEVICES).min() >= MIN_SAMPLES:
            return [train[places == device] for device in range(NUM_DEVICES)]


def people(_seed: int) -> Setup:
    """The phone of each person; windows that do not overlap."""
    shards = tuple(windows((person,)) for person in wearables.PEOPLE)
    held_out = windows(wearables.HELD_OUT)
    return _alike(wearables.MODEL, wearables.TRAINING, shards, held_out, None)


def people_of_operator(seed: int) -> Setup:
    """The same, tested on fewer, as one is the operator."""
    held_out = windows(tuple(who for who in wearables.HELD_OUT if who != OPERATOR))
    return replace(people(seed), held_out=held_out, slow=held_out, root=windows((OPERATOR,)))


def has_people() -> bool:
    """Whether their recordings are there."""
    return _phones().exists()


def _phones() -> Path:
    return wearables_folder() / "har_phone.npz"


def windows(who: tuple[int, ...]) -> Samples:
    """Return what the phones of some people recorded."""
    found = wearables.recordings(_phones(), who)
    return Samples(found.x[:: fleet_setups.OVERLAP], found.y[:: fleet_setups.OVERLAP])


def _alike(
    model: Mapping[str, object],
    training: Mapping[str, object],
    shards: tuple[Samples, ...],
    held_out: Samples,
    root: Samples | None,
) -> Setup:
    """Return a set-up of devices that are all of the same pace."""
    speeds = (TIMES_S,) * len(shards)
    return Setup(model, training, shards, speeds, held_out, held_out, 1.0, goal=10, root=root)


SETUPS: Final[Mapping[str, Callable[[int], Setup]]] = {
    "digits": digits,
    "skewed": lambda seed: digits(seed, SKEWED),
    "wearables": people,
    "operator": people_of_operator,
    "paces": paces,
}
