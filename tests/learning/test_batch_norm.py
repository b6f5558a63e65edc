"""A model with batch normalisation learns in an asynchronous task, with and without masks."""

from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits

from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import TaskConfig
from device_sdk.engine import Model, parse_spec
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.stream import Stream, derive
from simulator import World

SPEC = {
    "input": [64],
    "layers": [
        {"type": "dense", "units": 32},
        {"type": "batch_norm"},
        {"type": "relu"},
        {"type": "dense", "units": 10},
    ],
    "loss": "softmax_cross_entropy",
}
SEED = bytes(range(32))
NUM_DEVICES = 8


def takes(duration_s: float, _assignment: Assignment) -> float:
    return duration_s


@pytest.mark.parametrize("codec", ["dense/float32", "topk-0.25/int8", "randk-0.5/float32"])
def test_it_learns_digits_from_devices_that_are_late(codec: str) -> None:
    digits = load_digits()
    order = Stream(SEED).permutation(len(digits.data))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    config = TaskConfig(
        task="norm",
        model=SPEC,
        training={"epochs": 2, "batch_size": 16, "learning_rate": 0.05},
        codec=codec,
        buffered=Buffered(goal=2, concurrency=NUM_DEVICES, max_wait_s=30.0, min_contributors=2),
        check_in_s=600,
    )
    world = World(config, derive(SEED, codec))
    parts = np.array_split(np.arange(1400), NUM_DEVICES)
    for index, part in enumerate(parts):
        trainer = NumpyTrainer(data=(x[part], y[part]))
        world.add(f"d{index}", trainer, partial(takes, 1.0 + index))
    world.run_for(70.0)
    assert world.server.coordinator is not None
    versions = world.server.coordinator.versions
    model = Model(parse_spec(SPEC))
    found = model.evaluate(versions.params, x[1400:], y[1400:])
    assert versions.number > 50
    assert found.accuracy is not None
    assert found.accuracy > 0.93
