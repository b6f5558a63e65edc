"""Whole secure federations in virtual time: bytes on the wire, and what accuracy they buy.

The product's own sessions and coordinator (`simulator`), enrolled as by `fedbus enrol`. Bytes are
those of MQTT PUBLISH packets, headers and topics included, that leave or reach devices: check-ins,
shares, receipts and answers are in it, and whatever was sent again.
"""

from collections.abc import Sequence
from statistics import median
from typing import Final

import numpy as np

from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import Enrolment, SecureConfig
from aggregator.task_config import TaskConfig
from benchmarks.enrolled import Cohort, enrolled
from benchmarks.ingest import model_spec
from benchmarks.report import Report, figure, within
from benchmarks.wire import ALPHA, PLAIN, accuracy, accuracy_after, digits_task
from device_sdk.config import SecureConfig as SecureTable
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer
from fedbus.datasets import Dataset, load, split
from protocol.stream import SEED_BYTES, Stream
from simulator.world import World

#: What is masked for the accuracy: the support, and how many versions it lasts.
SUPPORTS: Final = (("plan-0.1", 1), ("plan-0.1", 5), ("randk-0.1", 5), ("dense", 1))
SUPPORT: Final = "plan-0.1"
UPLINK_REACH: Final = 50_000
ACCURACY_REACH: Final = 0.02  # below plain and dense
NUM_DEVICES: Final = 8
STOCK: Final = SecureTable().stock  # of masks that a device deals ahead
DURATION_S: Final = 0.1


class Noise(Trainer):
    """Trains nothing: params that moved at random. How many bytes travel does not depend on it."""

    def num_samples(self) -> int:
        """Return any number."""
        return 100

    def train(self, assignment: Assignment) -> Trained:
        """Return params a little away."""
        steps = Stream(assignment.seed).uniform(assignment.params.size) - np.float32(0.5)
        return Trained(assignment.params + np.float32(1e-2) * steps, 100, {})


def secure_world(
    config: TaskConfig, secure: SecureConfig, num_devices: int, seed: int
) -> tuple[World, Cohort]:
    """Return a world that waits for its devices, and what they are enrolled with."""
    secure.check(config)
    num_params = config.model_spec().layout.size
    cohort = enrolled(secure.parameters(config, num_devices, num_params), config.task)
    enrolment = Enrolment(secure, cohort.aggregator, cohort.enrolment, (cohort.signed,))
    return World(config, bytes([seed]) * SEED_BYTES, enrolment=enrolment), cohort


# --- bytes ---------------------------------------------------------------------------------------


def wire(num_devices: int, size: int, *, versions: int) -> Report:
    """Let everybody report in rounds; return what an accepted update costs once all are at it.

    Counted is from the second version to the last: enrolment, the first stock of masks and the
    first model are left out, since they come once.
    """
    config = TaskConfig(
        task="wire",
        codec=PLAIN,
        mode="rounds",
        rounds=Rounds(size=num_devices, quorum=num_devices, gather_s=0.5),
        check_in_s=2,
        model=model_spec(size),
    )
    secure = SecureConfig(scheme="seedmask", support=SUPPORT)
    world, cohort = secure_world(config, secure, num_devices, seed=0)
    for keys in cohort.keys:
        world.add(keys.device, Noise(), lambda _: DURATION_S, keys=keys, stock=STOCK)
    _reach(world, 2)
    before = _traffic(world)
    counted = _num_counted(world)
    _reach(world, 2 + versions)
    num_updates = _num_counted(world) - counted
    up, down, sent, received = (_traffic(world) - before) / num_updates
    given = cohort.roster.parameters
    return {
        "codec": f"{secure.support}/{secure.scheme}",
        "N, t, T, U": [num_devices, given.num_malicious, given.num_noise, given.num_answers],
        "updates_per_sum": given.max_contributors,
        "params": size,
        "body_bytes": given.body_bytes,
        "stock": STOCK,
        "uplink_bytes": within(figure(up, 6), UPLINK_REACH),
        "downlink_bytes": figure(down, 6),
        "downlink_bytes_of_model": 4 * size,
        "messages_up": figure(sent),
        "messages_down": figure(received),
        "updates": num_updates,
    }


def _reach(world: World, version: int) -> None:
    coordinator = world.server.coordinator
    if coordinator is None:
        raise RuntimeError("the aggregator did not start")
    if not world.run_until(lambda: coordinator.version >= version, limit_s=1e5):
        raise RuntimeError(f"stuck at version {coordinator.version}")


def _num_counted(world: World) -> int:
    return sum(
        device.session.counts["receipts"]
        for device in world.devices.values()
        if device.session is not None
    )


def _traffic(world: World) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Bytes up and down, messages up and down, of all devices together."""
    counters = [
        device.transport.counters
        for device in world.devices.values()
        if device.transport is not None
    ]
    rows = [(each.bytes_up, each.bytes_down, each.published, each.received) for each in counters]
    total: np.ndarray[tuple[int], np.dtype[np.int64]] = np.array(rows, np.int64).sum(axis=0)
    return total


# --- accuracy ------------------------------------------------------------------------------------


def accuracies(
    supports: Sequence[tuple[str, int]], *, versions: int, seeds: Sequence[int]
) -> Report:
    """Return the accuracy on held-out digits, plain and dense, and masked with each support."""
    digits = load(None)
    plain = median(accuracy(PLAIN, digits, versions, seed) for seed in seeds)
    report: Report = {"plain dense": figure(plain)}
    for support, every in supports:
        secure = SecureConfig(scheme="seedmask", support=support, support_every=every)
        masked = median(_masked(secure, digits, versions, seed) for seed in seeds)
        report[f"{secure.codec}, support_every = {every}"] = {
            "accuracy": figure(masked),
            "below_plain": within(figure(plain - masked), ACCURACY_REACH),
        }
    return {**report, "devices": NUM_DEVICES, "versions": versions, "seeds": len(seeds)}


def _masked(secure: SecureConfig, data: Dataset, versions: int, seed: int) -> float:
    parts = split(data, devices=NUM_DEVICES, alpha=ALPHA, seed=seed)
    config = digits_task(PLAIN, data, seed)
    world, cohort = secure_world(config, secure, NUM_DEVICES, seed)
    for keys, part in zip(cohort.keys, parts.devices, strict=True):
        trainer = NumpyTrainer(data=(part.x, part.y))
        world.add(keys.device, trainer, lambda _: DURATION_S, keys=keys)
    return accuracy_after(world, versions, parts.held_out)
