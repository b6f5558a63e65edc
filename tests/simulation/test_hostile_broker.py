"""A broker that does with 10,000 messages whatever it likes: it costs time, and nothing else.

It changes bits, forges updates, says again what was said, drops, delays, and brings messages on
topics that they were not for. What is signed covers the topic and is counted, so that the worst it
can do is to keep messages back; what it kept back is asked for again.
"""

import random
import struct
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from aggregator.conduct.config import ConductConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from device_sdk.pending import Pending
from protocol.chunks import checksum
from protocol.codec import encode, open_envelope, read
from protocol.errors import RemoteProtocolError
from protocol.identity import Signer
from protocol.messages import UpdateChunk
from protocol.stream import derive
from simulator import World
from simulator.enrolment import certify_all
from tests.simulation.audit import Audit
from tests.simulation.training import MODEL, SIZE, OneHot

TASK = "sim"
NAMES = ("ada", "ben", "cleo", "dan", "eve", "finn")
NUM_MESSAGES = 10_000
#: How many of its messages it keeps to say them again.
ARCHIVE = 500
#: Once it is honest, every device must be served within so many virtual seconds.
PATIENCE_S = 900.0


class Again(OneHot):
    """Begins with the first coordinates again when it has used all of them."""

    def __init__(self) -> None:
        super().__init__(width=2)

    def note_stored(self) -> None:
        self.stored[self._newest()] += np.arange(1, self.width + 1)

    def _newest(self) -> slice:
        start = (self.num_trainings - 1) * self.width % SIZE
        return slice(start, start + self.width)


class HostileBroker:
    """Takes the place of a world's ``broker.publish`` until it has had its messages."""

    def __init__(self, world: World, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._world = world
        self._random = random.Random(seed)  # noqa: S311 - what goes wrong, not what is secret
        self._archive: list[tuple[str, bytes, bool]] = []
        self._pass_on = world.broker.publish
        world.broker.publish = self.publish  # type: ignore[method-assign] # it is the broker

    @property
    def num_messages(self) -> int:
        """How many messages it has had in hand."""
        return self.done.total()

    def relent(self) -> None:
        """Become honest."""
        self._world.broker.publish = self._pass_on  # type: ignore[method-assign]

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Do something with a message."""
        what = self._random.choices(
            ("pass", "drop", "delay", "change", "forge", "replay", "cross"),
            (60, 8, 8, 8, 4, 6, 6),
        )[0]
        self.done[what] += 1
        self._keep(topic, payload, retain=retain)
        match what:
            case "pass":
                self._pass_on(topic, payload, qos=qos, retain=retain)
            case "delay":
                at = self._world.now + self._random.uniform(0, 60)
                self._world.queue.at(
                    at, lambda: self._pass_on(topic, payload, qos=qos, retain=retain)
                )
            case "change":
                self._pass_on(topic, self._changed(payload), qos=qos, retain=retain)
            case "forge":
                self._pass_on(topic, forged(topic, payload), qos=qos, retain=retain)
            case "replay":
                self._pass_on(topic, payload, qos=qos, retain=retain)
                old_topic, old, was_retained = self._random.choice(self._archive)
                self._pass_on(old_topic, old, qos=1, retain=was_retained)
            case "cross":
                other, _, is_retained = self._random.choice(self._archive)
                self._pass_on(other, payload, qos=1, retain=is_retained)

    def _keep(self, topic: str, payload: bytes, *, retain: bool) -> None:
        if len(self._archive) < ARCHIVE:
            self._archive.append((topic, payload, retain))
        else:
            self._archive[self._random.randrange(ARCHIVE)] = (topic, payload, retain)

    def _changed(self, payload: bytes) -> bytes:
        if not payload:
            return b"\x00"
        changed = bytearray(payload)
        for _ in range(self._random.choice((1, 1, 1, 8))):
            changed[self._random.randrange(len(changed))] ^= 1 << self._random.randrange(8)
        return bytes(changed[: self._random.choice((len(changed),) * 4 + (len(changed) // 2,))])


def forged(topic: str, payload: bytes) -> bytes:
    """Return an update in the device's name that adds 7 to the last param; else what it is."""
    try:
        envelope = open_envelope(payload)
        chunk = read(envelope, (UpdateChunk,), task=TASK, sender=envelope.sender)
    except RemoteProtocolError:
        return payload
    data = chunk.data[:-4] + struct.pack("<f", 7.0)
    signer = Signer(bytes(32), "fedbus/1")
    return encode(
        replace(chunk, data=data, checksum=checksum(data)),
        task=TASK,
        sender=envelope.sender,
        counter=envelope.counter,
        sign=signer.on(topic),
        key_id=envelope.key_id,
    )


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


def suffer(
    world: World, audit: Audit, seed: int, num_messages: int = NUM_MESSAGES
) -> HostileBroker:
    """Let the broker have its messages; whenever it is looked at, somebody says what is awaited."""
    hostile = HostileBroker(world, seed)
    coordinator = world.server.coordinator
    while hostile.num_messages < num_messages:
        version, had = coordinator.version if coordinator else -1, hostile.num_messages
        world.run_for(30.0)
        coordinator = world.server.coordinator
        assert coordinator is not None
        if coordinator.version == version:
            assert coordinator.waiting_for(world.now), "it waits, and does not say for what"
        assert hostile.num_messages > had, "silence"
    audit.check()
    hostile.relent()
    return hostile


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["dense/float32", "topk-0.002/float32"])
def test_a_hostile_broker_costs_time_and_nothing_else(codec: str) -> None:
    seed = 1
    world, audit = world_of(codec, seed)
    hostile = suffer(world, audit, seed)
    assert min(hostile.done[what] for what in ("drop", "delay", "change", "forge", "cross")) > 300
    assert audit.version > 100, "there was hardly anything to spoil"
    world.broker.restart(down_s=1.0, forget=True)  # it may have lost whatever was retained
    before = Counter(audit.outcomes)
    served = world.run_until(
        lambda: all(audit.outcomes.get(name, 0) > before[name] + 1 for name in NAMES), PATIENCE_S
    )
    assert served, f"{audit.outcomes} after {before}"
    audit.check()
    counts = world.server.counts
    assert counts["refused_bad_signature"] > 100
    assert counts["refused_replayed"] > 20


def test_without_signatures_it_has_its_way() -> None:
    """What the test above would find."""
    world, audit = world_of("dense/float32", 2, signed=False)
    with pytest.raises(AssertionError):
        suffer(world, audit, 2, num_messages=1_000)
