"""``trust``, robust: what one fifth of attackers does to a plain task by default.

Set-ups: `benchmarks.trust_setups`. Every fifth device lies, rounded up, drawn by the seed.

``under_attack``: sign flips of five times the length under the default rule and under the mean;
``away`` is the default rule without the attackers, whose data are then gone, too. ``cost``: no
attack. ``attacks``: the others, on digits; of the backdoor also how often its trigger works.

Accuracy is the mean over the versions of the last fifth of the time; each figure is the mean of the
seeds. Sessions, coordinator, engine and wire are the product's; only time is simulated.
`benchmarks.trust_rules` has the rules that are neither the default nor the mean.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.robust.config import AUTO, FLTRUST, MEAN, MEDIAN, RULES, TRIMMED_MEAN, RobustConfig
from benchmarks.fleet_methods import DENSE, Run, observed, task
from benchmarks.fleet_setups import Float32, Samples, Setup
from benchmarks.report import Report, figure, within
from benchmarks.trust_setups import SETUPS, has_people
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer
from simulator.attackers import BACKDOOR_LABEL, backdoored, flipped, lie, stamped

PART: Final = 0.2
SPAN_S: Final = 150.0
SEEDS: Final = 3
#: What is compared: the default, and what an attacker moves anywhere.
BOTH: Final = (AUTO, MEAN)
NAMES: Final = (("default", AUTO), ("mean", MEAN))
#: Most sparse updates say nothing of a coordinate, so that its median is 0: these get dense ones.
BY_COORDINATE: Final = frozenset({MEDIAN, TRIMMED_MEAN})
FLIP: Final = "sign_flip"
#: Off the accuracy that there is without attack.
UNDER_ATTACK: Final = 0.03
COST: Final = 0.01
#: Name -> strength, as in `simulator.attackers`; ``quiet_flip`` and ``million_samples`` are sign
#: flips that are no longer than others, the latter with a claim of so many samples.
ATTACKS: Final[Mapping[str, float]] = {
    FLIP: 5.0,
    "quiet_flip": 1.0,
    "scale": 10.0,
    "noise": 10.0,
    "free_rider": 1.0,
    "label_flip": 1.0,
    "backdoor": 5.0,
    "million_samples": 1.0,
}
NO_ATTACK: Final = ""
#: The attackers are not there, and nor are their data.
AWAY: Final = "away"


class Job(NamedTuple):
    """What a process of the pool does."""

    setup: str
    attack: str
    rule: str
    seed: int
    span_s: float


def measure(*, quick: bool) -> Report:
    """Run all. Quick: one seed, and a tenth of the time."""
    seeds = range(1 if quick else SEEDS)
    attacked = ("digits", "skewed", *(("wearables",) if has_people() else ()))
    others = tuple(ATTACKS)[1:]
    rows = [
        *(
            (setup, attack, rule)
            for setup in attacked
            for attack in (NO_ATTACK, FLIP)
            for rule in BOTH
        ),
        *((setup, AWAY, AUTO) for setup in attacked),
        *(("paces", NO_ATTACK, rule) for rule in BOTH),
        *(("digits", attack, rule) for attack in others for rule in BOTH),
    ]
    found = ran(rows, seeds, SPAN_S / 10 if quick else SPAN_S)
    return {
        "seeds": len(seeds),
        "under_attack": {setup: _under_attack(found, setup) for setup in attacked},
        "cost": {setup: _cost(found, setup) for setup in (*attacked, "paces")},
        "attacks": {
            attack: {name: told(found["digits", attack, rule]) for name, rule in NAMES}
            for attack in others
        },
    }


#: Of set-up, attack and rule: the runs of all seeds.
Found = Mapping[tuple[str, str, str], Sequence[Run]]


def ran(rows: Sequence[tuple[str, str, str]], seeds: Sequence[int], span_s: float) -> Found:
    """Run each row with each seed."""
    jobs = [Job(*row, seed, span_s) for row in rows for seed in seeds]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(run_job, jobs))
    return {row: runs[at * len(seeds) : (at + 1) * len(seeds)] for at, row in enumerate(rows)}


def _under_attack(found: Found, setup: str) -> Report:
    lost = _mean(found[setup, NO_ATTACK, MEAN]) - _mean(found[setup, FLIP, AUTO])
    return {
        "no_attack": told(found[setup, NO_ATTACK, MEAN]),
        "default": told(found[setup, FLIP, AUTO]),
        "away": told(found[setup, AWAY, AUTO]),
        "mean": told(found[setup, FLIP, MEAN]),
        "lost": within(figure(lost, 3), UNDER_ATTACK),
    }


def _cost(found: Found, setup: str) -> Report:
    default, plain = found[setup, NO_ATTACK, AUTO], found[setup, NO_ATTACK, MEAN]
    return {
        "default": told(default),
        "mean": told(plain),
        "lost": within(figure(_mean(plain) - _mean(default), 3), COST),
    }


def told(runs: Sequence[Run]) -> Report:
    """Return the accuracy, of each seed, too; and that of the slow or the triggered rows."""
    return {
        "accuracy": figure(_mean(runs)),
        "seeds": [figure(run.accuracy) for run in runs],
        "of_special_rows": figure(fmean(run.slow for run in runs)),
    }


def _mean(runs: Sequence[Run]) -> float:
    return fmean(run.accuracy for run in runs)


# --- attackers -----------------------------------------------------------------------------------


class Liar(Trainer):
    """Trains, and says something else."""

    def __init__(self, honest: Trainer, attack: str) -> None:
        self._honest = honest
        self._attack = attack

    def num_samples(self) -> int:
        """As many as there are."""
        return self._honest.num_samples()

    def train(self, assignment: Assignment) -> Trained:
        """Train, then lie."""
        trained = self._honest.train(assignment)
        strength = ATTACKS.get(self._attack, 1.0)
        match self._attack:
            case "label_flip" | "away":
                return trained
            case "quiet_flip":
                return lie(FLIP, strength, assignment, trained)
            case "million_samples":
                return replace(lie(FLIP, strength, assignment, trained), num_samples=1_000_000)
        return lie(self._attack, strength, assignment, trained)


def trainers(setup: Setup, attack: str, seed: int) -> list[Trainer]:
    """Return the trainer of each device; `PART` of them, rounded up, attack."""
    found: list[Trainer] = []
    num_attackers = math.ceil(PART * len(setup.shards)) if attack else 0
    order = np.random.default_rng([seed, 5]).permutation(len(setup.shards))
    liars = set(order[:num_attackers].tolist())
    for index, (x, y) in enumerate(setup.shards):
        if index not in liars:
            found.append(NumpyTrainer(data=(x, y)))
            continue
        found.append(Liar(NumpyTrainer(data=_spoilt(setup, attack, Samples(x, y))), attack))
    return found


def _spoilt(setup: Setup, attack: str, mine: Samples) -> tuple[Float32, npt.NDArray[np.generic]]:
    """Return what an attacker trains on."""
    match attack:
        case "label_flip":
            return mine.x, flipped(mine.y, int(setup.held_out.y.max()) + 1)
        case "backdoor":
            return backdoored(mine.x, mine.y)
    return mine.x, mine.y


def run_job(job: Job) -> Run:
    """Let a set-up learn under an attack."""
    setup = SETUPS[job.setup](job.seed)
    root_file = "the set-up's own" if job.rule == FLTRUST else ""
    codec = {"codec": DENSE} if job.rule in BY_COORDINATE else {}
    robust = RobustConfig(rule=job.rule, root_file=root_file)
    config = task(setup, {"robust": robust, **codec})
    found = trainers(setup, job.attack, job.seed)
    if job.attack == AWAY:
        honest = [at for at, each in enumerate(found) if not isinstance(each, Liar)]
        setup = replace(
            setup,
            shards=tuple(setup.shards[at] for at in honest),
            speeds=tuple(setup.speeds[at] for at in honest),
        )
        found = [found[at] for at in honest]
    if job.attack == "backdoor":
        others = setup.held_out.y != BACKDOOR_LABEL
        triggered = stamped(setup.held_out.x[others])
        labels = np.full(len(triggered), BACKDOOR_LABEL, np.int64)
        setup = replace(setup, slow=Samples(triggered, labels))
    return observed(setup, config, found, job.seed, job.span_s * (2 if job.setup == "paces" else 1))


def main() -> None:
    """Print what rules reach in a set-up under attacks."""
    parser = argparse.ArgumentParser(prog="benchmarks.trust_robust", description=main.__doc__)
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES[1:])
    parser.add_argument(
        "--attacks", nargs="+", choices=["none", AWAY, *ATTACKS], default=["none", FLIP]
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    for attack in options.attacks:
        for rule in options.rules:
            row = (options.setup, NO_ATTACK if attack == "none" else attack, rule)
            found = ran([row], range(options.seeds), SPAN_S)
            print(*row[:1], attack, rule, told(found[row]), flush=True)


if __name__ == "__main__":
    main()
