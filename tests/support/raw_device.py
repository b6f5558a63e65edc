"""A device made of nothing but messages: it says what a test wants it to say."""

import secrets
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk.abilities import CODECS
from protocol.chunks import checksum, cut
from protocol.codec import decode, encode, encode_update
from protocol.messages import (
    AGGREGATOR,
    CheckIn,
    ChunksMissing,
    Held,
    Lease,
    Receipt,
    Refusal,
    Update,
    UpdateChunk,
)
from protocol.secagg.messages import AnyMessage as Message
from tests.support.bus_client import BusClient
from tests.support.federation import TASK, TOPICS

Answer = Lease | ChunksMissing | Held | Receipt | Refusal
ANSWERS: Final[tuple[type[Answer], ...]] = (Lease, ChunksMissing, Held, Receipt, Refusal)
#: What a test subscribes to, to hear what raw devices are told.
ANSWERS_FILTER: Final = TOPICS.into("+")


@dataclass(slots=True)
class RawDevice:
    """One id; many share a connection."""

    bus: BusClient
    name: str
    install_id: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    num_sent: int = 0

    @property
    def topic(self) -> str:
        """Where its updates go."""
        return TOPICS.update(0, self.name)

    def says(self, message: Message, *, task: str = TASK, sender: str = "") -> bytes:
        """Return a message of this device as bytes."""
        self.num_sent += 1
        return encode(message, task=task, sender=sender or self.name, counter=self.num_sent)

    def check_in(self, pending: bytes = b"") -> None:
        """Ask for a lease, or after an update."""
        message = CheckIn(self.install_id, -1, 10, CODECS, pending)
        self.bus.publish(TOPICS.out(self.name), self.says(message))

    def answers(self) -> list[Answer]:
        """Return what it was told so far."""
        mine = TOPICS.into(self.name)
        return [
            decode(payload, ANSWERS, task=TASK, sender=AGGREGATOR)
            for topic, payload in self.bus.messages
            if topic == mine
        ]

    def lease(self) -> Lease:
        """Check in and return the lease."""
        self.check_in()
        self.bus.until(self.answers, f"{self.name} gets a lease")
        lease = self.answers()[-1]
        assert isinstance(lease, Lease)
        return lease

    def send(self, lease_id: bytes, data: bytes, *, num_chunks: int = 1) -> None:
        """Send an update, cut into so many chunks."""
        for payload in self.chunks(lease_id, data, num_chunks=num_chunks):
            self.bus.publish(self.topic, payload)
        self.bus.settle()

    def chunks(self, lease_id: bytes, data: bytes, *, num_chunks: int) -> list[bytes]:
        """Return the payloads of an update, in order."""
        pieces = cut(data, -(-len(data) // num_chunks))
        return [
            self.says(UpdateChunk(lease_id, checksum(data), index, len(pieces), piece))
            for index, piece in enumerate(pieces)
        ]


def dense_update(lease: Lease, delta: npt.NDArray[np.float32]) -> bytes:
    """Return an update as dense/float32 writes it, whatever is in it."""
    body = delta.astype("<f4").tobytes()
    return encode_update(Update(lease.version, lease.codec, 10, body))
