"""One scenario, twice: as real processes on a real broker, and in virtual time.

Eight devices with digits of their own, from quick to slow, train all the time; the aggregator takes
three updates a version. How long the n-th training of a device lasts is drawn beforehand, so that
both runs have the same durations. Both are the updates that were counted first, in their order.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Final, NamedTuple

import numpy as np

from aggregator.records import LeaseRecord, Record, VersionRecord
from aggregator.store import open_store
from aggregator.task_config import TaskConfig
from benchmarks.fleet_real_trainer import ORDERS
from benchmarks.fleet_real_watch import Overheads, Watch
from benchmarks.report import ROOT
from broker_config.accounts import AGGREGATOR
from broker_config.running import Broker, running_broker
from device_sdk.engine import Model, parse_spec
from device_sdk.trainer import Assignment, NumpyTrainer
from fedbus.children import Child, start, stop
from fedbus.datasets import Split, load, split
from fedbus.federation import device_names, write_tables
from protocol.settings import build
from protocol.stream import derive
from simulator import World

TASK: Final = "real"
#: Seconds of a training, on average, of each device.
SPEEDS: Final = (0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 2.0, 3.0)
DEVICES: Final = device_names(len(SPEEDS))
#: Single trainings last from a fifth less to a fifth more.
JITTER: Final = 0.2
GOAL: Final = 3
ALPHA: Final = 0.5
MODEL: Final = {
    "input": [64],
    "layers": [{"type": "dense", "units": 32}, {"type": "relu"}, {"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}
SETTINGS: Final[Mapping[str, Any]] = {
    "task": TASK,
    "codec": "topk-0.1/int8",
    "check_in_s": 2,
    "keep_versions": 10_000,  # to look back at the one that is judged
    "model": MODEL,
    "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.1},
    "buffered": {"goal": GOAL, "concurrency": len(DEVICES), "max_wait_s": 60.0},
}
#: Single versions dip and rise: of so many, the last ones, the mean accuracy is taken.
JUDGED: Final = 20
_TABLES: Final = ("model", "training", "buffered")
_MAX_TRAININGS: Final = 2_000
_LIMIT_S: Final = 3_600.0


class Counted(NamedTuple):
    """One counted update."""

    device: str
    staleness: int


@dataclass(frozen=True, slots=True)
class Run:
    """What came out: the updates in the order in which they were counted, and the models then.

    ``accuracy`` is the mean over the last `JUDGED` versions that those updates made.
    """

    updates: tuple[Counted, ...]
    accuracy: float
    seconds: float


# --- real ----------------------------------------------------------------------------------------


def real_run(folder: Path, seed: int, num_updates: int) -> tuple[Run, Overheads]:
    """Run it with a process each, in an empty folder, until so many updates are counted."""
    with running_broker(folder / "broker", DEVICES, engine="mosquitto") as broker:
        fed = _write_aggregator(folder / AGGREGATOR, broker)
        with ExitStack() as ends, Watch(TASK, broker) as watch:
            children: list[Child] = []
            ends.callback(stop, children)
            children += [_start_device(folder, broker, seed, at) for at in range(len(DEVICES))]
            watch.await_online(DEVICES)  # the aggregator's plan is the starting gun
            module = ["fedbus", "aggregator", "run", "--config", str(fed)]
            children.append(start(AGGREGATOR, module, fed.with_name("log"), {}))
            watch.follow(num_updates)
    trainings = {name: _trainings(folder / name / "trainings") for name in DEVICES}
    return _from_store(fed, seed, num_updates, watch.seconds), watch.overheads(trainings)


def _write_aggregator(folder: Path, broker: Broker) -> Path:
    folder.mkdir()
    return write_tables(
        folder / "fed.toml",
        {
            "": {"state_dir": str(folder / "state")},
            "secure": {"scheme": "none"},
            "identity": {"required": False},
            "broker": _broker_table(broker, AGGREGATOR),
            "task": {name: value for name, value in SETTINGS.items() if name not in _TABLES},
            **{f"task.{name}": SETTINGS[name] for name in _TABLES},
        },
    )


def _start_device(folder: Path, broker: Broker, seed: int, at: int) -> Child:
    name = DEVICES[at]
    own = folder / name
    own.mkdir()
    part = _parts(seed).devices[at]
    np.savez(own / "data.npz", x=part.x, y=part.y)
    orders = {
        "data": str(own / "data.npz"),
        "durations_s": durations(seed, at),
        "log": str(own / "trainings"),
    }
    (own / "orders.json").write_text(json.dumps(orders), encoding="utf-8")
    config = write_tables(
        own / "device.toml",
        {
            "": {
                "task": TASK,
                "device": name,
                "state_dir": str(own / "state"),
                "trainer": "benchmarks.fleet_real_trainer:Paced",
            },
            "broker": _broker_table(broker, name),
        },
    )
    variables = {ORDERS: str(own / "orders.json"), "PYTHONPATH": str(ROOT)}
    module = ["device_sdk", "run", "--config", str(config)]
    return start(name, module, own / "log", variables)


def _broker_table(broker: Broker, account: str) -> dict[str, object]:
    return {"port": broker.port, "password_file": str(broker.files.secret(account))}


def _trainings(log: Path) -> list[tuple[float, float]]:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [(float(begun), float(ended)) for begun, ended in map(str.split, lines)]


def _from_store(fed: Path, seed: int, num_updates: int, seconds: float) -> Run:
    """Read what was counted; the aggregator has ended."""
    task = task_config()
    store = open_store(fed.parent / "state", TASK, keep_versions=task.keep_versions)
    try:
        counted = store.counted_ids()[:num_updates]
        leases = {lease_id: store.lease(lease_id) for _, lease_id in counted}
        updates = tuple(
            Counted(lease.device, version - 1 - lease.version)
            for version, lease_id in counted
            if (lease := leases[lease_id]) is not None
        )
        newest = counted[-1][0]
        judged = [
            store.params(each) or b"" for each in range(max(1, newest - JUDGED + 1), newest + 1)
        ]
        return Run(updates, _accuracy(judged, seed), seconds)
    finally:
        store.close()


# --- virtual -------------------------------------------------------------------------------------


def virtual_run(
    seed: int,
    num_updates: int,
    overheads: Overheads,
    *,
    repetition: int = 0,
    speeds: Sequence[float] = SPEEDS,
) -> Run:
    """Run the same in virtual time, with the overheads that the real runs had.

    Data and durations follow from ``seed``, all else that is drawn from ``repetition`` too.
    """
    world_seed = derive(seed.to_bytes(32, "little"), "repetition", repetition)
    world = World(task_config(), world_seed, latency_s=overheads.latency_s)
    book = _Book(world, num_updates)
    for at, name in enumerate(DEVICES):
        part = _parts(seed).devices[at]
        trainer = NumpyTrainer(data=(part.x, part.y))
        own = iter(durations(seed, at, speeds))
        world.add(name, trainer, _Duration(own, overheads.device_s))
    if not world.run_until(lambda: book.is_full, _LIMIT_S):
        raise RuntimeError(f"{len(book.updates)} of {num_updates} updates in {_LIMIT_S:.0f} s")
    return Run(tuple(book.updates[:num_updates]), _accuracy(book.judged, seed), book.seconds)


@dataclass(frozen=True, slots=True)
class _Duration:
    """Called for each training of a device."""

    own: Iterator[float]
    overhead_s: float

    def __call__(self, _assignment: Assignment) -> float:
        return max(0.001, next(self.own) + self.overhead_s)


class _Book:
    """Writes down what is counted, as it is committed, and the models at the end."""

    def __init__(self, world: World, num_updates: int) -> None:
        self.updates: list[Counted] = []
        self.judged: deque[bytes] = deque(maxlen=JUDGED)
        self.seconds = 0.0
        self._world = world
        self._num_updates = num_updates
        self._leases: dict[bytes, LeaseRecord] = {}
        self._begun: float | None = None
        world.server.store.watch = self._committed

    @property
    def is_full(self) -> bool:
        return len(self.updates) >= self._num_updates

    def _committed(self, records: Sequence[Record]) -> None:
        now = self._world.now
        for record in records:
            if isinstance(record, LeaseRecord):
                self._leases[record.lease_id] = record
                self._begun = now if self._begun is None else self._begun
            elif isinstance(record, VersionRecord) and not self.is_full:
                leases = [self._leases[lease_id] for lease_id in record.counted]
                self.updates += [
                    Counted(lease.device, record.version - 1 - lease.version) for lease in leases
                ]
                self.judged.append(record.params)
                self.seconds = now - (self._begun or 0.0)


# --- what both share -----------------------------------------------------------------------------


def task_config() -> TaskConfig:
    """Return the task's settings, as the real aggregator reads them from its file."""
    return build(TaskConfig, SETTINGS, "task")


def durations(seed: int, at: int, speeds: Sequence[float] = SPEEDS) -> list[float]:
    """Return how long each training of the device at this place lasts, in seconds."""
    rng = np.random.default_rng([seed, at])
    drawn = speeds[at] * rng.uniform(1 - JITTER, 1 + JITTER, _MAX_TRAININGS)
    return [float(seconds) for seconds in drawn]


@cache
def _parts(seed: int) -> Split:
    return split(load(None), devices=len(DEVICES), alpha=ALPHA, seed=seed)


def _accuracy(models: Iterable[bytes], seed: int) -> float:
    """Return the mean accuracy on the digits that no device has."""
    held_out, model = _parts(seed).held_out, Model(parse_spec(MODEL))
    params = (np.frombuffer(each, "<f4").astype(np.float32, copy=False) for each in models)
    found = [model.evaluate(flat, held_out.x, held_out.y).accuracy or 0.0 for flat in params]
    return fmean(found)
