"""Attackers under masking: groups whose sums a robust rule compares, and tests that name them.

``attack``: whole secure federations in virtual time with the product's own sessions and coordinator
(`simulator`): digits, 24 devices, label skew Dirichlet(1.0), rounds of all 24, `seedmask`. Two
devices, drawn by the seed, send their delta times -5 (``sign flip``), and may claim as many samples
as count (``and many samples``). In groups of three, and as one sum.

``limit``: four such devices in groups of four, which the configuration refuses: what would come of
it. In the clear, since a masked sum differs by its noise only.

``naming``: 15 devices in groups of three, two of which train on flipped labels; who does it, from
held-out rows and the means of groups (`aggregator.robust.group_watch`), and from one round of
FedGT's overlapping groups, the two likeliest. ``clean``: the same without anybody to be found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

import numpy as np

from aggregator.evaluation import LEAST_LOSS
from aggregator.robust import Float64
from aggregator.robust.config import RobustConfig
from aggregator.robust.group_testing import Noise, bch_groups, posterior, stand_out
from aggregator.robust.group_watch import GroupWatch, Trial
from aggregator.robust.groups import GroupMean, combine_groups
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from aggregator.strategy import Float32
from benchmarks.masked_world import DURATION_S, secure_world
from benchmarks.report import Report, figure, median, within
from benchmarks.wire import PLAIN, accuracy_after, digits_task
from device_sdk.engine.model import Model
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer
from fedbus.datasets import Dataset, Part, load, split
from protocol.stream import SEED_BYTES, derive
from simulator.attackers import flipped, lie

NUM_DEVICES: Final = 24
NUM_ATTACKERS: Final = 2
GROUP: Final = 3
ALPHA: Final = 1.0
STRENGTH: Final = 5.0
VERSIONS: Final = 40
#: More samples than count.
CLAIM: Final = 1_000_000
MANY: Final = "and many samples"
#: Kind of attack -> how many attack, and what they claim.
KINDS: Final = {"none": (0, 0), "sign flip": (NUM_ATTACKERS, 0), MANY: (NUM_ATTACKERS, CLAIM)}
#: What masked values are cut to.
CLIP: Final = SecureConfig().clip
#: t of the roster: in groups of three no two devices may be in league with the aggregator.
MALICIOUS: Final = 1
GROUPS: Final = RobustConfig(group=GROUP, attackers=0.09)
MEAN: Final = RobustConfig(rule="mean")
GROUPS_REACH: Final = 0.90
MEAN_REACH: Final = 0.75

NUM_TESTED: Final = 15
NUM_FLIPPERS: Final = 2
#: As many rounds as the watch needs to judge once.
NAMING_ROUNDS: Final = 21
#: All devices alike, and skewed as above.
NAMING_ALPHAS: Final = (100.0, ALPHA)
NAMED_REACH: Final = 0.8
#: In which round FedGT tests, and what it takes for good tests.
FEDGT_ROUND: Final = 10
FEDGT_NOISE: Final = Noise(prevalence=0.1, false_alarm=0.05, miss=0.2)
FEDGT_TIMES: Final = 2.0


def measure(*, quick: bool) -> Report:
    """Measure all three; quick: two versions of the worst attack, one federation to name in."""
    digits, seeds = load(None), (0,) if quick else (0, 1, 2)
    versions = 2 if quick else VERSIONS
    naming_seeds = range(1) if quick else range(20)
    return {
        "attack": attack(digits, seeds, versions, (MANY,) if quick else tuple(KINDS)),
        "limit": _limit(digits, seeds, versions),
        "naming": {
            f"alpha = {alpha:g}": naming(digits, naming_seeds, alpha)
            for alpha in NAMING_ALPHAS[: 1 if quick else None]
        },
    }


# --- masked attacks ------------------------------------------------------------------------------


class Attacker(Trainer):
    """Trains as it should, and sends the opposite, enlarged, as from ``claim`` samples if not 0."""

    def __init__(self, honest: Trainer, claim: int) -> None:
        self._honest = honest
        self._claim = claim

    def num_samples(self) -> int:
        """Return how many it has."""
        return self._honest.num_samples()

    def train(self, assignment: Assignment) -> Trained:
        """Return the delta times -`STRENGTH`."""
        trained = lie("sign_flip", STRENGTH, assignment, self._honest.train(assignment))
        return replace(trained, num_samples=self._claim or trained.num_samples)


def attack(digits: Dataset, seeds: Sequence[int], versions: int, kinds: Sequence[str]) -> Report:
    """Return the accuracy in groups and of one sum, by kind of attack: `MANY`, and others."""
    found = {
        name: {
            rule: [
                masked(digits, robust, count=count, claim=claim, versions=versions, seed=seed)
                for seed in seeds
            ]
            for rule, robust in (("groups", GROUPS), ("mean", MEAN))
        }
        for name, (count, claim) in ((kind, KINDS[kind]) for kind in kinds)
    }
    groups, mean = median(found[MANY]["groups"]), median(found[MANY]["mean"])
    return {
        **{
            name: {rule: [figure(each) for each in given] for rule, given in of.items()}
            for name, of in found.items()
        },
        "groups": {"measured": groups, "reach": GROUPS_REACH, "met": groups >= GROUPS_REACH},
        "mean": within(mean, MEAN_REACH),
        "N, t": [NUM_DEVICES, MALICIOUS],
        "versions": versions,
    }


def masked(
    digits: Dataset,
    robust: RobustConfig,
    *,
    count: int,
    claim: int,
    versions: int,
    seed: int,
) -> float:
    """Return the accuracy on held-out rows after so many versions, ``count`` devices attacking."""
    parts = split(digits, devices=NUM_DEVICES, alpha=ALPHA, seed=seed)
    rounds = Rounds(size=NUM_DEVICES, quorum=NUM_DEVICES, gather_s=0.5)
    config = replace(digits_task(PLAIN, digits, seed), rounds=rounds, robust=robust)
    secure = SecureConfig(scheme="seedmask", malicious=MALICIOUS)
    world, cohort = secure_world(config, secure, NUM_DEVICES, seed)
    attackers = _drawn(NUM_DEVICES, count, seed)
    for place, (keys, part) in enumerate(zip(cohort.keys, parts.devices, strict=True)):
        trainer: Trainer = NumpyTrainer(data=(part.x, part.y))
        if place in attackers:
            trainer = Attacker(trainer, claim)
        world.add(keys.device, trainer, lambda _: DURATION_S, keys=keys)
    return accuracy_after(world, versions, parts.held_out)


def _drawn(num_devices: int, count: int, seed: int) -> set[int]:
    return set(np.random.default_rng(seed).choice(num_devices, count, replace=False).tolist())


# --- in the clear --------------------------------------------------------------------------------


class Federation:
    """Rounds of everybody in one process, in groups drawn anew: what masks would leave to see.

    ``params`` are the model's; ``rows``: what is held out, as the operator has it.
    """

    def __init__(self, digits: Dataset, devices: Sequence[Part], held_out: Part, seed: int) -> None:
        self.config = digits_task(PLAIN, digits, seed)
        self.model = Model(self.config.model_spec())
        self.params: Float32 = self.model.init(derive(bytes(SEED_BYTES), "trust", seed))
        self.rows = held_out
        self._trainers = [NumpyTrainer(data=(part.x, part.y)) for part in devices]
        self._seed = derive(bytes(SEED_BYTES), "federation", seed)
        self._rng = np.random.default_rng(seed)
        self._round = 0

    def deltas(self) -> tuple[Float64, Float64]:
        """Let everybody train once; return deltas (N, d) and numbers of samples (N,)."""
        self._round += 1
        trained = [
            trainer.train(
                Assignment(
                    self.params,
                    self._round,
                    self.config.model,
                    self.config.training,
                    derive(self._seed, "training", self._round, place),
                )
            )
            for place, trainer in enumerate(self._trainers)
        ]
        rows = np.array([each.params for each in trained], np.float64) - self.params
        return rows, np.array([each.num_samples for each in trained], np.float64)

    def groups(self, deltas: Float64, weights: Float64, size: int) -> list[GroupMean]:
        """Return the means of groups drawn at random; names are places in digits."""
        order = self._rng.permutation(len(deltas))
        cuts = np.arange(size, len(order) - size + 1, size)
        return [mean_of(tuple(map(int, part)), deltas, weights) for part in np.split(order, cuts)]

    def loss(self, mean: Float64 | float) -> float:
        """Return the loss on the operator's rows with a mean added."""
        params = (self.params + mean).astype(np.float32)
        return max(self.model.evaluate(params, self.rows.x, self.rows.y).loss, LEAST_LOSS)

    def step(self, robust: RobustConfig, groups: Sequence[GroupMean]) -> None:
        """Make the next version."""
        vector, _ = combine_groups(robust.settled(sees_rows=False), groups)
        self.params = (self.params + vector).astype(np.float32)


