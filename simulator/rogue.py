"""Clients that do not speak the protocol as they should: garbage in updates, floods of messages.

No session of the product sends these: it refuses to. What comes of them is the aggregator's word.
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
from simulator.transport import MemoryTransport
from simulator.world import World
from transport import BrokerSettings, Connected, Counters, Message

#: All bits set: NaN as a float, out of range as a place.
_ONES: Final = b"\xff"


class Rogue:
    """One client with a device's name. ``attack`` is ``nan`` or ``flood``; ``every_s`` its pace."""

    def __init__(
        self,
        name: str,
        attack: str,
        every_s: float,
        *,
        world: World,
        seed: bytes,
        counters: Counters,
    ) -> None:
        self._name = name
        self._attack = attack
        self._every_s = every_s
        self._world = world
        self._install_id = derive(seed, "install")[:16]
        self._seed = seed
        self._num_sent = 0
        settings = BrokerSettings(client_id=f"{world.topics.task}-{name}")
        self._transport = MemoryTransport(
            world.broker, world.queue, settings, self._turn_soon, counters
        )
        self._transport.connect()
        world.queue.after(every_s, self._speak)

    def _turn_soon(self) -> None:
        self._world.queue.at(self._world.now, self._turn)

    def _turn(self) -> None:
        for event in self._transport.events():
            if isinstance(event, Connected):
                self._transport.subscribe([self._world.topics.into(self._name)])
            elif isinstance(event, Message):
                self._transport.acknowledge(event)
                self._heard(event.payload)

    def _speak(self) -> None:
        self._world.queue.after(self._every_s, self._speak)
        if self._attack == "flood":
            garbage = derive(self._seed, "garbage", self._num_sent)
            self._transport.publish(self._world.topics.out(self._name), garbage)
        self._say(self._world.topics.out(self._name), CheckIn(self._install_id, -1, 10, CODECS))

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
        topic = self._world.topics.update(lease.partition, self._name)
        for index, part in enumerate(parts):
            self._say(topic, UpdateChunk(lease.lease_id, checksum(update), index, len(parts), part))

    def _say(self, topic: str, message: AnyMessage) -> None:
        self._num_sent += 1
        payload = encode(
            message, task=self._world.topics.task, sender=self._name, counter=self._num_sent
        )
        self._transport.publish(topic, payload)
