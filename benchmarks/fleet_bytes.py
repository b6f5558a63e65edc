"""``fleets``, part bytes: what a federation says, up and down together, until it knows enough.

Twenty devices hold 9,600 pictures of Fashion-MNIST, dealt by Dirichlet(0.3) over labels; an MLP
784-64-10 (50,890 params); FedBuff, ten updates a version, all devices at work, trainings of one to
two virtual seconds, staleness weights. The default codecs both ways against float32 both ways,
everything else alike, the same seeds.

Bytes are whole PUBLISH packets as the devices' transports count them: births, check-ins, leases,
plans, manifests, receipts, models, differences, updates. Accuracy is that of what devices hold, on
2,400 other pictures: the target is met when the mean of the last five versions is there.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

import numpy as np

from aggregator.bandwidth import BandwidthConfig
from aggregator.records import Record, VersionRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from benchmarks.report import ROOT, Report, figure, median, spread, within
from device_sdk.trainer import Assignment, NumpyTrainer
from fedbus.datasets import Dataset, Part, split
from simulator import World

NUM_DEVICES: Final = 20
ALPHA: Final = 0.3
#: Of which every fifth is held out.
NUM_ROWS: Final = 12_000
SEEDS: Final = 5
VERSIONS: Final = 100
TARGET: Final = 0.8
#: Versions whose mean accuracy is looked at: one alone jumps about.
WINDOW: Final = 5
#: At most so much of dense float32's bytes, and so far below its accuracy.
REACH: Final = 1 / 20
MARGIN: Final = 0.01
LIMIT_S: Final = 1e5
MODEL: Final = {
    "input": [784],
    "layers": [{"type": "dense", "units": 64}, {"type": "relu"}, {"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}
TRAINING: Final = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05}
PLAIN: Final = BandwidthConfig(differences="none", model="float32")


class Travelled(NamedTuple):
    """What went over all devices' links so far."""

    up: int
    down: int

    @property
    def both(self) -> int:
        """Up and down together."""
        return self.up + self.down


@dataclass(frozen=True, slots=True)
class Run:
    """One federation: what had travelled at the target (None: not met), and how good it became.

    ``accuracy`` is the mean over the last `WINDOW` versions, ``updates`` counted at the target.
    """

    at_target: Travelled | None
    updates: int
    accuracy: float


def measure(*, quick: bool) -> Report:
    """Run both with each seed. Quick: one seed, few versions, a target that is soon met."""
    if not _file().exists():
        return {"skipped": "no data: set FEDBUS_DATA"}
    seeds = range(1 if quick else SEEDS)
    versions, target = (8, 0.3) if quick else (VERSIONS, TARGET)
    ours, plain = default_task().settled(masked=False), plain_task()
    our_runs, plain_runs = [], []
    for seed in seeds:
        our_runs.append(run(ours, seed, versions=versions, target=target))
        plain_runs.append(run(plain, seed, versions=versions, target=target))
    ratios = [
        mine.at_target.both / theirs.at_target.both
        for mine, theirs in zip(our_runs, plain_runs, strict=True)
        if mine.at_target and theirs.at_target
    ]
    below = fmean(each.accuracy for each in plain_runs) - fmean(each.accuracy for each in our_runs)
    return {
        "codec": ours.codec,
        "differences": ours.bandwidth.differences,
        "model": ours.bandwidth.model,
        "seeds": len(seeds),
        "target": target,
        "not_met": sum(each.at_target is None for each in our_runs + plain_runs),
        "ratio": within(median(ratios), REACH) if ratios else None,
        "times_fewer_bytes": figure(1 / median(ratios)) if ratios else None,
        "times_fewer_spread": spread([1 / ratio for ratio in ratios]) if ratios else None,
        "accuracy_below": within(figure(below), MARGIN),
        "ours": _told(our_runs),
        "plain": _told(plain_runs),
    }


