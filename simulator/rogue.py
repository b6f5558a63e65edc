"""Clients that do not speak the protocol as they should: garbage in updates, floods of messages.

No session of the product sends these: it refuses to. What comes of them is the aggregator's word.
A link holds them up like any other client, and they come back to a broker with the same jitter.
"""

from typing import Final

import numpy as np

from device_sdk.abilities import CODECS
from protocol.chunks import checksum, cut, payload_bytes
from protocol.codec import decode, encode, encode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, CheckIn, Lease, Update, UpdateChunk
from protocol.secagg.messages import AnyMessage
from protocol.stream import derive
from protocol.vectors.layout import Layout
from protocol.vectors.packing import CodecSpec, max_body_bytes, parse_codec
from protocol.vectors.packing import encode as encode_delta
from protocol.vectors.support import support_seed
from simulator.links import Link, LinkProfile
from simulator.retries import jittered
from simulator.transport import MemoryTransport
from simulator.world import World
from transport import BrokerSettings, Connected, Counters, Message, QueueFullError

#: All bits set: NaN as a float, out of range as a place.
_ONES: Final = b"\xff"
#: How many messages ``replay`` says again each time.
MAX_SAID: Final = 20


class Rogue:
    """One client with a device's name that checks in every ``every_s`` seconds, whatever comes.

    ``attack`` is ``nan`` (each lease is answered with an update of nothing but ones), ``replay``
    (each is answered with the update of the first one, and all that was ever sent is sent again),
    ``sybil`` (each check-in is of another device that does not exist) or ``flood`` (garbage beside
    each check-in, leases are not answered). Without a ``link`` what it says is at
    the broker at once.
    """

    def __init__(
        self,
        name: str,
        attack: str,
        every_s: float,
        *,
        world: World,
        seed: bytes,
        counters: Counters,
        link: LinkProfile | None = None,
    ) -> None:
        self.name = name
        #: Connections it has had, all that ended included.
        self.num_connects = 0
        #: Publishes that found their queue full.
        self.num_not_sent = 0
        self._attack = attack
        self._every_s = every_s
        self._world = world
        self._install_id = derive(seed, "install")[:16]
        self._seed = seed
        self._num_sent = 0
        self._first = b""
        self._said: list[tuple[str, bytes]] = []
        settings = BrokerSettings(client_id=f"{world.topics.task}-{name}")
        self._transport = MemoryTransport(
            world.broker,
            world.queue,
            settings,
            self._turn_soon,
            counters,
            link=None if link is None else Link(link, derive(seed, "link")),
            retries=None if link is None else jittered(settings, derive(seed, "retries")),
        )
        self._transport.subscribe([world.topics.into(name)])
        self._transport.connect()
        world.queue.after(every_s, self._speak)

    def _turn_soon(self) -> None:
        self._world.queue.at(self._world.now, self._turn)

    def _turn(self) -> None:
        for event in self._transport.events():
            if isinstance(event, Connected):
                self.num_connects += 1
            elif isinstance(event, Message):
                self._transport.acknowledge(event)
                if self._attack in {"nan", "replay"}:
                    self._heard(event.payload)

    def _speak(self) -> None:
        self._world.queue.after(self._every_s, self._speak)
        if self._attack == "flood":
            garbage = derive(self._seed, "garbage", self._num_sent)
            self._publish(self._world.topics.out(self.name), garbage)
        for topic, payload in self._said:
            self._publish(topic, payload)
        name = f"{self.name}-{self._num_sent}" if self._attack == "sybil" else self.name
        install_id = derive(self._seed, "install", self._num_sent)[:16]
        install_id = install_id if self._attack == "sybil" else self._install_id
        self._say(self._world.topics.out(name), CheckIn(install_id, -1, 10, CODECS), name)

    def _heard(self, payload: bytes) -> None:
        """Answer a lease: with nothing but ones, or with what the first one was answered with."""
        try:
            lease = decode(payload, (Lease,), task=self._world.topics.task, sender=AGGREGATOR)
        except RemoteProtocolError:
            return
        coordinator = self._world.server.coordinator
        if coordinator is None:
            return
        update = self._first
        if not update or self._attack == "nan":
            layout, codec = coordinator.trained.layout, parse_codec(lease.codec)
            body = _ONES * max_body_bytes(codec, layout)
            if self._attack == "replay":
                body = _nothing(codec, layout, self._world.topics.task, lease.version)
            update = self._first = encode_update(Update(lease.version, lease.codec, 10, body))
        parts = cut(update, payload_bytes(self._transport.max_packet_bytes))
        topic = self._world.topics.update(lease.partition, self.name)
        for index, part in enumerate(parts):
            self._say(topic, UpdateChunk(lease.lease_id, checksum(update), index, len(parts), part))

    def _say(self, topic: str, message: AnyMessage, sender: str = "") -> None:
        self._num_sent += 1
        payload = encode(
            message,
            task=self._world.topics.task,
            sender=sender or self.name,
            counter=self._num_sent,
        )
        if self._attack == "replay" and len(self._said) < MAX_SAID:
            self._said.append((topic, payload))
        self._publish(topic, payload)

    def _publish(self, topic: str, payload: bytes) -> None:
        try:
            self._transport.publish(topic, payload)
        except QueueFullError:
            self.num_not_sent += 1


def _nothing(codec: CodecSpec, layout: Layout, task: str, version: int) -> bytes:
    """Return the body of an update that changes nothing."""
    zeros = np.zeros(layout.size, np.float32)
    seed = support_seed(task, version)
    return encode_delta(zeros, codec, layout, rounding_seed=bytes(32), support_seed=seed)
