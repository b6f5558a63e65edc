"""Devices that take every lease and answer none: they slow a task down, are seen, and can be ended.

Nothing in the protocol tells them from devices whose battery was taken out.
"""

from aggregator.conduct.evidence import LATE
from aggregator.coordinator import Coordinator
from aggregator.records import Standing, StandingRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import TaskConfig
from device_sdk.trainer import Assignment, Trained, Trainer
from simulator.rogue import Rogue
from simulator.world import World
from tests.simulation.training import MODEL
from transport import Counters

SLOTS = 4
HONEST = 8
HOARDERS = tuple(f"hoarder-{number}" for number in range(SLOTS))
LEASE_S = 15
SPAN_S = 90.0


class Still(Trainer):
    """Trains nothing."""

    def num_samples(self) -> int:
        return 10

    def train(self, assignment: Assignment) -> Trained:
        return Trained(assignment.params.copy(), 10, {})


def world_with(hoarders: tuple[str, ...]) -> tuple[World, Coordinator]:
    task = TaskConfig(
        task="sim",
        model=MODEL,
        codec="dense/float32",
        buffered=Buffered(goal=4, concurrency=SLOTS, max_wait_s=30.0, min_contributors=1),
        weigh_by_samples=False,
        check_in_s=5,
        lease_ttl_s=LEASE_S,
    )
    world = World(task, bytes(32))
    for number in range(HONEST):
        world.add(f"honest-{number}", Still(), lambda _: 3.0)
    for name in hoarders:
        seed = name.encode().ljust(32, b"\0")
        Rogue(name, "hoard", 2.0, world=world, seed=seed, counters=Counters())
    coordinator = world.server.coordinator
    assert coordinator is not None
    return world, coordinator


def versions_in(world: World, coordinator: Coordinator, seconds: float) -> int:
    before = coordinator.version
    world.run_for(seconds)
    return coordinator.version - before


def test_who_answers_no_lease_holds_one_slot_is_seen_and_can_be_sent_away() -> None:
    quiet = versions_in(*world_with(()), SPAN_S)
    world, coordinator = world_with(HOARDERS)
    slowed = versions_in(world, coordinator, SPAN_S)
    assert 0.15 * quiet < slowed < 0.5 * quiet  # docs/threat-model.md
    for name in HOARDERS:
        (reason,) = coordinator.conduct.reasons(name)
        assert (reason.kind, reason.count >= 2) == (LATE, True)
        assert coordinator.conduct.standing(name) is Standing.ADMITTED
    assert not any(coordinator.conduct.score(f"honest-{number}") for number in range(HONEST))
    decree = [
        StandingRecord(name, Standing.QUARANTINED, "takes and gives not") for name in HOARDERS
    ]
    coordinator.decreed(decree)
    assert versions_in(world, coordinator, SPAN_S) > 0.9 * quiet
