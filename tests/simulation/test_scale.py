"""What costs time and memory in a large fleet is, for each device, what it costs in a small one."""

import sys
import tracemalloc
from collections.abc import Callable
from functools import partial

import pytest

import benchmarks.fleet_scale as benchmark
from aggregator.task_config import TaskConfig
from simulator import Diurnal, DryTrainer, World
from simulator.retained import Retained
from simulator.subscriptions import Subscriptions


def num_calls(action: Callable[[], object]) -> int:
    """Return how many calls, of Python and of C, it takes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def test_every_device_of_a_fleet_gets_its_receipts_at_an_equal_number_of_events() -> None:
    small, large = benchmark.simulate(40), benchmark.simulate(160)
    for found in (small, large):
        assert found["fewest_receipts_of_a_device"] >= benchmark.CHECK_INS - 1
        assert found["receipts"] >= 0.97 * benchmark.CHECK_INS * found["devices"]
    assert large["events"] / 160 <= 1.1 * small["events"] / 40


def test_a_look_up_costs_as_much_among_ten_thousand_as_among_ten() -> None:
    costs = []
    for size in (10, 10_000):
        subscriptions, retained = Subscriptions(), Retained()
        for number in range(size):
            subscriptions.add(f"d{number}", f"p/t/dev/d{number}/+")
            retained[f"p/t/dev/d{number}/state"] = b"online"
            retained[f"p/t/model/{number}/0"] = b"m"
        subscriptions.add("server", "p/t/dev/+/state")
        assert subscriptions.of("p/t/dev/d7/state") == ["d7", "server"]
        assert retained.taken("p/t/model/7/+") == ["p/t/model/7/0"]
        filters = num_calls(partial(subscriptions.of, "p/t/dev/d7/state"))
        topics = num_calls(partial(retained.taken, "p/t/model/7/+"))
        costs.append((filters, topics))
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    ("on_fraction", "most_bytes"), [(0.001, 8_000), (0.999, 14_000)], ids=["before", "after"]
)
def test_a_device_takes_a_few_thousand_bytes(on_fraction: float, most_bytes: int) -> None:
    """Before and after its first update; 100,000 devices take 0.1 MB for each of these bytes."""
    benchmark.simulate(5)  # what is imported on the way is no device's
    config = TaskConfig(task="t", model=benchmark.MODEL, max_devices=300)
    world = World(config, bytes(32))
    trainer = DryTrainer()
    world.add("first", trainer, lambda _: 1.0)
    world.run_for(50.0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(100):
        hours = Diurnal(period_s=1_000.0, on_fraction=on_fraction, phase=number / 500)
        world.add(f"d{number:06}", trainer, lambda _: 1.0, availability=hours, updates_per_wake=1)
    world.run_for(250.0)
    taken = (tracemalloc.get_traced_memory()[0] - before) / 100
    tracemalloc.stop()
    assert taken <= most_bytes
