"""Training elsewhere changes no byte, and begins when virtual time says so."""

import numpy as np

from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import TaskConfig
from device_sdk.trainer import Assignment, Trained, Trainer
from simulator import TrainRemote, World

CONFIG = TaskConfig(
    task="t",
    model={
        "input": [8],
        "layers": [{"type": "dense", "units": 4}],
        "loss": "softmax_cross_entropy",
    },
    buffered=Buffered(goal=2, max_wait_s=10.0),
)


class Nudge(Trainer):
    """Moves params as device and seed decide."""

    def __init__(self, name: str) -> None:
        self._name = name

    def num_samples(self) -> int:
        return 10

    def train(self, assignment: Assignment) -> Trained:
        rng = np.random.default_rng([*assignment.seed, *self._name.encode()])
        moved = rng.standard_normal(assignment.params.size).astype(np.float32)
        return Trained(assignment.params + moved, 10, {})


class Elsewhere:
    """Notes what is under way, and trains as late as it can."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.most_under_way = 0
        self.submitted: list[tuple[str, Assignment]] = []
        self._under_way = 0

    def submit(self, device: str, assignment: Assignment) -> object:
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        self.submitted.append((device, assignment))
        return len(self.submitted) - 1

    def result(self, handle: object) -> Trained | None:
        self._under_way -= 1
        assert isinstance(handle, int)
        device, assignment = self.submitted[handle]
        return None if self.fails else Nudge(device).train(assignment)


def trained(train: TrainRemote | None) -> World:
    world = World(CONFIG, bytes(32), train=train)
    for name in "abcd":
        world.add(name, Nudge(name), lambda _: 7.0)
    world.run_for(100.0)
    return world


def test_elsewhere_gives_the_same_bytes_as_here() -> None:
    elsewhere = Elsewhere()
    here, there = trained(None), trained(elsewhere)
    assert here.server.store.snapshot() == there.server.store.snapshot()
    assert len(here.server.store.counted_ids()) > 20
    assert elsewhere.most_under_way == 4


def test_a_training_that_failed_elsewhere_is_tried_again_later() -> None:
    world = trained(Elsewhere(fails=True))
    assert world.devices["a"].counts["trainings_failed"] >= 2
    assert world.server.store.counted_ids() == []


def test_the_result_of_a_device_without_power_is_never_fetched() -> None:
    elsewhere = Elsewhere(fails=True)
    world = World(CONFIG, bytes(32), train=elsewhere)
    device = world.add("a", Nudge("a"), lambda _: 7.0)
    world.run_until(lambda: bool(elsewhere.submitted), 20.0)
    device.lose_power(down_s=1.0)
    world.run_for(6.5)
    assert device.counts["trainings_failed"] == 0
