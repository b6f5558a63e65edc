"""``wire``: what an update costs on the wire with each codec, and what accuracy it buys.

Bytes are topic plus payload of every PUBLISH below ``up/``, counted by a subscriber of its own at a
real broker while real device processes train: the digits MLP of the demo (64-32-10, 2,410 params),
and a 100,000-param MLP on random rows, whose size alone matters. Topics and envelopes are in it,
also those of the chunks that a large update is cut into.

Accuracy is that of the digits MLP on held-out rows after the same number of updates with each
codec: 8 devices, label skew Dirichlet(0.3), rounds of all 8, in virtual time with the product's own
session and coordinator (`simulator`), the median of three seeds.
"""

import tempfile
from collections import Counter
from pathlib import Path
from statistics import fmean, median
from typing import Final, NamedTuple

import numpy as np

from aggregator.scheduling.rounds import Rounds
from aggregator.task_config import TaskConfig
from benchmarks.report import Report, figure
from benchmarks.watcher import Watcher
from broker_config.accounts import AGGREGATOR
from device_sdk.trainer import NumpyTrainer
from fedbus.datasets import Dataset, Part, load, split
from fedbus.federation import HIDDEN_UNITS, TASK, Recipe, running_federation
from protocol.codec import decode
from protocol.messages import Manifest, UpdateChunk
from protocol.stream import SEED_BYTES
from protocol.topics import DEFAULT_PREFIX, Topics
from simulator.world import World
from transport import Message

CODECS: Final = (
    "dense/float32",
    "dense/float16",
    "dense/int8",
    "dense/int4",
    "dense/ternary",
    "topk-0.1/float32",
    "topk-0.1/int8",
    "topk-0.05/int4",
    "topk-0.01/float16",
    "topk-0.01/int8",
    "topk-0.01/int4",
    "topk-0.01/ternary",
    "randk-0.1/float32",
    "randk-0.1/int8",
    "randk-0.1/int4",
)
PLAIN: Final = "dense/float32"
SMALLEST: Final = "topk-0.01/int8"
NUM_DEVICES: Final = 8
ALPHA: Final = 0.3
#: 3,091 features to 32 units to 32 classes.
LARGE: Final = (3_091, 32)


class Size(NamedTuple):
    """How many processes train for how many versions while bytes are counted."""

    on_digits: int
    on_100k: int
    versions: int


WHOLE: Final = Size(4, 2, 3)
QUICK: Final = Size(1, 1, 1)


def measure(*, quick: bool) -> Report:
    """Measure every codec; quick: two of them, hardly trained."""
    codecs = (PLAIN, SMALLEST) if quick else CODECS
    versions = 1 if quick else 100
    seeds = (0,) if quick else (0, 1, 2)
    digits, large = load(None), _random_rows()
    size = QUICK if quick else WHOLE
    rows = {
        codec: {
            **_bytes(codec, digits, large, size),
            "accuracy": figure(median(accuracy(codec, digits, versions, seed) for seed in seeds)),
        }
        for codec in codecs
    }
    plain, smallest = rows[PLAIN], rows[SMALLEST]
    return {
        "codecs": {codec: dict(row) for codec, row in rows.items()},
        "summary": {
            "codec": SMALLEST,
            "times_smaller_digits": figure(plain["bytes_digits"] / smallest["bytes_digits"]),
            "times_smaller_100k": figure(plain["bytes_100k"] / smallest["bytes_100k"]),
            "accuracy_below_dense": figure(plain["accuracy"] - smallest["accuracy"]),
        },
        "updates_per_seed": versions * NUM_DEVICES,
        "seeds": len(seeds),
    }


def _bytes(codec: str, digits: Dataset, large: Dataset, size: Size) -> dict[str, float]:
    small_ones = bytes_per_update(codec, digits, devices=size.on_digits, versions=size.versions)
    large_ones = bytes_per_update(codec, large, devices=size.on_100k, versions=size.versions)
    return {
        "bytes_digits": figure(small_ones, 6),
        "bytes_100k": figure(large_ones, 6),
    }


