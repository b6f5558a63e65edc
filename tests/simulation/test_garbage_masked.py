"""Garbage at machines as `fedbus init` makes them, half of it signed by whom it should come from.

A member of the cohort, and whoever has the aggregator's key, may say whatever they like: nothing
crashes, and the model stays.
"""

from collections.abc import Sequence

import pytest

from aggregator.secagg import SecureBuffers
from device_sdk.states import State
from protocol.identity import Signer
from protocol.messages import AGGREGATOR
from simulator import World
from tests.simulation.garbage import Garbage, signed
from tests.simulation.masked_world import NAMES, masked_world
from tests.simulation.secure_audit import SecureAudit
from tests.simulation.secure_enrolment import device_keys, everybody
from tests.simulation.test_garbage_machines import (
    Attacked,
    Plagued,
    Settled,
    check_round,
    coordinator_of,
    session_of,
)

#: With those of `test_garbage_machines` these are 100,000 for each machine.
NUM_PAYLOADS = 4_500
#: More than any counter of what was said before.
LATER = 1 << 39


def is_recovering(world: World) -> bool:
    secure = coordinator_of(world).secure
    return isinstance(secure, SecureBuffers) and bool(list(secure.recoveries))


STATES: dict[str, Settled] = {
    "leased": lambda world: coordinator_of(world).leases.num_active > 0,
    "recovering": is_recovering,
    "training": lambda world: session_of(world).state is State.TRAINING,
    "reporting": lambda world: session_of(world).state is State.REPORTING,
}


def stopped(scheme: str, condition: Settled) -> tuple[World, SecureAudit]:
    """Return a world in which a version was made, and then the condition has just come true."""
    world, audit = masked_world(scheme)
    world.broker.route = lambda _name, message: [0.05 + 0.03 * (message.token % 7)]
    assert world.run_until(lambda: coordinator_of(world).version > 0, 400.0)
    assert world.run_until(lambda: condition(world), 400.0)
    return world, audit


def said(audit: SecureAudit, *parts: str) -> list[bytes]:
    """Return what was said on topics with one of these parts."""
    log = [*audit.holders.log, *audit.holders.rare]
    return [payload for topic, payload in log if any(part in topic for part in parts)]


class AttackedSum(Attacked):
    """A coordinator to which members of its cohort say anything."""

    def __init__(self, world: World, audit: SecureAudit, seed: int) -> None:
        super().__init__(world, seed)
        self.garbage = Garbage(seed, said(audit, "/out", "/up/"))
        self.topics += [topic for name in NAMES for topic in self._own(name)]
        self.counter = LATER
        self.signers = {
            name: Signer(device_keys(name, founder=True).identity, world.topics.prefix)
            for name in NAMES
        }

    def throw(self, payload: bytes) -> None:
        topic = self.topics[self.garbage.below(len(self.topics))]
        if self.garbage.below(2):
            payload = self._signed(topic, payload)
        before = self.coordinator.versions.newest.params
        self.perform(self.coordinator.message(topic, payload, self.now))
        assert self.coordinator.versions.newest.params == before
        self.now += 0.01
        if self.garbage.below(20) == 0:
            self.perform(self.coordinator.timer(self.now))

    def _signed(self, topic: str, payload: bytes) -> bytes:
        name = next((name for name in NAMES if name in topic.split("/")), "a")
        self.counter += 1
        return signed(payload, self.signers[name], topic, name, self.counter)

    def _own(self, name: str) -> Sequence[str]:
        topics = self.coordinator.topics
        return topics.out(name), topics.out(name), topics.update(0, name)


class PlaguedMember(Plagued):
    """A member of a cohort whose aggregator says anything."""

    def __init__(self, world: World, audit: SecureAudit, seed: int) -> None:
        super().__init__(world, seed)
        topics = world.topics
        self.garbage = Garbage(seed, said(audit, "/in", "/roster/", "/share/"))
        self.topics += [topics.roster("all"), topics.support(), topics.into("a")]
        self.topics += [topics.share("a", name) for name in "bcz"]
        self.counter = LATER
        self.signer = Signer(everybody(1).aggregator, topics.prefix)

    def throw(self, payload: bytes) -> None:
        topic = self.topics[self.garbage.below(len(self.topics))]
        if self.garbage.below(2):
            self.counter += 1
            payload = signed(payload, self.signer, topic, AGGREGATOR, self.counter)
        self.hear(topic, payload)


@pytest.mark.parametrize("scheme", ["seedmask", "lightsecagg"])
@pytest.mark.parametrize("state", STATES)
def test_garbage_neither_crashes_a_masked_task_nor_moves_its_model(scheme: str, state: str) -> None:
    world, audit = stopped(scheme, STATES[state])
    attacked = AttackedSum(world, audit, seed=1)
    check_round(1, NUM_PAYLOADS, attacked.throw, attacked.garbage)
    assert attacked.num_refused() > 0


@pytest.mark.parametrize("scheme", ["seedmask", "lightsecagg"])
@pytest.mark.parametrize("state", STATES)
def test_garbage_does_not_crash_a_member_of_a_cohort(scheme: str, state: str) -> None:
    world, audit = stopped(scheme, STATES[state])
    plagued = PlaguedMember(world, audit, seed=1)
    check_round(1, NUM_PAYLOADS, plagued.throw, plagued.garbage)
    assert sum(plagued.session.counts.values()) > 0
