"""``trust``, groups: attackers under masking, in groups whose sums a robust rule compares.

Whole secure federations in virtual time with the product's own sessions and coordinator
(`simulator`), rounds of everybody, `seedmask`. Attackers, drawn by the seed, send their delta times
-5 or -10, and may claim as many samples as count. In groups of three, and as one sum.

``digits``: 24 devices, label skew Dirichlet(1.0), 8 % attackers. ``people``: the phones of 17
people (`benchmarks.trust_setups`), one or two of them attackers: 6 %, or 12 %, which is more than
the configuration takes for groups of three. Judged by what is left of the accuracy without attack.

``limit``: four such devices in groups of four, which the configuration refuses: what would come of
it. In the clear, since a masked sum differs by its noise only.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from aggregator.robust.config import RobustConfig
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from aggregator.task_config import TaskConfig
from benchmarks import trust_setups
from benchmarks.masked_world import DURATION_S, secure_world
from benchmarks.report import Report, Value, figure, within
from benchmarks.trust_naming import GROUPS, Federation, drawn
from benchmarks.wire import PLAIN, accuracy_after, digits_task
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer
from fedbus.datasets import Dataset, Part, load, split
from simulator.attackers import lie

NUM_DEVICES: Final = 24
NUM_ATTACKERS: Final = 2
ALPHA: Final = 1.0
VERSIONS: Final = 40
SEEDS: Final = 3
#: More samples than count.
CLAIM: Final = 1_000_000
#: What masked values are cut to.
CLIP: Final = SecureConfig().clip
#: t of the roster: in groups of three no two devices may be in league with the aggregator.
MALICIOUS: Final = 1
MEAN: Final = RobustConfig(rule="mean")
RULES: Final = {"groups": GROUPS, "mean": MEAN}
GROUPS_REACH: Final = 0.90
MEAN_REACH: Final = 0.75
#: Of the accuracy without attack: about what these are of that of digits.
GROUPS_KEPT: Final = 0.95
MEAN_KEPT: Final = 0.79


class Kind(NamedTuple):
    """An attack: how many turn their delta round, how many times as long, and what they claim."""

    attackers: int = NUM_ATTACKERS
    strength: float = 5.0
    claim: int = 0


NO_ATTACK: Final = "none"
STRONG: Final = "sign flip x 10"
ALONE: Final = "one sign flip x 10"
KINDS: Final[Mapping[str, Kind]] = {
    NO_ATTACK: Kind(attackers=0),
    "sign flip x 5": Kind(),
    STRONG: Kind(strength=10.0),
    "sign flip x 5, many samples": Kind(claim=CLAIM),
    ALONE: Kind(attackers=1, strength=10.0),
}
OF_DIGITS: Final = tuple(kind for kind in KINDS if kind != ALONE)
OF_PEOPLE: Final = (NO_ATTACK, ALONE, STRONG)


class Fleet(NamedTuple):
    """A task, who learns it in rounds of everybody, and what it is tested on."""

    config: TaskConfig
    devices: Sequence[Part]
    held_out: Part


class Job(NamedTuple):
    """What a process of the pool does."""

    fleet: str
    kind: str
    rule: str
    seed: int
    versions: int


def measure(*, quick: bool) -> Report:
    """Measure all. Quick: one seed, two versions, the strong attack on digits only."""
    seeds = range(1 if quick else SEEDS)
    versions = 2 if quick else VERSIONS
    rows = [("digits", kind) for kind in ((STRONG,) if quick else OF_DIGITS)]
    if trust_setups.has_people() and not quick:
        rows += [("people", kind) for kind in OF_PEOPLE]
    found = _ran(rows, seeds, versions)
    return {
        "N, t": [NUM_DEVICES, MALICIOUS],
        "versions": versions,
        "digits": {kind: _judged(found[fleet, kind]) for fleet, kind in rows if fleet == "digits"},
        **({"people": _of_people(found)} if ("people", STRONG) in found else {}),
        "limit": _limit(load(None), seeds, versions),
    }


#: Of fleet and attack: by rule, the accuracy of each seed.
Found = Mapping[tuple[str, str], Mapping[str, Sequence[float]]]


def _ran(rows: Sequence[tuple[str, str]], seeds: Sequence[int], versions: int) -> Found:
    jobs = [Job(*row, rule, seed, versions) for row in rows for rule in RULES for seed in seeds]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        accuracies = dict(zip(jobs, pool.map(masked, jobs), strict=True))
    return {
        row: {
            rule: [accuracies[Job(*row, rule, seed, versions)] for seed in seeds] for rule in RULES
        }
        for row in rows
    }


def _judged(found: Mapping[str, Sequence[float]]) -> Report:
    """Return the accuracy of each seed, and whether the medians are as far apart as they should."""
    groups, mean = median(found["groups"]), median(found["mean"])
    return {
        "seeds": _figures(found),
        "groups": {
            "measured": figure(groups),
            "reach": GROUPS_REACH,
            "met": groups >= GROUPS_REACH,
        },
        "mean": within(figure(mean), MEAN_REACH),
    }


def _of_people(found: Found) -> Report:
    """Return what is left of the mean's accuracy without attack, with each seed and rule."""
    return {
        NO_ATTACK: _figures(found["people", NO_ATTACK]),
        **{kind: _kept(found, kind) for kind in OF_PEOPLE if kind != NO_ATTACK},
    }