def _random_rows() -> Dataset:
    features, classes = LARGE
    rng = np.random.default_rng(0)
    y = np.arange(160) % classes
    x = rng.normal(0, 1, (len(y), features)).astype(np.float32)
    return Dataset(x, y.astype(np.int64), owner=None, scaled=True, name="random")


# --- bytes ---------------------------------------------------------------------------------------


def bytes_per_update(codec: str, data: Dataset, *, devices: int, versions: int) -> float:
    """Run a real federation for some rounds; return topic and payload bytes of a counted update."""
    parts = split(data, devices=devices, alpha=100.0, seed=0)
    recipe = Recipe(mode="rounds", codec=codec, seed=0, engine="mosquitto")
    tap = Tap()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_federation(Path(folder), recipe, data, parts) as federation,
        Watcher(
            TASK,
            federation.broker,
            account=AGGREGATOR,  # which may read updates; another client of the same account
            filters=[f"{DEFAULT_PREFIX}/{TASK}/up/#"],
        ) as watcher,
    ):
        for message in watcher.messages():
            manifest = watcher.manifest(message)
            if manifest is None:
                tap.take(watcher.topics, message)
            elif tap.count(manifest) and manifest.version >= versions:
                break
    return tap.bytes_per_update


class Tap:
    """Bytes below ``up/`` by update, and which updates were counted."""

    def __init__(self) -> None:
        self._num_bytes: Counter[bytes] = Counter()
        self._missing: dict[bytes, set[int]] = {}
        self._counted: list[bytes] = []

    def take(self, topics: Topics, message: Message) -> None:
        """Note a PUBLISH: topic and payload, also of a chunk that comes again."""
        device = topics.parse(message.topic).device
        chunk = decode(message.payload, (UpdateChunk,), task=topics.task, sender=device)
        self._num_bytes[chunk.lease_id] += len(message.topic.encode()) + len(message.payload)
        missing = self._missing.setdefault(chunk.lease_id, set(range(chunk.num_chunks)))
        missing.discard(chunk.index)

    def count(self, manifest: Manifest) -> bool:
        """Note which updates were counted; return whether any of them was seen whole.

        What was published before the tap was there is left out.
        """
        self._counted += [each for each in manifest.counted if self._missing.get(each) == set()]
        return bool(self._counted)

    @property
    def bytes_per_update(self) -> float:
        """The mean over all counted updates."""
        return fmean(self._num_bytes[lease_id] for lease_id in self._counted)


# --- accuracy ------------------------------------------------------------------------------------


def accuracy(codec: str, data: Dataset, versions: int, seed: int) -> float:
    """Train in virtual time for so many rounds; return the accuracy on held-out rows."""
    parts = split(data, devices=NUM_DEVICES, alpha=ALPHA, seed=seed)
    world = World(digits_task(codec, data, seed), bytes([seed]) * SEED_BYTES)
    for number, part in enumerate(parts.devices):
        world.add(f"device-{number}", NumpyTrainer(data=(part.x, part.y)), lambda _: 0.1)
    return accuracy_after(world, versions, parts.held_out)


def accuracy_after(world: World, versions: int, held_out: Part) -> float:
    """Let a world learn for so many versions; return the accuracy of the last."""
    coordinator = world.server.coordinator
    if coordinator is None:
        raise RuntimeError("the aggregator did not start")
    if not world.run_until(lambda: coordinator.version >= versions, limit_s=1e6):
        raise RuntimeError(f"stuck at version {coordinator.version}")
    model, params = coordinator.model, coordinator.versions.params
    return float(model.evaluate(params, held_out.x, held_out.y).accuracy or 0.0)


def digits_task(codec: str, data: Dataset, seed: int) -> TaskConfig:
    """Return the task of the digits MLP in rounds of all devices."""
    return TaskConfig(
        task="wire",
        codec=codec,
        init_seed=seed,
        mode="rounds",
        rounds=Rounds(size=NUM_DEVICES, gather_s=0.5),
        check_in_s=2,
        model={
            "input": [data.x.shape[1]],
            "layers": [
                {"type": "dense", "units": HIDDEN_UNITS},
                {"type": "relu"},
                {"type": "dense", "units": data.num_classes},
            ],
            "loss": "softmax_cross_entropy",
        },
        training={"epochs": 2, "batch_size": 16, "learning_rate": 0.1},
    )
