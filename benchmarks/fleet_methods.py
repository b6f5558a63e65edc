"""``fleets``, methods: what the default does for slow devices, and how soon it learns.

Each set-up of `benchmarks.fleet_setups` learns with the defaults of a plain buffered task and with
FedBuff as published: weights (1 + staleness) ** -0.5, the sum divided by the number of updates.
Accuracy is the mean over the versions of the last fifth of the time, of everybody and of the slow
group; time is that at which a version first has the target accuracy (0.85 for digits as in
`benchmarks.async_time`; else about 95 % of what FedBuff reaches). Dense float32 updates, and for
digits the default codec, too.

``waiting``: the same default against rounds that wait for everybody they gave a lease (FedAvg, half
of the devices a round), while trainings take lognormal or Pareto times.

Sessions, coordinator, engine and wire are the product's; only time is simulated.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import fmean
from typing import Any, Final, NamedTuple

import numpy as np

from aggregator.fairness import FairnessConfig
from aggregator.records import Record, VersionRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from benchmarks import fleet_setups
from benchmarks.fleet_setups import SPAN_S, Setup
from benchmarks.report import Report, figure, median, within
from device_sdk.engine import Model, parse_spec
from device_sdk.trainer import Assignment, NumpyTrainer, Trainer, TrainingError
from simulator import World

SEEDS: Final = 5
DENSE: Final = "dense/float32"
#: In the place of a codec: that of a task which names none.
DEFAULT: Final = "default codec"
#: More on the slow classes of digits, and nowhere less.
SLOW_GAIN: Final = 0.03
#: Of the time of FedAvg that waits.
WAITING_RATIO: Final = 0.2
WAITING_LIMIT_S: Final = 20_000.0
SETUPS: Final[Mapping[str, Callable[[int], Setup]]] = {
    "digits": fleet_setups.digits,
    "wearables": fleet_setups.phones_and_watches,
    "speech": fleet_setups.speech,
}
FEDBUFF: Final[Mapping[str, Any]] = {
    "strategy": StrategyConfig(name="fedbuff"),
    "staleness": StalenessConfig(rule="polynomial", exponent=0.5),
    "normalise": "goal",
    "weigh_by_samples": False,
}
#: Name -> settings beside the defaults; ``default`` and ``fedbuff`` are compared.
METHODS: Final[Mapping[str, Mapping[str, Any]]] = {"fedbuff": FEDBUFF, "default": {}}
_CONSTANT: Final = StalenessConfig(rule="constant")
#: What else there is: ``python -m benchmarks.fleet_methods digits calibrated fadas``.
OTHERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "polynomial": {"strategy": StrategyConfig(name="fedbuff")},
    "constant": {"strategy": StrategyConfig(name="fedbuff"), "staleness": _CONSTANT},
    "inverse_rate": {"fairness": FairnessConfig(weights="inverse_rate")},
    "stale_weight": {"fairness": FairnessConfig(weights="stale_weight")},
    "calibrated": {"strategy": StrategyConfig(name="calibrated"), "weigh_by_samples": False},
    "ca2fl": {"strategy": StrategyConfig(name="ca2fl"), "weigh_by_samples": False},
    "fadas": {"strategy": StrategyConfig(name="fadas", options={"learning_rate": 0.02})},
    "fedasync": {"strategy": StrategyConfig(name="fedasync"), "buffered": Buffered(goal=1)},
    "max_share": {
        "strategy": StrategyConfig(name="fedbuff"),
        "staleness": _CONSTANT,
        "fairness": FairnessConfig(max_share=0.08),
    },
}
TAILS: Final = ("lognormal", "pareto")


class Run(NamedTuple):
    """Accuracy of everybody and of the slow group, and the seconds to the target."""

    accuracy: float
    slow: float
    target_s: float


class Job(NamedTuple):
    """What a process of the pool does."""

    setup: str
    method: str
    codec: str
    seed: int
    span_s: float


def measure(*, quick: bool) -> Report:
    """Run all. Quick: one seed, and a tenth of the time."""
    seeds = range(1 if quick else SEEDS)
    span_s = SPAN_S / 10 if quick else SPAN_S
    rows = [("digits", DENSE), ("digits", DEFAULT), ("wearables", DENSE), ("speech", DENSE)]
    jobs = [Job(*row, seed, span_s) for row in _each(rows) for seed in seeds]
    waits = [(tail, seed) for tail in TAILS for seed in seeds]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        waiting = pool.map(_waited, *zip(*[(*each, quick) for each in waits], strict=True))
        runs = dict(zip(jobs, pool.map(run_job, jobs), strict=True))
        ratios = dict(zip(waits, waiting, strict=True))
    return {
        "seeds": len(seeds),
        **{
            f"{setup} {codec}": _compared(
                [runs[Job(setup, "default", codec, seed, span_s)] for seed in seeds],
                [runs[Job(setup, "fedbuff", codec, seed, span_s)] for seed in seeds],
                SLOW_GAIN if setup == "digits" else 0.0,
            )
            for setup, codec in rows
        },
        "waiting": {tail: _ratio([ratios[tail, seed] for seed in seeds]) for tail in TAILS},
    }


def _each(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    return [(setup, method, codec) for setup, codec in rows for method in METHODS]


def _compared(ours: Sequence[Run], theirs: Sequence[Run], slow_gain: float) -> Report:
    """Return means, differences of pairs (ours - theirs), and whether they are enough."""
    gains = {
        name: [getattr(mine, name) - getattr(other, name) for mine, other in _pairs(ours, theirs)]
        for name in Run._fields
    }
    enough = {
        "accuracy": fmean(gains["accuracy"]) >= 0,
        "slow": fmean(gains["slow"]) >= slow_gain,
        "target_s": fmean(gains["target_s"]) <= 0,
    }
    return {
        name: {
            "default": figure(fmean(getattr(run, name) for run in ours)),
            "fedbuff": figure(fmean(getattr(run, name) for run in theirs)),
            "differences": [figure(gain, 3) for gain in gains[name]],
            "reach": slow_gain if name == "slow" else 0.0,
            "met": enough[name],
        }
        for name in Run._fields
    }


def _pairs(ours: Sequence[Run], theirs: Sequence[Run]) -> list[tuple[Run, Run]]:
    return list(zip(ours, theirs, strict=True))


# --- one run -------------------------------------------------------------------------------------


def run_job(job: Job) -> Run:
    """Let a set-up learn with a method."""
    setup = SETUPS[job.setup](job.seed)
    codec = {} if job.codec == DEFAULT else {"codec": job.codec}
    method = {**METHODS, **OTHERS}[job.method]
    return run(setup, task(setup, {**codec, **method}), job.seed, job.span_s)


def task(setup: Setup, settings: Mapping[str, Any]) -> TaskConfig:
    """Return a buffered task with the defaults, but for ``settings``, and all devices at work."""
    plain: dict[str, Any] = {
        "buffered": Buffered(goal=setup.goal, concurrency=len(setup.shards), max_wait_s=SPAN_S),
        "lease_ttl_s": 100_000,
    }
    return TaskConfig(
        task="fleet", model=setup.model, training=setup.training, **{**plain, **settings}
    )


def run(setup: Setup, config: TaskConfig, seed: int, span_s: float) -> Run:
    """Let a fleet learn for so long. A target that is not reached counts as reached at the end."""
    return observed(setup, config, honest(setup), seed, span_s)


def honest(setup: Setup) -> list[Trainer]:
    """Return a trainer for each device, on its data."""
    return [NumpyTrainer(data=(shard.x, shard.y)) for shard in setup.shards]


def observed(
    setup: Setup, config: TaskConfig, trainers: Sequence[Trainer], seed: int, span_s: float
) -> Run:
    """Do the same with trainers of one's own, one for each device."""
    watch = _watched(setup, config, seed, lambda index: setup.duration(seed, index), trainers)
    watch.world.run_for(span_s)
    last = [score for at, score in watch.scores if at > 0.8 * span_s]
    accuracy, slow = np.mean(last, axis=0).tolist() if last else (0.0, 0.0)
    return Run(accuracy, slow, min(watch.reached_at, span_s))