def mean_of(members: tuple[int, ...], deltas: Float64, weights: Float64) -> GroupMean:
    """Return the weighted mean of some rows, as a masked sum would give it."""
    places = list(members)
    mean = weights[places] @ deltas[places] / weights[places].sum()
    return GroupMean(tuple(f"{place:02}" for place in members), mean)


def _limit(digits: Dataset, seeds: Sequence[int], versions: int) -> Report:
    """Return the accuracy where more than half of the groups have an attacker."""
    robust = RobustConfig(group=4, attackers=0.09)
    found = []
    for seed in seeds:
        parts = split(digits, devices=NUM_DEVICES, alpha=ALPHA, seed=seed)
        federation = Federation(digits, parts.devices, parts.held_out, seed)
        attackers = sorted(_drawn(NUM_DEVICES, 4, seed))
        for _ in range(versions):
            deltas, weights = federation.deltas()
            deltas[attackers] = np.clip(-STRENGTH * deltas[attackers], -CLIP, CLIP)
            federation.step(robust, federation.groups(deltas, weights, robust.group))
        rows = parts.held_out
        metrics = federation.model.evaluate(federation.params, rows.x, rows.y)
        found.append(figure(metrics.accuracy or 0.0))
    return {"attackers": 4, "group": robust.group, "accuracy": found}


