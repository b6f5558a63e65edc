"""Everything that went through a broker, as bytes in a file, and what anybody can read in them."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack

from protocol.codec import open_envelope, read, unpack
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, CheckIn, Manifest, Plan, UpdateChunk
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    MaskedUpdate,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    Shares,
    SignedRoster,
)
from protocol.secagg.requests import request_hash
from protocol.topics import Address, Kind, Topics
from tests.support.messages import KINDS

_ANY: Final = tuple(KINDS)
_FROM_AGGREGATOR: Final = frozenset(
    {Kind.IN, Kind.PLAN, Kind.ROSTER, Kind.SUPPORT, Kind.MANIFEST, Kind.MODEL}
)


def write_entry(path: Path, topic: str, payload: bytes) -> None:
    """Append one message to a log."""
    with path.open("ab") as file:
        file.write(msgpack.packb([topic, payload]))


@dataclass(frozen=True, slots=True)
class Sealed:
    """Shares on their way: the names in the topic, and the bytes to be said again."""

    dealer: str
    holder: str
    topic: str
    payload: bytes
    shares: Shares


class ByteLog:
    """A log file that may still grow; `read` takes what is new. No key is needed for any of this.

    ``updates`` are (device, update) by lease id; ``answers`` and ``refusals`` are by request and
    device, as is how often one of them was said; the rest is by device, and the newest counts.
    ``counter`` is the highest of what the aggregator said, -1 before it said anything.
    """

    def __init__(self, path: Path, topics: Topics) -> None:
        self._path = path
        self._topics = topics
        self._offset = 0
        self.rosters: list[SignedRoster] = []
        self.sealed: list[Sealed] = []
        self.updates: dict[bytes, tuple[str, MaskedUpdate]] = {}
        self.requests: dict[bytes, RecoveryRequest] = {}
        self.answers: dict[bytes, dict[str, list[bytes]]] = {}
        self.refusals: dict[bytes, dict[str, str]] = {}
        self.num_said: Counter[tuple[bytes, str]] = Counter()
        self.check_ins: dict[str, CheckIn] = {}
        self.births: dict[str, Mapping[str, Any]] = {}
        self.manifest: Manifest | None = None
        self.plan: Plan | None = None
        self.counter = -1
        self._chunks: dict[bytes, dict[int, bytes]] = {}
        self.read()

    def read(self) -> None:
        """Take what was appended since."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            unpacker = msgpack.Unpacker(file, max_buffer_size=0)
            for topic, payload in unpacker:
                self._take(topic, payload)
            self._offset = file.tell()

    def last_update(self, device: str) -> bytes:
        """Return the lease id of what a device sent last; empty if it sent nothing."""
        return next((id_ for id_, (by, _) in reversed(self.updates.items()) if by == device), b"")

    def _take(self, topic: str, payload: bytes) -> None:
        try:
            address = self._topics.parse(topic)
            if address.kind is Kind.INFO:
                self.births[address.device] = json.loads(payload)
                return
            sender = AGGREGATOR if address.kind in _FROM_AGGREGATOR else address.device
            envelope = open_envelope(payload)
            message = read(envelope, _ANY, task=self._topics.task, sender=sender)
        except (RemoteProtocolError, ValueError):
            return
        if sender == AGGREGATOR:
            self.counter = max(self.counter, envelope.counter)
        self._note(address, topic, payload, message)

    def _note(self, address: Address, topic: str, payload: bytes, message: Message) -> None:
        device = address.device
        match message:
            case SignedRoster():
                self.rosters.append(message)
            case Manifest():
                self.manifest = message
            case Plan():
                self.plan = message
            case RecoveryRequest():
                self.requests[request_hash(message)] = message
            case Shares():
                self.sealed.append(Sealed(device, address.to, topic, payload, message))
            case _:
                self._note_device(device, message)

    def _note_device(self, device: str, message: Message) -> None:
        match message:
            case UpdateChunk():
                self._piece(device, message)
            case RecoveryAnswer(hash_, elements):
                self.num_said[hash_, device] += 1
                self.answers.setdefault(hash_, {}).setdefault(device, []).append(elements)
            case RecoveryRefusal(hash_, reason):
                self.num_said[hash_, device] += 1
                self.refusals.setdefault(hash_, {})[device] = reason
            case CheckIn():
                self.check_ins[device] = message

    def _piece(self, device: str, chunk: UpdateChunk) -> None:
        have = self._chunks.setdefault(chunk.lease_id, {})
        have[chunk.index] = chunk.data
        if len(have) == chunk.num_chunks:
            whole = b"".join(data for _, data in sorted(have.items()))
            self.updates[chunk.lease_id] = (device, unpack(whole, MaskedUpdate))
