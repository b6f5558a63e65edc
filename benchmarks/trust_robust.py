"""``trust``, robust: what one fifth of attackers does to a plain task, rule by rule.

- digits: 24 devices, Dirichlet(1) over labels; skewed: Dirichlet(0.3). wearables: a device for each
  of 17 people, tested on 6 others. Asynchronous as by default: buffers of 10, stratified, the
  default codec; trainings take U(1, 5) s. Every fifth device lies, rounded up, drawn by the seed.
- paces: the set-up of `benchmarks.fleet_setups` in which slow devices hold other data, for what a
  rule costs where honest minorities look like liars.

``under_attack``: sign flips of five times the length under the default rule and under the mean;
``away`` is the default rule without the attackers, whose data are then gone, too. ``cost``: no
attack. ``attacks``: the others, on digits; of the backdoor also how often its trigger works.

Accuracy is the mean over the versions of the last fifth of the time; each figure is the mean of the
seeds. Sessions, coordinator, engine and wire are the product's; only time is simulated.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aggregator.robust.config import AUTO, MEAN, RULES, RobustConfig
from benchmarks import async_time, fleet_setups
from benchmarks.fleet_methods import Run, observed, task
from benchmarks.fleet_setups import Float32, Samples, Setup
from benchmarks.learning import wearables_folder
from benchmarks.report import Report, figure, within
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer
from examples import wearables
from simulator.attackers import BACKDOOR_LABEL, backdoored, flipped, lie, stamped

NUM_DEVICES: Final = 24
#: Of the labels among devices: as in the cited table, and what is harder.
ALPHA: Final = 1.0
SKEWED: Final = 0.3
MIN_SAMPLES: Final = 8
PART: Final = 0.2
SPAN_S: Final = 150.0
TIMES_S: Final = (1.0, 5.0)
SEEDS: Final = 3
#: What is compared: the default, and what an attacker moves anywhere.
BOTH: Final = (AUTO, MEAN)
NAMES: Final = (("default", AUTO), ("mean", MEAN))
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
    has_people = _phones().exists()
    attacked = ("digits", "skewed", *(("wearables",) if has_people else ()))
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
            attack: {name: _told(found["digits", attack, rule]) for name, rule in NAMES}
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
        "no_attack": _told(found[setup, NO_ATTACK, MEAN]),
        "default": _told(found[setup, FLIP, AUTO]),
        "away": _told(found[setup, AWAY, AUTO]),
        "mean": _told(found[setup, FLIP, MEAN]),
        "lost": within(figure(lost, 3), UNDER_ATTACK),
    }


def _cost(found: Found, setup: str) -> Report:
    default, plain = found[setup, NO_ATTACK, AUTO], found[setup, NO_ATTACK, MEAN]
    return {
        "default": _told(default),
        "mean": _told(plain),
        "lost": within(figure(_mean(plain) - _mean(default), 3), COST),
    }


def _told(runs: Sequence[Run]) -> Report:
    """Return the accuracy, of each seed, too; and that of the slow or the triggered rows."""
    return {
        "accuracy": figure(_mean(runs)),
        "seeds": [figure(run.accuracy) for run in runs],
        "of_special_rows": figure(fmean(run.slow for run in runs)),
    }


def _mean(runs: Sequence[Run]) -> float:
    return fmean(run.accuracy for run in runs)


# --- set-ups -------------------------------------------------------------------------------------


def digits(seed: int, alpha: float = ALPHA) -> Setup:
    """24 devices whose labels are skewed."""
    x, y = async_time.digits()
    train, rows = async_time.split(seed)
    held_out = Samples(x[rows], y[rows])
    shards = tuple(Samples(x[mine], y[mine]) for mine in _dealt(train, y[train], seed, alpha))
    return _alike(async_time.MODEL, async_time.TRAINING, shards, held_out)


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
    shards = tuple(_windows((person,)) for person in wearables.PEOPLE)
    held_out = _windows(wearables.HELD_OUT)
    return _alike(wearables.MODEL, wearables.TRAINING, shards, held_out)


def _phones() -> Path:
    return wearables_folder() / "har_phone.npz"


def _windows(who: tuple[int, ...]) -> Samples:
    found = wearables.recordings(_phones(), who)
    return Samples(found.x[:: fleet_setups.OVERLAP], found.y[:: fleet_setups.OVERLAP])


def _alike(
    model: Mapping[str, object],
    training: Mapping[str, object],
    shards: tuple[Samples, ...],
    held_out: Samples,
) -> Setup:
    """Return a set-up of devices that are all of the same pace."""
    speeds = (TIMES_S,) * len(shards)
    return Setup(model, training, shards, speeds, held_out, held_out, 1.0, goal=10)


SETUPS: Final[Mapping[str, Callable[[int], Setup]]] = {
    "digits": digits,
    "skewed": lambda seed: digits(seed, SKEWED),
    "wearables": people,
    "paces": fleet_setups.digits,
}


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
    config = task(setup, {"robust": RobustConfig(rule=job.rule)})
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
            print(*row[:1], attack, rule, _told(found[row]), flush=True)


if __name__ == "__main__":
    main()
