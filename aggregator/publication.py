"""What the aggregator keeps retained at the broker: the plan, the manifest, the live versions.

A version is live while it is among the newest ``keep_versions`` or an open lease names it; the
chunks of the others are cleared with empty retained payloads. A slow device therefore never sees
the version that it was asked to train disappear.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aggregator.records import VersionRecord
from protocol.actions import Publish
from protocol.chunks import cut, payload_bytes
from protocol.codec import encode
from protocol.messages import AGGREGATOR, Manifest, ModelChunk, Plan
from protocol.secagg.messages import AnyMessage
from protocol.topics import Topics


@dataclass(frozen=True, slots=True)
class LiveVersion:
    """A version that devices can fetch: its bytes and their SHA-256."""

    params: bytes
    model_hash: bytes


class Publication:
    """Builds the aggregator's messages; counts them; remembers which versions are live."""

    def __init__(self, topics: Topics, first_counter: int) -> None:
        self._topics = topics
        self._counter = first_counter
        self.chunk_bytes = payload_bytes(1 << 16)
        self._live: dict[int, LiveVersion] = {}

    def message(self, topic: str, message: AnyMessage, *, retain: bool = False) -> Publish:
        """Return the publish that carries a message."""
        self._counter += 1
        payload = encode(message, task=self._topics.task, sender=AGGREGATOR, counter=self._counter)
        return Publish(topic, payload, retain)

    def to_device(self, device: str, message: AnyMessage) -> Publish:
        """Return the publish that carries a message to one device."""
        return self.message(self._topics.into(device), message)

    def num_chunks(self, size: int) -> int:
        """Return how many chunks params of ``size`` bytes take."""
        return max(1, -(-size // self.chunk_bytes))

    def everything(self, plan: Plan, manifest: Manifest) -> list[Publish]:
        """Return all that must be retained: what a broker that forgot needs to hear."""
        chunks = [chunk for version in sorted(self._live) for chunk in self._chunks(version)]
        return [
            self.message(self._topics.plan(), plan, retain=True),
            *chunks,
            *self._head(manifest),
        ]

    def version(self, record: VersionRecord, manifest: Manifest) -> list[Publish]:
        """Return a new version's chunks, then its manifest: never the other way round."""
        self._live[record.version] = LiveVersion(record.params, record.model_hash)
        return [*self._chunks(manifest.version), *self._head(manifest)]

    def restore(self, live: Iterable[tuple[int, bytes]]) -> None:
        """Take over the versions that were live before a restart."""
        for version, params in live:
            self._live[version] = LiveVersion(params, hashlib.sha256(params).digest())

    def clear(self, keep: Callable[[int], bool]) -> list[Publish]:
        """Return the publishes that clear the versions no longer to be kept."""
        cleared = []
        for version in [version for version in self._live if not keep(version)]:
            chunks = range(self.num_chunks(len(self._live.pop(version).params)))
            cleared += [
                Publish(self._topics.model(version, index), b"", retain=True) for index in chunks
            ]
        return cleared

    def is_current(self, version: int, index: int) -> bool:
        """Whether this chunk is one of a live version, as it is cut now."""
        live = self._live.get(version)
        return live is not None and index < self.num_chunks(len(live.params))

    def live(self, version: int) -> LiveVersion:
        """Return a version that can be fetched."""
        return self._live[version]

    def _head(self, manifest: Manifest) -> list[Publish]:
        return [self.message(self._topics.manifest(), manifest, retain=True)]

    def _chunks(self, version: int) -> list[Publish]:
        pieces = cut(self._live[version].params, self.chunk_bytes)
        return [
            self.message(
                self._topics.model(version, index), ModelChunk(version, index, piece), retain=True
            )
            for index, piece in enumerate(pieces)
        ]
