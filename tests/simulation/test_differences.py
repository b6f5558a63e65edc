"""A fleet on differences: all hold the same, whatever is lost, and it costs what it should."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aggregator.bandwidth import BandwidthConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import StrategyConfig, TaskConfig
from device_sdk.held import unpack_held
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.topics import Kind
from protocol.vectors.hidden import model_hash
from simulator import SimulatedDevice, World
from tests.simulation import secure_generate, secure_play

MODEL = {
    "input": [40],
    "layers": [{"type": "dense", "units": 20}, {"type": "relu"}, {"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}


class Wanders(Trainer):
    """Moves every param a little, another way each time."""

    def __init__(self) -> None:
        self.draws = np.random.default_rng(3)

    def num_samples(self) -> int:
        return 10

    def train(self, assignment: Assignment) -> Trained:
        moves = 0.01 * self.draws.standard_normal(assignment.params.size)
        return Trained(assignment.params + moves.astype(np.float32), 10, {})


def fleet(devices: str = "abc", **settings: Any) -> World:
    bandwidth = {"differences": "topk-0.05/int8", "model": "float16", "keyframe_every": 20}
    config = TaskConfig(
        task="t",
        model=MODEL,
        codec="topk-0.05/int8",
        buffered=Buffered(goal=2, concurrency=3, min_contributors=1, max_wait_s=30.0),
        strategy=StrategyConfig(name="fedavg"),
        bandwidth=BandwidthConfig(**{**bandwidth, **settings}),
        check_in_s=5,
        lease_ttl_s=50,
    )
    world = World(config, bytes(32))
    for name in devices:
        join(world, name)
    return world


def join(world: World, name: str) -> SimulatedDevice:
    return world.add(name, Wanders(), lambda _: 2.0)


def until(world: World, condition: Callable[[], bool], limit_s: float = 600.0) -> None:
    assert world.run_until(condition, limit_s), "nothing came of it"


def version(world: World) -> int:
    coordinator = world.server.coordinator
    return -1 if coordinator is None else coordinator.version


def held(device: SimulatedDevice) -> int:
    kept = unpack_held(device.storage)
    return -1 if kept is None else kept[0].version


def check_same(world: World) -> None:
    """What devices hold is what the aggregator says of that version, to the last bit."""
    coordinator = world.server.coordinator
    assert coordinator is not None
    checked = 0
    for device in world.devices.values():
        if (kept := unpack_held(device.storage)) is None:
            continue
        published = coordinator.downlink.held(kept[0].version)
        if published is not None:
            assert model_hash(kept[0].params) == model_hash(published)
            checked += 1
    assert checked


def counted(world: World, what: str) -> int:
    sessions = [device.session for device in world.devices.values()]
    return sum(session.counts[what] for session in sessions if session is not None)


def asked_for(world: World, device: SimulatedDevice) -> set[tuple[Kind, int]]:
    """Return what a device subscribes to of models from now on, added as it does."""
    seen: set[tuple[Kind, int]] = set()
    subscribe = world.broker.subscribe

    def overhear(client_id: str, topic_filter: str) -> None:
        if client_id.endswith(f"-{device.name}") and topic_filter.endswith("/+"):
            address = world.topics.parse(topic_filter.replace("+", "0"))
            seen.add((address.kind, address.shelf))
        subscribe(client_id, topic_filter)

    world.broker.subscribe = overhear  # type: ignore[method-assign]  # to listen in
    return seen


def test_all_hold_the_same_over_restarts_of_both_sides() -> None:
    world = fleet()
    until(world, lambda: version(world) >= 6)
    world.devices["a"].lose_power(down_s=40.0)
    world.server.lose_power(after=3, down_s=2.0)
    world.run_for(20)
    world.broker.restart(forget=True, down_s=2.0)
    until(world, lambda: version(world) >= 30)
    join(world, "new")
    until(world, lambda: held(world.devices["new"]) >= 0)
    check_same(world)
    assert counted(world, "fetches_failed") == 0


def test_a_restart_publishes_the_same_bytes_and_clears_what_is_left_over() -> None:
    world = fleet()
    until(world, lambda: version(world) >= 13)
    coordinator = world.server.coordinator
    assert coordinator is not None
    before = coordinator.downlink.retained
    world.server.lose_power(down_s=1.0)
    left_over = world.topics.difference(99, 0)
    world.broker.retained[left_over] = b"of another life"
    until(world, lambda: left_over not in world.broker.retained)
    assert world.server.coordinator is not None
    now = world.server.coordinator.downlink.retained
    assert len(before.keys() & now.keys()) > 10
    assert all(now[place] == before[place] for place in before.keys() & now.keys())


def alone(world: World, name: str) -> SimulatedDevice:
    """Let all but one device go; return that one, which is off."""
    for other in world.devices.values():
        other.lose_power(down_s=None)
    world.run_for(60)
    return world.devices[name]


def test_who_comes_back_pays_for_each_version_missed_one_difference() -> None:
    """After a reboot, too: the model it holds is in its storage."""
    world = fleet("abcd")
    until(world, lambda: held(world.devices["d"]) >= 8)
    world.devices["d"].lose_power(down_s=None)
    last = held(world.devices["d"])
    until(world, lambda: version(world) == last + 3)
    device = alone(world, "d")
    newest = version(world)
    asked = asked_for(world, device)
    device.start()
    until(world, lambda: held(device) == newest)
    assert asked == {(Kind.DIFFERENCE, missed) for missed in range(last + 1, newest + 1)}
    assert 3 <= len(asked) <= 4
    check_same(world)


def lose(world: World, kind: str, number: int) -> None:
    """Let the broker forget all chunks of one thing."""
    head = f"{world.topics.prefix}/t/{kind}/{number}/"
    lost = [topic for topic in world.broker.retained if topic.startswith(head)]
    assert lost
    for topic in lost:
        del world.broker.retained[topic]


def test_a_difference_that_the_broker_lost_costs_a_whole_model_and_no_more() -> None:
    world = fleet("abcd", keyframe_every=50)
    until(world, lambda: held(world.devices["d"]) >= 8)
    world.devices["d"].lose_power(down_s=None)
    last = held(world.devices["d"])
    until(world, lambda: version(world) == last + 3)
    device = alone(world, "d")
    lose(world, "diff", last + 2)
    newest = version(world)
    asked = asked_for(world, device)
    device.start()
    until(world, lambda: held(device) == newest)
    assert (Kind.MODEL, newest) in asked
    assert counted(world, "fetches_failed") >= 1
    assert counted(world, "models_unreachable") >= 1
    check_same(world)


def test_a_whole_model_that_the_broker_lost_is_published_again() -> None:
    """Without differences, too."""
    world = fleet("abc", differences="none", model="float32")
    until(world, lambda: version(world) >= 3)
    alone(world, "a")
    lose(world, "model", version(world))
    device = join(world, "new")
    until(world, lambda: held(device) == version(world), 1500.0)


@pytest.mark.parametrize("seed", range(3))
def test_under_masks_all_goes_as_without(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secure history, whose audit counts every delta, on differences."""
    plain = secure_play.config
    down = BandwidthConfig(differences="topk-0.05/int8", model="float16", keyframe_every=4)
    monkeypatch.setattr(
        secure_play, "config", lambda history: replace(plain(history), bandwidth=down)
    )
    player = secure_play.SecurePlayer(secure_generate.secure_history(seed))
    player.run()
    check_same(player.world)


def test_a_device_without_the_word_is_told_so() -> None:
    world = fleet("ab")
    until(world, lambda: version(world) >= 1)
    coordinator = world.server.coordinator
    assert coordinator is not None
    assert coordinator.downlink.needs == {"differences"}
