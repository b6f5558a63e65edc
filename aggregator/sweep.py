"""After each connect, retained chunks that nobody needs are looked for, and cleared.

A crash or another packet limit leaves them behind; the aggregator listens to its own for a while.
"""

import math
from typing import Final

from aggregator.publication import Publication
from protocol.actions import Publish, Unsubscribe
from protocol.topics import Topics

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

    def hear(self, topic: str, payload: bytes) -> list[Publish]:
        """A retained chunk comes back: it is cleared unless something is retained there."""
        if not payload or self._publication.is_current(topic):
            return []
        return [Publish(topic, b"", retain=True)]

    def end(self, now: float) -> list[Unsubscribe]:
        """Stop listening when it is time."""
        if now < self.until:
            return []
        self.until = math.inf
        return [Unsubscribe(self._topics.own_model_filters())]
