"""What a client listens to, and what of it a broker that kept its session must be told again.

A broker that says ``session present`` has our subscriptions, and asking again has a price: bytes,
all retained messages once more, and in mosquitto 2.0 a little memory for good. But it may have come
back from what it had written down before it died, or have dropped retained news from the queue that
it kept for us. So what it has granted is asked for again after a while: docs/adr/0033.

Times are monotonic seconds.
"""

import math
from collections.abc import Sequence
from typing import Final

#: A subscription this old is written down, wherever a broker saves its state once a minute: it
#: takes up to two keep-alives, of a minute each, until we know that it is gone.
SETTLED_S: Final = 240.0
#: Who was away for longer may have missed something retained: a queue was full, so it was dropped.
AWAY_S: Final = 60.0
#: What a broker has forgotten although it says otherwise is asked for again after this long.
RENEWED_S: Final = 3600.0
#: Of what has ended without the broker's word for it, so many filters are kept, the newest.
MAX_LINGERING: Final = 256


class Subscriptions:
    """The filters wanted, with their QoS, and since when the broker has granted them.

    And those wanted no longer that the broker may have still.
    """

    __slots__ = ("_granted", "_lingering", "_lost_at", "_retained", "_wanted")

    def __init__(self) -> None:
        self._wanted: dict[str, int] = {}
        self._retained: set[str] = set()
        self._granted: dict[str, float] = {}
        self._lingering: dict[str, None] = {}
        self._lost_at = -math.inf

    def want(self, filters: Sequence[str], qos: int, *, retained: bool = False) -> None:
        """Want these too; those that are granted are to be asked for again."""
        self._wanted |= dict.fromkeys(filters, qos)
        self._retained.difference_update(filters)
        self._retained.update(filters if retained else ())
        for each in filters:
            self._granted.pop(each, None)
            self._lingering.pop(each, None)

    def end(self, filters: Sequence[str]) -> list[str]:
        """Want these no longer; return those that were wanted."""
        known = [each for each in filters if self._wanted.pop(each, None) is not None]
        for each in known:
            self._granted.pop(each, None)
            self._retained.discard(each)
            self._lingering[each] = None
        while len(self._lingering) > MAX_LINGERING:
            del self._lingering[next(iter(self._lingering))]
        return known

    def ended(self, topic_filter: str) -> None:
        """The broker has answered that it is over."""
        self._lingering.pop(topic_filter, None)

    def granted(self, topic_filter: str, now: float) -> None:
        """The broker said yes."""
        if topic_filter in self._wanted:
            self._granted.setdefault(topic_filter, now)

    def refused(self, topic_filter: str) -> None:
        """The broker said no."""
        self._granted.pop(topic_filter, None)

    def connection_lost(self, now: float) -> None:
        """The connection is gone: a broker that died has forgotten what was granted just now."""
        self._lost_at = now
        self._keep_those_granted(-math.inf, now - SETTLED_S)

    def missing(self, now: float, *, session_present: bool) -> list[tuple[int, list[str]]]:
        """Return what to ask the broker for on a new connection: each QoS, and its filters."""
        if not session_present or now - self._lost_at > AWAY_S:
            self._granted.clear()
        self._keep_those_granted(now - RENEWED_S, now)
        asked: dict[int, list[str]] = {}
        for topic_filter, qos in self._wanted.items():
            if topic_filter not in self._granted:
                asked.setdefault(qos, []).append(topic_filter)
        return sorted(asked.items())

    def replaceable(self, filters: Sequence[str]) -> list[str]:
        """Return those that may be ended before they are asked for again: nothing is missed."""
        return [each for each in filters if each in self._retained]

    def lingering(self, *, session_present: bool) -> list[str]:
        """Return what to end once more on a new connection: the broker may not have heard it."""
        if not session_present:
            self._lingering.clear()
        return list(self._lingering)

    def _keep_those_granted(self, begin: float, end: float) -> None:
        self._granted = {each: at for each, at in self._granted.items() if begin <= at <= end}