# --- naming --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Named:
    """Who flipped labels, who is said to, and whom FedGT's one round names."""

    flippers: set[int]
    found: set[int]
    fedgt: set[int]


def naming(digits: Dataset, seeds: Sequence[int], alpha: float) -> Report:
    """Return how often both flippers are named, and how often somebody else is."""
    runs = [named(digits, seed, alpha, NUM_FLIPPERS) for seed in seeds]
    clean = [named(digits, seed, alpha, 0) for seed in seeds]
    both = [each.flippers <= each.found for each in runs]
    false = [len(each.found - each.flippers) for each in runs]
    return {
        "both_named": {
            "measured": figure(fmean(both)),
            "reach": NAMED_REACH,
            "met": fmean(both) >= NAMED_REACH,
        },
        "false_flags_most": within(max(false), 1),
        "false_flags_clean": sum(len(each.found) for each in clean),
        "fedgt_both_named": figure(fmean([each.flippers == each.fedgt for each in runs])),
        "devices": NUM_TESTED,
        "rounds": NAMING_ROUNDS,
        "seeds": len(runs),
    }


def named(digits: Dataset, seed: int, alpha: float, count: int) -> Named:
    """Run one federation until the watch has judged."""
    parts = split(digits, devices=NUM_TESTED, alpha=alpha, seed=seed)
    flippers = _drawn(NUM_TESTED, count, seed)
    devices = [
        Part(part.x, flipped(part.y, digits.num_classes).astype(np.int64))
        if place in flippers
        else part
        for place, part in enumerate(parts.devices)
    ]
    federation, watch = Federation(digits, devices, parts.held_out, seed), GroupWatch()
    found, fedgt = set[int](), set[int]()
    for number in range(1, NAMING_ROUNDS + 1):
        deltas, weights = federation.deltas()
        groups = federation.groups(deltas, weights, GROUP)
        before = federation.loss(0.0)
        trials = [
            Trial(each.devices, np.log(federation.loss(each.mean) / before)) for each in groups
        ]
        found |= {int(name) for name in watch.seen(trials)}
        if number == FEDGT_ROUND:
            fedgt = _fedgt(federation, deltas, weights)
        federation.step(GROUPS, groups)
    return Named(flippers, found, fedgt)


def _fedgt(federation: Federation, deltas: Float64, weights: Float64) -> set[int]:
    """Return the two likeliest by the overlapping groups of one round."""
    tests = bch_groups()
    members = (tuple(np.flatnonzero(test).tolist()) for test in tests)
    losses = [federation.loss(mean_of(each, deltas, weights).mean) for each in members]
    chances = posterior(tests, stand_out(losses, FEDGT_TIMES), FEDGT_NOISE)
    return set(np.argsort(-chances)[:NUM_FLIPPERS].tolist())
