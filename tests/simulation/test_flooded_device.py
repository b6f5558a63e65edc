"""A member of a cohort floods another over the topics by which devices deal shares.

The aggregator does not hear it there, and no broker of ours limits it: the device must.
"""

from functools import partial

from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from aggregator.task_config import TaskConfig
from device_sdk.budget import BURST, PER_S
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol import refusals
from simulator.enrolment import enrol
from simulator.world import World
from tests.simulation.training import MODEL, SIZE

NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn")
#: Over the virtual seconds that it goes on.
MESSAGES_PER_S = 100
FLOOD_S = 15
PAYLOAD = b"\xc1" * 4_000


class Still(Trainer):
    """Trains nothing."""

    def num_samples(self) -> int:
        return 10

    def train(self, assignment: Assignment) -> Trained:
        return Trained(assignment.params.copy(), 10, {})


def federation() -> World:
    task = TaskConfig(
        task="sim",
        model=MODEL,
        codec="dense/float32",
        mode="rounds",
        rounds=Rounds(size=len(NAMES), quorum=len(NAMES), gather_s=0.5),
        weigh_by_samples=False,
        check_in_s=5,
    )
    secure = SecureConfig(scheme="seedmask", spare_wait_s=0.5)
    given = secure.parameters(task, len(NAMES), SIZE)
    enrolled = enrol(secure, given, task.task, NAMES, bytes(32))
    world = World(task, bytes(32), enrolment=enrolled.enrolment)
    for name in NAMES:
        world.add(name, Still(), lambda _: 1.0, keys=enrolled.keys[name])
    return world


def versions_after_the_flood(world: World) -> int:
    world.run_for(FLOOD_S)
    coordinator = world.server.coordinator
    assert coordinator is not None
    return coordinator.version


def test_whoever_floods_a_device_takes_nothing_from_the_task() -> None:
    quiet, flooded = federation(), federation()
    topic = flooded.topics.share("ada", "eve")
    say = partial(flooded.broker.publish, topic, PAYLOAD, qos=1, retain=False)
    for number in range(MESSAGES_PER_S * FLOOD_S):
        flooded.queue.at(number / MESSAGES_PER_S, say)
    assert versions_after_the_flood(flooded) >= versions_after_the_flood(quiet) > 2
    session = flooded.devices["ada"].session
    assert session is not None
    counts = session.counts
    num_read = counts[f"refused_{refusals.MALFORMED}"]
    assert 0 < num_read <= BURST + PER_S * FLOOD_S
    assert counts[f"refused_{refusals.OVER_BUDGET}"] > 0.8 * MESSAGES_PER_S * FLOOD_S
    assert len(flooded.devices["ada"].storage) < 3 * len(quiet.devices["ada"].storage)
