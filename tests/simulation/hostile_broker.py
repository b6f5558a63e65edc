"""A broker that does with messages whatever it likes, and how it is suffered.

It changes bits, forges updates, says again what was said, drops, delays, and brings messages on
topics that they were not for.
"""

import random
import struct
from collections import Counter
from dataclasses import replace
from typing import Final

from protocol.chunks import checksum
from protocol.codec import encode, open_envelope, read
from protocol.errors import RemoteProtocolError
from protocol.identity import Signer
from protocol.messages import UpdateChunk
from simulator import World
from tests.simulation.audit import Audit
from tests.simulation.secure_audit import SecureAudit

#: The task of all worlds that it is in.
TASK: Final = "sim"
#: How many of its messages it keeps to say them again.
ARCHIVE: Final = 500
#: Of a thousand messages it loses so many with all its connections.
BREAKS: Final = 5
#: Once it is honest, every device must be served within so many virtual seconds.
PATIENCE_S: Final = 900.0


class HostileBroker:
    """Takes the place of a world's ``broker.publish`` until it relents.

    Who watches the broker is told what was said to it, and not what it makes of that.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._world = world
        self._random = random.Random(seed)  # noqa: S311 - what goes wrong, not what is secret
        self._archive: list[tuple[str, bytes, bool]] = []
        self._pass_on = world.broker.publish
        self._watch, world.broker.watch = world.broker.watch, lambda _topic, _payload: None
        world.broker.publish = self.publish  # type: ignore[method-assign] # it is the broker

    @property
    def num_messages(self) -> int:
        """How many messages it has had in hand."""
        return self.done.total()

    def relent(self) -> None:
        """Become honest."""
        self._world.broker.watch = self._watch
        self._world.broker.publish = self._pass_on  # type: ignore[method-assign]

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Do something with a message."""
        what = self._random.choices(
            ("pass", "drop", "delay", "change", "forge", "replay", "cross", "break"),
            (600, 80, 80, 80, 40, 60, 60, BREAKS),
        )[0]
        self.done[what] += 1
        self._watch(topic, payload)
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
            case "break":
                self._world.queue.after(0.0, lambda: self._world.broker.restart(down_s=1.0))

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


def suffer(world: World, seed: int, num_messages: int) -> HostileBroker:
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
    return hostile


def recover(hostile: HostileBroker, world: World, audit: Audit | SecureAudit) -> None:
    """Let it become honest, with nothing retained: then every device is served, and all is well."""
    hostile.relent()
    world.broker.restart(down_s=1.0, forget=True)
    before = Counter(audit.outcomes)
    served = world.run_until(
        lambda: all(audit.outcomes.get(name, 0) > before[name] + 1 for name in world.devices),
        PATIENCE_S,
    )
    assert served, f"{audit.outcomes} after {before}"
    audit.check()
    coordinator = world.server.coordinator
    assert coordinator is not None
    assert not coordinator.conduct.standings, "somebody honest is kept out"
