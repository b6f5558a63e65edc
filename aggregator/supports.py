"""The coordinates that masked updates have in common, and how they move.

A masked vector cannot be compressed, so its coordinates are chosen beforehand and are the same for
a whole buffer. They change every few versions; the support before is still taken, into a buffer of
its own. ``randk`` draws them; ``plan`` names those that moved most since the last change and draws
the rest, so that every coordinate is visited. A support's number is the version it is meant to
begin with.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import numpy as np

from aggregator.actions import Action, Store
from aggregator.publication import Publication
from aggregator.records import DocumentRecord
from aggregator.strategy import Float32, Float64
from protocol.errors import ConfigError
from protocol.secagg.common import coordinates, num_named, read_named
from protocol.secagg.messages import Support
from protocol.topics import Topics
from protocol.vectors.packing import DENSE, PLAN, RANDK, CodecSpec
from protocol.vectors.sparse import Indices, encode_indices, max_indices_bytes, top_k

#: The names of coordinates travel in one message.
MAX_NAMED_BYTES: Final = 55_000

_SUPPORT: Final = "support/"
_BASE: Final = "support-base"


def check_support(spec: CodecSpec, size: int) -> None:
    """Raise ConfigError if the coordinates that are named would not fit into one message."""
    named = num_named(spec.num_kept(size)) if spec.support == PLAN else 0
    if named and max_indices_bytes(size, named) > MAX_NAMED_BYTES:
        raise ConfigError(
            f"secure.support: {named} coordinates of {size} cannot be named in one message: use"
            " randk, or a smaller fraction"
        )


class Supports:
    """The current support and the one before. ``documents`` is what the store keeps."""

    def __init__(
        self,
        topics: Topics,
        spec: CodecSpec,
        *,
        size: int,
        every: int,
        documents: Mapping[str, bytes],
        params: Float32,
        version: int,
    ) -> None:
        self.size = size
        self._topics = topics
        self._spec = spec
        self._every = every
        self._number = self.number_at(version)
        self._named = {
            int(key.removeprefix(_SUPPORT)): data
            for key, data in documents.items()
            if key.startswith(_SUPPORT)
        }
        self._has_base = _BASE in documents
        self._base: Float32 = np.frombuffer(documents[_BASE], "<f4") if self._has_base else params

    @property
    def num_kept(self) -> int:
        """How many coordinates travel."""
        return self._spec.num_kept(self.size)

    def number_at(self, version: int) -> int:
        """Return the number of the support that belongs to a version; 0 if there is one only."""
        return 0 if self._spec.support == DENSE else version - version % self._every

    def is_taken(self, number: int) -> bool:
        """Whether an update for this support still comes in time."""
        return number in {self._number, self._number - self._every}

    def start(self) -> list[Action]:
        """Return what must be stored before the first version."""
        if self._has_base or self._spec.support != PLAN:
            return []
        self._has_base = True
        return [self._keep_base(self._base)]

    def named(self, number: int) -> bytes:
        """Return the coordinates that a support names, as devices were told."""
        return self._named.get(number, b"")

    def coordinates(self, number: int) -> Indices | None:
        """Return the sorted coordinates of a support; None: all."""
        if self._spec.support == DENSE:
            return None
        named = read_named(self.named(number), self.size, self.num_kept)
        return coordinates(self._topics.task, number, named, self.size, self.num_kept)

    def spread(self, mean: Float64, number: int) -> Float64:
        """Return the mean delta (size,) from that of the coordinates of a support.

        What did not travel is 0; with ``randk`` the rest is enlarged, so that it is unbiased. Not
        if it is calibrated: there what did not travel is in the next difference.
        """
        where = self.coordinates(number)
        if where is None:
            return mean
        spread = np.zeros(self.size)
        unbiased = self._spec.support == RANDK and not self._spec.contractive
        spread[where] = mean * (self.size / self.num_kept) if unbiased else mean
        return spread

    def stepped(
        self, version: int, params: Float32, publication: Publication, in_use: AbstractSet[int]
    ) -> list[Action]:
        """There is a new version: perhaps it brings a new support, beside those ``in_use``."""
        number = self.number_at(version)
        if number == self._number:
            return []
        self._number = number
        if self._spec.support != PLAN:
            return self.publish(publication)
        self._named[number] = self._choose(params)
        old = [each for each in self._named if not self.is_taken(each) and each not in in_use]
        for each in old:
            del self._named[each]
        return [
            Store(DocumentRecord(_key(number), self._named[number])),
            *[Store(DocumentRecord(_key(each), b"")) for each in old],
            self._keep_base(params),
            *self.publish(publication),
        ]

    def publish(self, publication: Publication) -> list[Action]:
        """Return what devices must be told, again."""
        if self._spec.support == DENSE:
            return []
        support = Support(self._number, self.named(self._number))
        return [publication.message(self._topics.support(), support, retain=True)]

    def _choose(self, params: Float32) -> bytes:
        moved = np.abs(params - self._base)
        self._base = params
        named = num_named(self.num_kept)
        if named == 0:
            return b""
        return encode_indices(top_k(moved.astype(np.float32, copy=False), named), self.size)

    def _keep_base(self, params: Float32) -> Action:
        return Store(DocumentRecord(_BASE, params.astype("<f4").tobytes()))


def _key(number: int) -> str:
    return f"{_SUPPORT}{number}"
