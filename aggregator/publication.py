"""What the aggregator keeps retained at the broker: the plan, the manifest, models, differences.

What of models and differences is decided in `aggregator.downlink`; here it becomes messages. What
is not to be retained any more is cleared with empty retained payloads. A slow device never sees
the version disappear that it was asked to train.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

from aggregator.downlink import Place
from protocol.actions import Publish
from protocol.chunks import cut, payload_bytes
from protocol.codec import encode
from protocol.identity import Signer
from protocol.messages import AGGREGATOR, DifferenceChunk, Manifest, ModelChunk, Plan
from protocol.secagg.messages import AnyMessage
from protocol.topics import SHELVES, Kind, Topics

#: What a broker seems to have lost is said again at most so often.
AGAIN_S: Final = 10.0
#: The hash in a signed lease or manifest covers these.
_COVERED: Final = (ModelChunk, DifferenceChunk)


class Publication:
    """Builds the aggregator's messages; counts and signs them; remembers what is retained."""

    def __init__(self, topics: Topics, first_counter: int, signer: Signer | None = None) -> None:
        self._topics = topics
        self._signer = signer
        self._counter = first_counter
        self.chunk_bytes = payload_bytes(1 << 16)
        self._retained: dict[Place, bytes] = {}
        self._again_at = -math.inf

    def message(self, topic: str, message: AnyMessage, *, retain: bool = False) -> Publish:
        """Return the publish that carries a message."""
        self._counter += 1
        signer = None if isinstance(message, _COVERED) else self._signer
        payload = encode(
            message,
            task=self._topics.task,
            sender=AGGREGATOR,
            counter=self._counter,
            sign=None if signer is None else signer.on(topic),
            key_id=b"" if signer is None else signer.key_id,
        )
        return Publish(topic, payload, retain)

    def to_device(self, device: str, message: AnyMessage) -> Publish:
        """Return the publish that carries a message to one device."""
        return self.message(self._topics.into(device), message)

    def num_chunks(self, size: int) -> int:
        """Return how many chunks a model of ``size`` bytes takes."""
        return max(1, -(-size // self.chunk_bytes))

    def everything(self, plan: Plan, manifest: Manifest) -> list[Publish]:
        """Return all that must be retained: what a broker that forgot needs to hear."""
        return [
            self.message(self._topics.plan(), plan, retain=True),
            *self._chunks(self._retained),
            self.manifest(manifest),
        ]

    def manifest(self, manifest: Manifest) -> Publish:
        """Return the manifest of a version whose chunks have been said."""
        return self.message(self._topics.manifest(), manifest, retain=True)

    def restore(self, retained: Mapping[Place, bytes]) -> None:
        """Take over what was retained before a restart."""
        self._retained = dict(retained)

    def add(self, retained: Mapping[Place, bytes]) -> list[Publish]:
        """Return the chunks of what is new among all that is to be retained."""
        new = [place for place in retained if place not in self._retained]
        self._retained |= {place: retained[place] for place in new}
        return self._chunks(new)

    def clear(self, retained: Mapping[Place, bytes]) -> list[Publish]:
        """Return the publishes that clear what is no longer to be retained."""
        gone = [place for place in self._retained if place not in retained]
        topics = [topic for place in gone for topic in self._topics_of(place)]
        for place in gone:
            del self._retained[place]
        return [Publish(topic, b"", retain=True) for topic in topics if not self.is_current(topic)]

    def again(self, place: Place, now: float) -> list[Publish]:
        """Return the chunks of something that is retained once more, but not at every word."""
        if now < self._again_at:
            return []
        self._again_at = now + AGAIN_S
        return self._chunks([place])

    def is_current(self, topic: str) -> bool:
        """Whether a chunk is retained here, as things are cut now."""
        address = self._topics.parse(topic)
        on_shelf = (
            self.num_chunks(len(data))
            for (kind, version), data in self._retained.items()
            if kind is address.kind and version % SHELVES == address.shelf
        )
        return any(address.index < num_chunks for num_chunks in on_shelf)

    def _chunks(self, places: Iterable[Place]) -> list[Publish]:
        return [
            self.message(self._topic(place, index), self._chunk(place, index, pieces), retain=True)
            for place in places
            for pieces in [cut(self._retained[place], self.chunk_bytes)]
            for index in range(len(pieces))
        ]

    def _chunk(self, place: Place, index: int, pieces: list[bytes]) -> AnyMessage:
        kind, version = place
        if kind is Kind.MODEL:
            return ModelChunk(version, index, pieces[index])
        return DifferenceChunk(version, index, len(pieces), pieces[index])

    def _topics_of(self, place: Place) -> list[str]:
        num_chunks = self.num_chunks(len(self._retained[place]))
        return [self._topic(place, index) for index in range(num_chunks)]

    def _topic(self, place: Place, index: int) -> str:
        kind, version = place
        if kind is Kind.MODEL:
            return self._topics.model(version, index)
        return self._topics.difference(version, index)
