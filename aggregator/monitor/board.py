"""The retained topics on ``mon/``: says again only what has changed."""

from aggregator.monitor.status import Report, encode
from protocol.actions import Publish
from protocol.topics import Topics

#: Keys that change by themselves; they are shown when something else has changed.
VOLATILE = frozenset({"bytes_up", "bytes_down", "open_for_s", "training"})


class Board:
    """Remembers what each monitoring topic showed last."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._shown: dict[str, bytes] = {}

    def show(self, what: str, report: Report) -> list[Publish]:
        """Return the publish that shows a report, or nothing if it says nothing new."""
        steady = encode({key: value for key, value in report.items() if key not in VOLATILE})
        if self._shown.get(what) == steady:
            return []
        self._shown[what] = steady
        return [self.say(what, report)]

    def say(self, what: str, report: Report) -> Publish:
        """Return the publish that shows a report, new or not."""
        return Publish(self._topics.monitor(what), encode(report), retain=True)

    def forget(self) -> None:
        """The broker may have forgotten: everything is new again."""
        self._shown.clear()
