"""Clients that do not speak the protocol as they should: garbage in updates, floods of messages.

No session of the product sends these: it refuses to. What comes of them is the aggregator's word.
A link holds them up like any other client, and they come back to a broker with the same jitter.
"""

from typing import Final

from device_sdk.abilities import CODECS
from protocol.chunks import checksum, cut, payload_bytes
from protocol.codec import decode, encode, encode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, CheckIn, Lease, Update, UpdateChunk
from protocol.secagg.messages import AnyMessage
from protocol.stream import derive
from protocol.vectors.packing import max_body_bytes, parse_codec
from simulator.links import Link, LinkProfile
from simulator.retries import jittered
from simulator.transport import MemoryTransport
from simulator.world import World
from transport import BrokerSettings, Connected, Counters, Message, QueueFullError

#: All bits set: NaN as a float, out of range as a place.
_ONES: Final = b"\xff"


class Rogue:
    """One client with a device's name that checks in every ``every_s`` seconds, whatever comes.

    ``attack`` is ``nan`` (each lease is answered with an update of nothing but ones) or ``flood``
    (garbage beside each check-in, leases are not answered). Without a ``link`` what it says is at
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
                if self._attack == "nan":
                    self._heard(event.payload)

    def _speak(self) -> None:
        self._world.queue.after(self._every_s, self._speak)
        if self._attack == "flood":
            garbage = derive(self._seed, "garbage", self._num_sent)
            self._publish(self._world.topics.out(self.name), garbage)
        self._say(self._world.topics.out(self.name), CheckIn(self._install_id, -1, 10, CODECS))

    def _heard(self, payload: bytes) -> None:
        """Answer a lease with an update of nothing but ones."""
        try:
            lease = decode(payload, (Lease,), task=self._world.topics.task, sender=AGGREGATOR)
        except RemoteProtocolError:
            return
        coordinator = self._world.server.coordinator
        if coordinator is None:
            return
        num_bytes = max_body_bytes(parse_codec(lease.codec), coordinator.trained.layout)
        update = encode_update(Update(lease.version, lease.codec, 10, _ONES * num_bytes))
        parts = cut(update, payload_bytes(self._transport.max_packet_bytes))
        topic = self._world.topics.update(lease.partition, self.name)
        for index, part in enumerate(parts):
            self._say(topic, UpdateChunk(lease.lease_id, checksum(update), index, len(parts), part))

    def _say(self, topic: str, message: AnyMessage) -> None:
        self._num_sent += 1
        payload = encode(
            message, task=self._world.topics.task, sender=self.name, counter=self._num_sent
        )
        self._publish(topic, payload)

    def _publish(self, topic: str, payload: bytes) -> None:
        try:
            self._transport.publish(topic, payload)
        except QueueFullError:
            self.num_not_sent += 1