class _Watch:
    """Evaluates every version as it is stored."""

    def __init__(self, world: World, setup: Setup) -> None:
        self.world = world
        self.reached_at = math.inf
        self.scores: list[tuple[float, tuple[float, float]]] = []
        self._setup = setup
        self._model = Model(parse_spec(setup.model))
        world.server.store.watch = self._committed

    def _committed(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, VersionRecord):
                params = np.frombuffer(record.params, "<f4").astype(np.float32, copy=False)
                score = self._score(params, self._setup.held_out)
                slow = self._score(params, self._setup.slow)
                self.scores.append((self.world.now, (score, slow)))
                if score >= self._setup.target:
                    self.reached_at = min(self.reached_at, self.world.now)

    def _score(self, params: fleet_setups.Float32, samples: fleet_setups.Samples) -> float:
        try:
            return self._model.evaluate(params, samples.x, samples.y).accuracy or 0.0
        except TrainingError:  # it has diverged
            return 0.0


def _watched(
    setup: Setup,
    config: TaskConfig,
    seed: int,
    duration: Callable[[int], Callable[[Assignment], float]],
    trainers: Sequence[Trainer],
) -> _Watch:
    world = World(config, seed.to_bytes(32, "little"), root=setup.root)
    watch = _Watch(world, setup)
    for index, trainer in enumerate(trainers):
        world.add(f"device-{index:02}", trainer, duration(index))
    return watch


