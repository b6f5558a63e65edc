"""A broker that does with 10,000 messages whatever it likes: it costs time, and nothing else.

What is signed covers the topic and is counted, so that the worst it can do is to keep messages
back; what it kept back is asked for again.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from aggregator.conduct.config import ConductConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from device_sdk.pending import Pending
from protocol.stream import derive
from simulator import World
from simulator.enrolment import certify_all
from tests.simulation.audit import Audit
from tests.simulation.hostile_broker import TASK, recover, suffer
from tests.simulation.training import MODEL, SIZE, OneHot

NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn")
#: With each of two codecs.
NUM_MESSAGES = 10_000


class Again(OneHot):
    """Begins with the first coordinates again when it has used all of them."""

    def __init__(self) -> None:
        super().__init__(width=2)

    def note_stored(self) -> None:
        self.stored[self._newest()] += np.arange(1, self.width + 1)

    def _newest(self) -> slice:
        start = (self.num_trainings - 1) * self.width % SIZE
        return slice(start, start + self.width)


def config(codec: str) -> TaskConfig:
    """Return settings with which leases end soon, and nobody waits for a version for long."""
    return TaskConfig(
        task=TASK,
        model=MODEL,
        codec=codec,
        buffered=Buffered(goal=3, concurrency=6, max_wait_s=15.0, min_contributors=2),
        staleness=StalenessConfig(rule="constant"),
        strategy=StrategyConfig(name="fedbuff"),
        normalise="goal",
        weigh_by_samples=False,
        max_staleness=50,
        lease_ttl_s=30,
        chunk_patience_s=3.0,
        check_in_s=6,
    )


def world_of(codec: str, seed: int, *, signed: bool = True) -> tuple[World, Audit]:
    """Return six devices and what watches them."""
    trust, keys = certify_all(TASK, NAMES, derive(bytes(32), "hostile", seed))
    settings = config(codec)
    if not signed:  # else all are quarantined for what the broker does in their names
        settings = replace(settings, conduct=ConductConfig(threshold=0.0))
    world = World(settings, derive(bytes(32), seed), trust=trust if signed else None)
    trainer = Again()
    audit = Audit(world, trainer)
    for name in NAMES:
        device = world.add(
            name,
            trainer,
            lambda _assignment: 2.0,
            storage=trainer.storage(),
            retry_first_s=3.0,
            retry_cap_s=20.0,
            keys=keys[name] if signed else None,
        )
        device.closed = partial(closed, audit, name)
    return world, audit


def closed(audit: Audit, name: str, pending: Pending, counted: bool) -> None:  # noqa: FBT001 - the hook's
    audit.closed(name, pending, counted=counted)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["dense/float32", "topk-0.002/float32"])
def test_a_hostile_broker_costs_time_and_nothing_else(codec: str) -> None:
    world, audit = world_of(codec, seed=1)
    hostile = suffer(world, 1, NUM_MESSAGES)
    audit.check()
    assert min(hostile.done[what] for what in ("drop", "delay", "change", "forge", "cross")) > 300
    assert audit.version > 100, "there was hardly anything to spoil"
    recover(hostile, world, audit)
    counts = world.server.counts
    assert counts["refused_bad_signature"] > 100
    assert counts["refused_replayed"] > 20


def test_without_signatures_it_has_its_way() -> None:
    """What the test above would find."""
    world, audit = world_of("dense/float32", seed=2, signed=False)
    assert audit.version == 0
    with pytest.raises(AssertionError):
        suffer(world, 2, num_messages=1_000)
