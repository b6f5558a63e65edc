"""``trust``, lasting: whom the search for attackers throws out in hundreds of buffers.

As ``naming``, with the book that quarantines (`aggregator.conduct`): devices with skewed digits,
Dirichlet(1.0), (0.3) and (0.1), and the phones of 17 people; without any attacker, and with two
that begin to train on flipped labels in the middle. How sure the watch ever was of an honest
device is in standard errors beyond its limit; at `SURE` it is quarantined.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Final

import numpy as np

from aggregator.conduct.book import Book
from aggregator.conduct.config import ConductConfig
from aggregator.conduct.evidence import GROUP_INFLUENCE, WEIGHTS
from aggregator.records import Standing
from aggregator.robust.group_watch import GroupWatch
from benchmarks.report import Report, figure, within
from benchmarks.trust_groups import Fleet, people_fleet
from benchmarks.trust_naming import GROUP, GROUPS, NUM_TESTED, Federation, drawn
from benchmarks.trust_setups import has_people
from benchmarks.wire import PLAIN, digits_task
from device_sdk.trainer import NumpyTrainer
from fedbus.datasets import load, split
from simulator.attackers import flipped

PEOPLE: Final = "people"
FLEETS: Final = ("1.0", "0.3", "0.1", PEOPLE)
ROUNDS: Final = 200
SEEDS: Final = range(2)
NUM_FLIPPERS: Final = 2
SURE: Final = ConductConfig().threshold / WEIGHTS[GROUP_INFLUENCE].points


@dataclass(frozen=True, slots=True)
class Lasted:
    """Who was thrown out, and how sure the watch was of any honest device at most."""

    honest: int
    flippers: int
    most_sure: float


def measure(*, quick: bool) -> Report:
    """Measure all; quick: one short federation."""
    if quick:
        return {FLEETS[0]: _report([lasting(0, FLEETS[0], 0, 2)], [])}
    fleets = [name for name in FLEETS if name != PEOPLE or has_people()]
    return {
        "rounds": ROUNDS,
        "quarantined_from": SURE,
        **{name: of_fleet(name, SEEDS, ROUNDS) for name in fleets},
    }


def of_fleet(name: str, seeds: Sequence[int], rounds: int) -> Report:
    """Return what becomes of a fleet, without attackers and with them."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        run = partial(lasting, name=name, rounds=rounds)
        clean = list(pool.map(partial(run, count=0), seeds))
        attacked = list(pool.map(partial(run, count=NUM_FLIPPERS), seeds))
    return _report(clean, attacked)


def _report(clean: Sequence[Lasted], attacked: Sequence[Lasted]) -> Report:
    return {
        "honest_quarantined": within(sum(each.honest for each in (*clean, *attacked)), 0),
        "most_sure_of_honest": [figure(each.most_sure) for each in (*clean, *attacked)],
        "flippers_quarantined": [each.flippers for each in attacked],
    }


def lasting(seed: int, name: str, count: int, rounds: int) -> Lasted:
    """Run one federation; ``count`` devices flip labels from the middle on."""
    fleet = people_fleet(seed) if name == PEOPLE else _skewed(float(name), seed)
    federation = Federation(fleet.config, fleet.devices, fleet.held_out, seed)
    flippers = drawn(len(fleet.devices), count, seed)
    watch = GroupWatch()
    book = Book(ConductConfig(), max_devices=len(fleet.devices), update_bytes=1)
    most_sure = 0.0
    for number in range(rounds):
        if number == rounds // 2:
            for place in flippers:
                part = fleet.devices[place]
                labels = flipped(part.y, int(fleet.held_out.y.max()) + 1).astype(np.int64)
                federation.trainers[place] = NumpyTrainer(data=(part.x, labels))
        groups = federation.groups(*federation.deltas(), GROUP)
        for device, sure in watch.seen(federation.trials(groups)).items():
            book.hold(device, GROUP_INFLUENCE, sure)
            if int(device) not in flippers:
                most_sure = max(most_sure, sure)
            if book.standing(device) is Standing.QUARANTINED:
                watch.forget(device)
        federation.step(GROUPS, groups)
    out = {int(record.device) for record in book.standings}
    return Lasted(len(out - flippers), len(out & flippers), most_sure)


def _skewed(alpha: float, seed: int) -> Fleet:
    digits = load(None)
    parts = split(digits, devices=NUM_TESTED, alpha=alpha, seed=seed)
    return Fleet(digits_task(PLAIN, digits, seed), parts.devices, parts.held_out)
