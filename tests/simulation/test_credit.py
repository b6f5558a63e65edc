"""While the aggregator is slow or down, the broker queues no more updates than the credit."""

import numpy as np
import pytest

from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.selection import SelectionConfig
from aggregator.task_config import StrategyConfig, TaskConfig
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.topics import Kind
from simulator import World

NUM_DEVICES = 40
#: Dense float32 of 2,080 params, and what is around them.
BUDGET = 192 + 4 * 2080
CREDIT = 6 * BUDGET


class Still(Trainer):
    """Learns nothing, in no time."""

    def num_samples(self) -> int:
        return 10

    def train(self, assignment: Assignment) -> Trained:
        return Trained(assignment.params + np.float32(1e-3), 10, {})


def queued_bytes(world: World) -> int:
    """How many bytes of updates the broker holds for the aggregator."""
    session = world.broker._sessions["sim-aggregator"]
    held = [*session.unacknowledged.values(), *(session.waiting or ())]
    kinds = [(world.topics.parse(each.topic).kind, len(each.payload)) for each in held]
    return sum(size for kind, size in kinds if kind is Kind.UPDATE)


def most_queued(trouble: str, max_outstanding_bytes: int) -> tuple[int, int]:
    """Return the longest the queue ever was, in bytes, and the version reached in the end."""
    config = TaskConfig(
        task="sim",
        model={
            "input": [64],
            "layers": [{"type": "dense", "units": 32}],
            "loss": "softmax_cross_entropy",
        },
        codec="dense/float32",
        strategy=StrategyConfig(name="fedavg"),
        buffered=Buffered(goal=3, concurrency=NUM_DEVICES),
        selection=SelectionConfig(max_outstanding_bytes=max_outstanding_bytes),
        lease_ttl_s=600,
        check_in_s=10,
    )
    world = World(config, bytes(32))
    for index in range(NUM_DEVICES):
        world.add(f"d{index}", Still(), lambda _: 5.0)
    world.run_for(2.0)
    if trouble == "down":
        world.server.lose_power(down_s=120.0)
    else:
        world.server._turn_s = 15.0
    most = 0
    for _ in range(320):
        world.run_for(0.5)
        most = max(most, queued_bytes(world))
    assert world.server.coordinator is not None
    return most, world.server.coordinator.version


@pytest.mark.parametrize("trouble", ["slow", "down"])
def test_an_aggregator_in_trouble_finds_no_more_in_its_queue_than_the_credit(trouble: str) -> None:
    most, version = most_queued(trouble, CREDIT)
    assert 3 * BUDGET < most <= CREDIT
    assert version > 5, "and it goes on"


def test_without_a_bound_everybodys_update_waits_there() -> None:
    most, _ = most_queued("down", 0)
    assert most == pytest.approx(NUM_DEVICES * BUDGET, rel=0.05)