def _kept(found: Found, kind: str) -> Report:
    whole, attacked = found["people", NO_ATTACK]["mean"], found["people", kind]
    kept = {
        rule: figure(median(at / of for at, of in zip(given, whole, strict=True)))
        for rule, given in attacked.items()
    }
    groups = kept["groups"]
    return {
        "seeds": _figures(attacked),
        "kept_in_groups": {
            "measured": groups,
            "reach": GROUPS_KEPT,
            "met": groups >= GROUPS_KEPT,
        },
        "kept_by_mean": within(kept["mean"], MEAN_KEPT),
    }


def _figures(found: Mapping[str, Sequence[float]]) -> dict[str, Value]:
    return {rule: [figure(each) for each in given] for rule, given in found.items()}


# --- masked --------------------------------------------------------------------------------------


class Attacker(Trainer):
    """Trains as it should, and sends the opposite, enlarged, as from ``claim`` samples if not 0."""

    def __init__(self, honest: Trainer, kind: Kind) -> None:
        self._honest = honest
        self._kind = kind

    def num_samples(self) -> int:
        """Return how many it has."""
        return self._honest.num_samples()

    def train(self, assignment: Assignment) -> Trained:
        """Return the delta times minus the strength."""
        trained = self._honest.train(assignment)
        lying = lie("sign_flip", self._kind.strength, assignment, trained)
        return replace(lying, num_samples=self._kind.claim or lying.num_samples)


def digits_fleet(seed: int) -> Fleet:
    """24 devices whose digits are skewed."""
    digits = load(None)
    parts = split(digits, devices=NUM_DEVICES, alpha=ALPHA, seed=seed)
    return Fleet(digits_task(PLAIN, digits, seed), parts.devices, parts.held_out)


def people_fleet(seed: int) -> Fleet:
    """The phone of each person."""
    setup = trust_setups.people(seed)
    config = replace(
        digits_task(PLAIN, load(None), seed), model=setup.model, training=setup.training
    )
    return Fleet(config, [Part(*shard) for shard in setup.shards], Part(*setup.held_out))


FLEETS: Final[Mapping[str, Callable[[int], Fleet]]] = {
    "digits": digits_fleet,
    "people": people_fleet,
}


def masked(job: Job) -> float:
    """Return the accuracy on held-out rows after so many versions."""
    fleet, kind = FLEETS[job.fleet](job.seed), KINDS[job.kind]
    size = len(fleet.devices)
    rounds = Rounds(size=size, quorum=size, gather_s=0.5)
    config = replace(fleet.config, rounds=rounds, robust=RULES[job.rule])
    secure = SecureConfig(scheme="seedmask", malicious=MALICIOUS)
    world, cohort = secure_world(config, secure, size, job.seed)
    attackers = drawn(size, kind.attackers, job.seed)
    for place, (keys, part) in enumerate(zip(cohort.keys, fleet.devices, strict=True)):
        trainer: Trainer = NumpyTrainer(data=(part.x, part.y))
        if place in attackers:
            trainer = Attacker(trainer, kind)
        world.add(keys.device, trainer, lambda _: DURATION_S, keys=keys)
    return accuracy_after(world, job.versions, fleet.held_out)


# --- in the clear --------------------------------------------------------------------------------


def _limit(digits: Dataset, seeds: Sequence[int], versions: int) -> Report:
    """Return the accuracy where more than half of the groups have an attacker."""
    robust = RobustConfig(group=4, attackers=0.09)
    found = []
    for seed in seeds:
        parts = split(digits, devices=NUM_DEVICES, alpha=ALPHA, seed=seed)
        config = digits_task(PLAIN, digits, seed)
        federation = Federation(config, parts.devices, parts.held_out, seed)
        attackers = sorted(drawn(NUM_DEVICES, 4, seed))
        for _ in range(versions):
            deltas, weights = federation.deltas()
            deltas[attackers] = np.clip(-Kind().strength * deltas[attackers], -CLIP, CLIP)
            federation.step(robust, federation.groups(deltas, weights, robust.group))
        rows = parts.held_out
        metrics = federation.model.evaluate(federation.params, rows.x, rows.y)
        found.append(figure(metrics.accuracy or 0.0))
    return {"attackers": 4, "group": robust.group, "accuracy": found}