# --- against waiting -----------------------------------------------------------------------------


def _waited(tail: str, seed: int, quick: bool) -> tuple[float, float]:  # noqa: FBT001 - of a map
    """Return the seconds to the target of the default, and of FedAvg that waits."""
    setup = fleet_setups.digits(seed)
    limit_s = 60.0 if quick else WAITING_LIMIT_S
    rounds = Rounds(size=10, quorum=10, deadline_s=WAITING_LIMIT_S)
    configs = [
        task(setup, {"codec": DENSE}),
        task(setup, {"codec": DENSE, "mode": "rounds", "rounds": rounds}),
    ]
    times, trainers = [], honest(setup)
    for config in configs:
        watch = _watched(
            setup, config, seed, lambda index: heavy_tailed(tail, seed, index), trainers
        )
        watch.world.run_until(lambda: watch.reached_at < math.inf, limit_s)  # noqa: B023 - at once
        times.append(min(watch.reached_at, limit_s))
    return times[0], times[1]


def heavy_tailed(tail: str, seed: int, index: int) -> Callable[[Assignment], float]:
    """Return how long the trainings of a device take: a pace of its own, and a tail each time.

    Lognormal(0, 1) seconds times a pace of lognormal(0, 1); or Pareto of index 1.5, at least a
    second, times the same.
    """
    rng = np.random.default_rng([seed, 4, index])
    pace = float(rng.lognormal(0.0, 1.0))
    if tail == "lognormal":
        return lambda _assignment: pace * float(rng.lognormal(0.0, 1.0))
    return lambda _assignment: pace * (1.0 + float(rng.pareto(1.5)))


def _ratio(times: Sequence[tuple[float, float]]) -> Report:
    ratio = fmean(math.log(ours / theirs) for ours, theirs in times)
    return {
        "default_s": median([ours for ours, _ in times]),
        "fedavg_s": median([theirs for _, theirs in times]),
        "ratios": [figure(ours / theirs) for ours, theirs in times],
        "ratio": within(figure(math.exp(ratio)), WAITING_RATIO),
    }


def main() -> None:
    """Print what methods reach in a set-up, with dense updates."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet_methods", description=main.__doc__)
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("methods", nargs="+", choices=[*METHODS, *OTHERS])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    for method in options.methods:
        jobs = [Job(options.setup, method, DENSE, seed, SPAN_S) for seed in range(options.seeds)]
        runs = [run_job(job) for job in jobs]
        means = Run(*(figure(fmean(values)) for values in zip(*runs, strict=True)))
        print(options.setup, method, means, flush=True)


if __name__ == "__main__":
    main()