def _told(runs: Sequence[Run]) -> Report:
    met = [each for each in runs if each.at_target]
    totals = [each.at_target for each in runs if each.at_target]
    return {
        "megabytes_up": median([each.up / 1e6 for each in totals]) if met else None,
        "megabytes_down": median([each.down / 1e6 for each in totals]) if met else None,
        "updates": median([each.updates for each in met]) if met else None,
        "accuracy": [figure(each.accuracy) for each in runs],
    }


# --- the two tasks -------------------------------------------------------------------------------


def default_task() -> TaskConfig:
    """Return the task with the default codecs, up and down."""
    return TaskConfig(
        task="bytes",
        model=MODEL,
        training=TRAINING,
        mode="buffered",
        buffered=Buffered(goal=10, concurrency=NUM_DEVICES, max_wait_s=LIMIT_S),
        staleness=StalenessConfig(rule="polynomial", exponent=0.5),
        strategy=StrategyConfig(name="fedavg"),  # in buffers: FedBuff
        weigh_by_samples=False,
    )


def plain_task() -> TaskConfig:
    """Return the same with float32 both ways."""
    return replace(default_task(), codec="dense/float32", bandwidth=PLAIN)


# --- a run ---------------------------------------------------------------------------------------


def run(config: TaskConfig, seed: int, *, versions: int, target: float) -> Run:
    """Let a federation learn for so many versions."""
    parts = split(_pictures(), devices=NUM_DEVICES, alpha=ALPHA, seed=seed)
    world = World(config, seed.to_bytes(32, "little"))
    watch = _Watch(world, parts.held_out, target)
    for index, part in enumerate(parts.devices):
        trainer = NumpyTrainer(data=(part.x, part.y))
        world.add(f"device-{index:02}", trainer, _duration(seed, index))
    if not world.run_until(lambda: watch.version >= versions, LIMIT_S):
        raise RuntimeError(f"stuck at version {watch.version}")
    return Run(watch.at_target, watch.updates_at_target, fmean(watch.last))


def _duration(seed: int, index: int) -> Callable[[Assignment], float]:
    rng = np.random.default_rng([seed, 2, index])
    return lambda _assignment: float(rng.uniform(1.0, 2.0))


class _Watch:
    """Looks at each version as it is stored."""

    def __init__(self, world: World, held_out: Part, target: float) -> None:
        self.version = 0
        self.at_target: Travelled | None = None
        self.updates_at_target = 0
        self.last: deque[float] = deque(maxlen=WINDOW)
        self._world = world
        self._held_out = held_out
        self._target = target
        self._updates = 0
        world.server.store.watch = self._committed

    def _committed(self, records: Sequence[Record]) -> None:
        coordinator = self._world.server.coordinator
        for record in records:
            if not isinstance(record, VersionRecord) or coordinator is None:
                continue
            self.version, self._updates = record.version, self._updates + len(record.counted)
            held = coordinator.downlink.hidden
            found = coordinator.model.evaluate(held, self._held_out.x, self._held_out.y)
            self.last.append(found.accuracy or 0.0)
            if self.at_target is None and len(self.last) == WINDOW:
                self._look()

    def _look(self) -> None:
        if fmean(self.last) >= self._target:
            self.at_target, self.updates_at_target = self._travelled(), self._updates

    def _travelled(self) -> Travelled:
        counters = [device.counters for device in self._world.devices.values()]
        return Travelled(
            sum(each.bytes_up for each in counters), sum(each.bytes_down for each in counters)
        )


# --- data ----------------------------------------------------------------------------------------


@cache
def _pictures() -> Dataset:
    with np.load(_file(), allow_pickle=False) as file:
        x, y = file["x_train"][:NUM_ROWS], file["y_train"][:NUM_ROWS]
    scaled = (x.reshape(NUM_ROWS, -1) / np.float32(255)).astype(np.float32)
    return Dataset(scaled, y.astype(np.int64), owner=None, scaled=True, name="fashion")


def _file() -> Path:
    folder = Path(os.environ.get("FEDBUS_DATA", ROOT.parent / "shared" / "data"))
    return folder / "fashion_mnist" / "fashion_mnist.npz"
