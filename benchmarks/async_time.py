"""``async``: virtual time until a model reads 85 % of held-out digits, FedBuff beside FedAvg.

Twenty devices with real digits, dealt out by Dirichlet(0.3) over labels: 8 train for U(1, 2), 6 for
U(3, 5) and 6 for U(20, 40) virtual seconds, and the slow ones hold most of the digits 7 to 9.
FedBuff takes 5 updates a version from all twenty, weighed by staleness; FedAvg takes rounds of 10
and waits for every one. Sessions, coordinator, engine and wire are the product's; only time is
simulated.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from aggregator.records import Record, VersionRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.task_config import StalenessConfig, TaskConfig
from benchmarks.report import Report, figure, median, ratio_of_medians, spread
from device_sdk.engine import Model, parse_spec
from device_sdk.trainer import NumpyTrainer
from simulator import World

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

TARGET: Final = 0.85
SEEDS: Final = 5
#: Who has not reached the target by then counts as if it had at that moment.
LIMIT_S: Final = 3_000.0
NUM_HELD_OUT: Final = 360
ALPHA: Final = 0.3
MIN_SAMPLES: Final = 8
#: How long a training takes, from and to, and how many devices are like that.
SPEEDS: Final = ((1.0, 2.0, 8), (3.0, 5.0, 6), (20.0, 40.0, 6))
NUM_SLOW: Final = SPEEDS[-1][2]
NUM_DEVICES: Final = sum(count for _, _, count in SPEEDS)
SLOW_CLASSES: Final = (7, 8, 9)
#: How much more of a slow class a slow device gets, and how much less of the others.
SLOW_FACTOR: Final = 10.0
MODEL: Final = {
    "input": [64],
    "layers": [{"type": "dense", "units": 32}, {"type": "relu"}, {"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}
TRAINING: Final = {"epochs": 2, "batch_size": 16, "learning_rate": 0.1}


def measure(*, quick: bool) -> Report:
    """Run both methods with each seed. Quick: one seed, and a target that is soon reached."""
    seeds = range(1 if quick else SEEDS)
    target = 0.3 if quick else TARGET
    fedbuff = [time_to(target, _fedbuff(), seed) for seed in seeds]
    fedavg = [time_to(target, _fedavg(), seed) for seed in seeds]
    return {
        "target_accuracy": target,
        "seeds": len(seeds),
        "fedbuff_s": median(fedbuff),
        "fedbuff_s_spread": spread(fedbuff),
        "fedavg_s": median(fedavg),
        "fedavg_s_spread": spread(fedavg),
        "not_reached": sum(seconds >= LIMIT_S for seconds in fedbuff + fedavg),
        "ratio_fedbuff_to_fedavg": ratio_of_medians(fedbuff, fedavg),
        "ratios": [figure(ours / theirs) for ours, theirs in zip(fedbuff, fedavg, strict=True)],
    }


def time_to(target: float, config: TaskConfig, seed: int) -> float:
    """Return the virtual seconds after which a version first had the accuracy ``target``."""
    world = World(config, seed.to_bytes(32, "little"))
    clock = _Watch(world, target, seed)
    for index, rows in enumerate(deal(seed)):
        x, y = digits()
        trainer = NumpyTrainer(data=(x[rows], y[rows]))
        world.add(f"device-{index:02}", trainer, _duration(seed, index))
    world.run_until(lambda: clock.reached_at < math.inf, LIMIT_S)
    return min(clock.reached_at, LIMIT_S)


def deal(seed: int) -> list[Labels]:
    """Return the rows of each device; the slow devices are the last ones.

    Per label, shares are drawn from Dirichlet(`ALPHA`), then those of the slow devices grow for the
    slow classes and shrink for the others. Drawn again until everybody has `MIN_SAMPLES`.
    """
    rng = np.random.default_rng([seed, 1])
    train, _ = split(seed)
    labels = digits()[1][train]
    while True:
        dealt: list[list[int]] = [[] for _ in range(NUM_DEVICES)]
        for label in range(10):
            shares = _shares(rng, label)
            rows = rng.permutation(train[labels == label])
            cuts = np.round(np.cumsum(shares)[:-1] * rows.size).astype(int)
            for mine, part in zip(dealt, np.split(rows, cuts), strict=True):
                mine.extend(part.tolist())
        if min(map(len, dealt)) >= MIN_SAMPLES:
            return [np.array(rows, np.int64) for rows in dealt]


def _shares(rng: np.random.Generator, label: int) -> Floats:
    shares = rng.dirichlet(np.full(NUM_DEVICES, ALPHA))
    shares[-NUM_SLOW:] *= SLOW_FACTOR if label in SLOW_CLASSES else 1 / SLOW_FACTOR
    normal: Floats = shares / shares.sum()
    return normal


def _fedbuff() -> TaskConfig:
    return TaskConfig(
        task="async",
        model=MODEL,
        training=TRAINING,
        codec="dense/float32",
        mode="buffered",
        buffered=Buffered(goal=5, concurrency=NUM_DEVICES, max_wait_s=LIMIT_S),
        staleness=StalenessConfig(rule="polynomial", exponent=0.5),
        weigh_by_samples=False,
    )


def _fedavg() -> TaskConfig:
    return TaskConfig(
        task="async",
        model=MODEL,
        training=TRAINING,
        codec="dense/float32",
        mode="rounds",
        rounds=Rounds(size=10, quorum=10, deadline_s=LIMIT_S),
    )


def _duration(seed: int, index: int) -> Callable[[object], float]:
    speeds = [(low, high) for low, high, count in SPEEDS for _ in range(count)]
    rng = np.random.default_rng([seed, 2, index])
    low, high = speeds[index]
    return lambda _assignment: float(rng.uniform(low, high))


class _Watch:
    """Evaluates every version as it is stored, and stops the clock at the target."""

    def __init__(self, world: World, target: float, seed: int) -> None:
        self.reached_at = math.inf
        self._world = world
        self._target = target
        self._model = Model(parse_spec(MODEL))
        _, held_out = split(seed)
        x, y = digits()
        self._x, self._y = x[held_out], y[held_out]
        world.server.store.watch = self._committed

    def _committed(self, records: Sequence[Record]) -> None:
        for record in records:
            if not isinstance(record, VersionRecord) or self.reached_at < math.inf:
                continue
            params = np.frombuffer(record.params, "<f4").astype(np.float32, copy=False)
            accuracy = self._model.evaluate(params, self._x, self._y).accuracy
            if accuracy is not None and accuracy >= self._target:
                self.reached_at = self._world.now


@cache
def digits() -> tuple[npt.NDArray[np.float32], Labels]:
    """Return the images (n, 64), from 0 to 1, and their labels."""
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y.astype(np.int64)


def split(seed: int) -> tuple[Labels, Labels]:
    """Return the rows to train on, and those held out."""
    order = np.random.default_rng([seed, 0]).permutation(len(digits()[1]))
    return order[NUM_HELD_OUT:], order[:NUM_HELD_OUT]
