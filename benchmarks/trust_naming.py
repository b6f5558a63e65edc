"""``trust``, naming: who spoils groups, told from the groups' sums alone.

15 devices in groups of three, two of which train on flipped labels; who does it, from held-out rows
and the means of groups (`aggregator.robust.group_watch`), and from one round of FedGT's overlapping
groups, the two likeliest. ``clean``: the same without anybody to be found. In the clear, since a
masked sum differs by its noise only.

The limits of the watch were chosen on runs with the seeds of ``chosen_on``, and not of ``fresh``;
all have the same digits, dealt to devices by the seed.
"""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from statistics import fmean
from typing import Final

import numpy as np

from aggregator.evaluation import LEAST_LOSS
from aggregator.robust import Float64
from aggregator.robust.config import RobustConfig
from aggregator.robust.group_testing import Noise, bch_groups, harm, posterior, stand_out
from aggregator.robust.group_watch import GroupWatch, Trial
from aggregator.robust.groups import GroupMean, combine_groups
from aggregator.strategy import Float32
from aggregator.task_config import TaskConfig
from benchmarks.report import Report, figure, within
from benchmarks.wire import PLAIN, digits_task
from device_sdk.engine.model import Model
from device_sdk.trainer import Assignment, NumpyTrainer
from fedbus.datasets import Part, load, split
from protocol.stream import SEED_BYTES, derive
from simulator.attackers import flipped

GROUP: Final = 3
GROUPS: Final = RobustConfig(group=GROUP, attackers=0.09)
NUM_TESTED: Final = 15
NUM_FLIPPERS: Final = 2
#: As many rounds as the watch needs to judge once.
ROUNDS: Final = 21
#: All devices alike, and skewed.
ALPHAS: Final = (100.0, 1.0)
SEEDS: Final = {"chosen_on": range(20), "fresh": range(100, 120)}
NAMED_REACH: Final = 0.8
#: In which round FedGT tests, and what it takes for good tests.
FEDGT_ROUND: Final = 10
FEDGT_NOISE: Final = Noise(prevalence=0.1, false_alarm=0.05, miss=0.2)
FEDGT_TIMES: Final = 2.0


def measure(*, quick: bool) -> Report:
    """Measure all; quick: one federation."""
    if quick:
        return {"alpha = 100": naming(range(1), ALPHAS[0])}
    return {
        f"alpha = {alpha:g}": {name: naming(seeds, alpha) for name, seeds in SEEDS.items()}
        for alpha in ALPHAS
    }


def drawn(num_devices: int, count: int, seed: int) -> set[int]:
    """Return the places of those who lie."""
    return set(np.random.default_rng(seed).choice(num_devices, count, replace=False).tolist())


class Federation:
    """Rounds of everybody in one process, in groups drawn anew: what masks would leave to see.

    ``params`` are the model's; ``rows``: what is held out, as the operator has it; ``trainers``
    may be changed.
    """

    def __init__(
        self, config: TaskConfig, devices: Sequence[Part], held_out: Part, seed: int
    ) -> None:
        self.config = config
        self.model = Model(self.config.model_spec())
        self.params: Float32 = self.model.init(derive(bytes(SEED_BYTES), "trust", seed))
        self.rows = held_out
        self.trainers = [NumpyTrainer(data=(part.x, part.y)) for part in devices]
        self._seed = derive(bytes(SEED_BYTES), "federation", seed)
        self._rng = np.random.default_rng(seed)
        self._round = 0
        self._untrained = self.loss(0.0)

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
            for place, trainer in enumerate(self.trainers)
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

    def trials(self, groups: Sequence[GroupMean]) -> list[Trial]:
        """Return by how much each group alone would make the model worse."""
        before = self.loss(0.0)
        return [
            Trial(each.devices, harm(self.loss(each.mean), before, self._untrained))
            for each in groups
        ]

    def step(self, robust: RobustConfig, groups: Sequence[GroupMean]) -> None:
        """Make the next version."""
        vector, _ = combine_groups(robust.settled(sees_rows=False), groups)
        self.params = (self.params + vector).astype(np.float32)


def mean_of(members: tuple[int, ...], deltas: Float64, weights: Float64) -> GroupMean:
    """Return the weighted mean of some rows, as a masked sum would give it."""
    places = list(members)
    mean = weights[places] @ deltas[places] / weights[places].sum()
    return GroupMean(tuple(f"{place:02}" for place in members), mean)


@dataclass(frozen=True, slots=True)
class Named:
    """Who flipped labels, who is said to, and whom FedGT's one round names."""

    flippers: set[int]
    found: set[int]
    fedgt: set[int]


def naming(seeds: Sequence[int], alpha: float) -> Report:
    """Return how often both flippers are named, and how often somebody else is."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(partial(named, alpha=alpha, count=NUM_FLIPPERS), seeds))
        clean = list(pool.map(partial(named, alpha=alpha, count=0), seeds))
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
        "rounds": ROUNDS,
        "seeds": len(runs),
    }


def named(seed: int, alpha: float, count: int) -> Named:
    """Run one federation until the watch has judged."""
    digits = load(None)
    parts = split(digits, devices=NUM_TESTED, alpha=alpha, seed=seed)
    flippers = drawn(NUM_TESTED, count, seed)
    devices = [
        Part(part.x, flipped(part.y, digits.num_classes).astype(np.int64))
        if place in flippers
        else part
        for place, part in enumerate(parts.devices)
    ]
    config = digits_task(PLAIN, digits, seed)
    federation, watch = Federation(config, devices, parts.held_out, seed), GroupWatch()
    found, fedgt = set[int](), set[int]()
    for number in range(1, ROUNDS + 1):
        deltas, weights = federation.deltas()
        groups = federation.groups(deltas, weights, GROUP)
        judged = watch.seen(federation.trials(groups))
        found |= {int(name) for name, sure in judged.items() if sure > 0}
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
