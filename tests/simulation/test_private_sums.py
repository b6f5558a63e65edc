"""Differential privacy from end to end: whole federations whose devices train nothing but noise.

A training that changes nothing leaves the noise in the model's steps, to be measured: its size is
what was promised, or more; whoever drops out, and though t malicious devices leave theirs out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aggregator.monitor import status
from aggregator.privacy.budget import Budget
from aggregator.privacy.config import PrivacyConfig
from aggregator.records import Record, VersionRecord
from aggregator.robust.config import RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from aggregator.task_config import TaskConfig
from device_sdk.secagg import Member
from device_sdk.spending import SPENT
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.secagg import seedmask
from protocol.secagg.field import Elements
from protocol.secagg.parameters import Parameters
from simulator.enrolment import enrol
from simulator.world import World

NUM_DEVICES = 10
CLIP = 0.5
MODEL = {
    "input": [60],
    "layers": [{"type": "dense", "units": 10}],
    "loss": "softmax_cross_entropy",
}


def _duration(number: int, _assignment: Assignment) -> float:
    return 1.0 + number / 10


class Still(Trainer):
    """Trains nothing."""

    def num_samples(self) -> int:
        return 20

    def train(self, assignment: Assignment) -> Trained:
        return Trained(assignment.params.copy(), 20, {})


def private_task(
    *, goal: int, least: int, task: dict[str, Any] | None = None, **privacy: Any
) -> TaskConfig:
    given: dict[str, Any] = {
        "task": "private",
        "model": MODEL,
        "codec": "dense/float32",
        "buffered": Buffered(goal=goal, min_contributors=least, max_wait_s=30.0),
        "privacy": PrivacyConfig(mechanism="distributed", clip=CLIP, **privacy),
        "weigh_by_samples": False,
        "check_in_s": 5,
    }
    return TaskConfig(**{**given, **(task or {})})


def world_of(task: TaskConfig, scheme: str, *, least: int = 0) -> tuple[World, Parameters]:
    secure = SecureConfig(scheme=scheme, min_contributors=least)
    secure.check(task)
    names = [f"d{number}" for number in range(NUM_DEVICES)]
    given = secure.parameters(task, NUM_DEVICES, task.trained().layout.size)
    enrolled = enrol(secure, given, task.task, names, bytes(range(32)))
    world = World(task, bytes(32), enrolment=enrolled.enrolment)
    for number, name in enumerate(names):
        world.add(name, Still(), partial(_duration, number), keys=enrolled.keys[name])
    return world, given


@contextmanager
def silent(devices: set[str]) -> Iterator[None]:
    """Let these devices leave out their noise."""
    masking: list[str] = []
    mask, noisy = Member.mask, Parameters.noisy

    def watched(self: Member, *given: Any, **named: Any) -> Any:
        masking.append(self._keys.device)
        return mask(self, *given, **named)

    def left_out(self: Parameters, elements: Elements, seed: bytes) -> Elements:
        return elements if masking[-1] in devices else noisy(self, elements, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Member, "mask", watched)
        patch.setattr(Parameters, "noisy", left_out)
        yield


class Steps:
    """Of each version since the first: how many updates it counted, and their noise, in clips."""

    def __init__(self, world: World) -> None:
        self.counted: list[int] = []
        self.noise: list[np.ndarray] = []
        world.server.store.watch = self._watch
        assert world.server.coordinator is not None
        self._before = world.server.coordinator.versions.params.astype(np.float64)

    def _watch(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, VersionRecord):
                params = np.frombuffer(record.params, "<f4").astype(np.float64)
                self.counted.append(len(record.counted))
                self.noise.append((params - self._before) * len(record.counted) / CLIP)
                self._before = params


@pytest.mark.parametrize("scheme", ["seedmask", "lightsecagg"])
def test_steps_have_the_noise_promised_while_devices_drop_out(scheme: str) -> None:
    """In all sums it is the noise of those in them; in none less than the multiplier."""
    task = private_task(goal=6, least=4, noise_multiplier=1.0, epsilon=500.0)
    world, given = world_of(task, scheme, least=4)
    steps = Steps(world)
    gone = world.devices["d9"], world.devices["d8"]
    assert world.run_until(lambda: len(steps.counted) >= 4, limit_s=3600)
    for device in gone:
        device.lose_power(down_s=200.0)
    assert world.run_until(lambda: len(steps.counted) >= 12, limit_s=3600)
    sizes = [noise.std() for noise in steps.noise]
    wanted = [np.sqrt(count / given.num_noisy) for count in steps.counted]
    assert min(wanted) > 1.0
    assert sizes == pytest.approx(wanted, rel=5 / np.sqrt(2 * steps.noise[0].size))
    even = np.concatenate([noise / size for noise, size in zip(steps.noise, wanted, strict=True)])
    assert stats.kstest(even, "norm").pvalue > 1e-6


def test_rounds_of_pairwise_masks_have_the_noise_promised() -> None:
    in_rounds = {"mode": "rounds", "rounds": Rounds(size=NUM_DEVICES, quorum=8, gather_s=0.5)}
    task = private_task(goal=6, least=4, task=in_rounds, noise_multiplier=1.0, epsilon=500.0)
    world, given = world_of(task, "pairwise")
    steps = Steps(world)
    assert world.run_until(lambda: len(steps.counted) >= 3, limit_s=3600)
    for noise, count in zip(steps.noise, steps.counted, strict=True):
        wanted = np.sqrt(count / given.num_noisy)
        assert noise.std() == pytest.approx(wanted, rel=5 / np.sqrt(2 * noise.size))


def test_each_group_of_a_buffer_has_the_whole_noise() -> None:
    """Their sums are shown one by one: three groups of three, of which one may be malicious."""
    in_groups = {"robust": RobustConfig(group=3, attackers=0.1, rule="median")}
    task = private_task(goal=9, least=9, task=in_groups, noise_multiplier=1.0, epsilon=500.0)
    world, given = world_of(task, "seedmask")
    assert given.num_noisy == 2
    steps = Steps(world)
    groups: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        unmask = seedmask.unmask

        def watched(*given_: Any) -> Elements:
            sums = unmask(*given_)
            groups.append(sums[:-1] / (given.scale * CLIP))
            return sums

        patch.setattr(seedmask, "unmask", watched)
        assert world.run_until(lambda: len(steps.counted) >= 3, limit_s=3600)
    assert len(groups) == 9
    for noise in groups:
        assert noise.std() == pytest.approx(np.sqrt(3 / 2), rel=5 / np.sqrt(2 * noise.size))


def test_t_malicious_devices_cannot_take_the_noise_of_the_others_away() -> None:
    task = private_task(goal=3, least=3, noise_multiplier=1.0, epsilon=500.0)
    world, given = world_of(task, "seedmask")
    assert (given.num_malicious, given.min_contributors) == (1, 3)
    steps = Steps(world)
    with silent({"d0"}):
        assert world.run_until(lambda: len(steps.counted) >= 12, limit_s=3600)
    sizes = np.array([noise.std() for noise in steps.noise])
    assert sizes.min() > 1 - 5 / np.sqrt(2 * steps.noise[0].size)
    assert sizes.min() < 1.1, "in some sums d0 was one of three"


def test_devices_and_aggregator_stop_at_the_budget_and_say_so() -> None:
    task = private_task(goal=5, least=3, updates=2, epsilon=8.0)
    world, given = world_of(task, "seedmask")
    world.run_for(1200)
    coordinator = world.server.coordinator
    assert coordinator is not None
    for device in world.devices.values():
        assert int(device.storage.get(SPENT, b"0")) <= given.budget_nano
    told = status.metrics_report(coordinator, {})["privacy"]
    assert 0 < told["epsilon"] <= 8.0
    version, num_leases = coordinator.version, coordinator.counts["leases_given"]
    assert told["devices_spent"] >= NUM_DEVICES - 2, "the last ones have nobody to sum with"
    world.run_for(8000)
    assert coordinator.version == version
    assert coordinator.counts["leases_given"] <= num_leases + 2
    assert "have spent their epsilon of 8" in coordinator.waiting_for(world.now)


def test_an_aggregator_that_forgets_what_was_spent_gets_no_more_from_devices() -> None:
    """Its store is gone, or it lies: devices count for themselves."""
    task = private_task(goal=5, least=3, updates=2, epsilon=8.0)
    world, given = world_of(task, "seedmask")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Budget, "is_spent", lambda *_: False)
        world.run_for(1200)
    spent = [int(device.storage.get(SPENT, b"0")) for device in world.devices.values()]
    assert max(spent) <= given.budget_nano
    assert min(spent) > given.budget_nano - given.cost_nano, "each has sent all that it may"
    counts = [device.counts for device in world.devices.values()]
    assert sum(each["declined_privacy_spent"] for each in counts) >= NUM_DEVICES
