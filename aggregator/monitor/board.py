"""The retained topics on ``mon/``: says again only what has changed."""

from collections.abc import Mapping
from typing import Any

from aggregator.monitor.status import Report, encode
from protocol.actions import Publish
from protocol.topics import Topics

#: Keys that change by themselves; they are shown when something else has changed.
VOLATILE = frozenset(
    {
        "bytes_up",
        "bytes_down",
        "open_for_s",
        "training",
        "ends_in_s",
        "epoch_ends_in_s",
        "outstanding_bytes",
        "credit_bytes",
        "in_time_percent",
        "links_known",
        "bytes_left",
    }
)


class Board:
    """Remembers what each monitoring topic showed last."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._shown: dict[str, bytes] = {}

    def show(self, what: str, report: Report) -> list[Publish]:
        """Return the publish that shows a report, or nothing if it says nothing new."""
        steady = encode(_steady(report))
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


def _steady(value: Any) -> Any:  # noqa: ANN401 - whatever a report holds
    """Return a report without what changes by itself, however deep."""
    if isinstance(value, Mapping):
        return {key: _steady(item) for key, item in value.items() if key not in VOLATILE}
    return [_steady(item) for item in value] if isinstance(value, list | tuple) else value
