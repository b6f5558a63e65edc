"""After each connect, retained chunks that nobody needs are looked for, and cleared.

A crash or another packet limit leaves them behind; the aggregator listens to its own for a while.
"""

import math
from typing import Final

from aggregator.publication import Publication
from protocol.actions import Publish, Unsubscribe
from protocol.topics import Address, Kind, Topics

#: How long after a connect.
SWEEP_S: Final = 30.0


class Sweep:
    """Nothing until `begin`; ``until`` is when it ends."""

    def __init__(self, topics: Topics, publication: Publication) -> None:
        self.until = math.inf
        self._topics = topics
        self._publication = publication

    def begin(self, now: float) -> tuple[str, ...]:
        """Return what is listened to for a while."""
        self.until = now + SWEEP_S
        return self._topics.own_model_filters()

    def hear(self, address: Address, payload: bytes) -> list[Publish]:
        """A retained chunk comes back: it is cleared unless it belongs there."""
        version, index = address.version, address.index
        if not payload or self._publication.is_current((address.kind, version), index):
            return []
        is_model = address.kind is Kind.MODEL
        topic = self._topics.model if is_model else self._topics.difference
        return [Publish(topic(version, index), b"", retain=True)]

    def end(self, now: float) -> list[Unsubscribe]:
        """Stop listening when it is time."""
        if now < self.until:
            return []
        self.until = math.inf
        return [Unsubscribe(self._topics.own_model_filters())]
