"""What a task looks like from outside: a picture made of its monitoring topics alone.

Pure: messages in, values out. Everything a topic says is material from somebody else: what does not
parse is dropped and counted, and text is made safe to print.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from protocol.errors import RemoteProtocolError
from protocol.json_objects import read_object
from protocol.topics import Kind, Topics

MAX_REPORT_BYTES: Final = 256 * 1024
MAX_DEVICES: Final = 10_000
_ABSURD: Final = 1e18

Report = Mapping[str, object]

_EMPTY: Final[Report] = {}


@dataclass(slots=True)
class Member:
    """One device: ``state`` is its presence (online, sleeping, offline; empty: unknown)."""

    state: str = ""
    info: Report = field(default_factory=dict)
    telemetry: Report = field(default_factory=dict)


class TaskView:
    """The newest word of every monitoring topic of one task."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._reports: dict[str, Report] = {}
        self.members: dict[str, Member] = {}
        self.num_unreadable = 0

    def report(self, what: str) -> Report:
        """Return what ``mon/<what>`` said last; empty if it said nothing yet."""
        return self._reports.get(what, _EMPTY)

    @property
    def task(self) -> str:
        """Which task this is."""
        return self._topics.task

    @property
    def known(self) -> bool:
        """Whether the task's aggregator has ever said anything."""
        return "aggregator" in self._reports

    @property
    def complete(self) -> bool:
        """Whether every report that the aggregator keeps up to date has come."""
        return {"aggregator", "rounds", "metrics", "devices", "alerts"} <= self._reports.keys()

    @property
    def online(self) -> bool:
        """Whether the aggregator runs."""
        return text(self.report("aggregator"), "state") == "online"

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the newest evaluated version on the operator's held-out data."""
        return number(self.report("metrics"), "accuracy")

    def see(self, topic: str, payload: bytes) -> None:
        """Take in one message."""
        try:
            address = self._topics.parse(topic)
        except RemoteProtocolError:
            self.num_unreadable += 1
            return
        if address.kind is Kind.MONITOR:
            self._see_report(address.what, payload)
        elif address.device in self.members or len(self.members) < MAX_DEVICES:
            self._see_device(address.kind, address.device, payload)

    def _see_report(self, what: str, payload: bytes) -> None:
        report = self._parse(payload)
        if report is not None:
            self._reports[what] = report

    def _see_device(self, kind: Kind, device: str, payload: bytes) -> None:
        if not payload:  # a retained topic was cleared
            self.members.pop(device, None)
            return
        member = self.members.setdefault(device, Member())
        if kind is Kind.STATE:
            member.state = printable(payload[:16].decode("ascii", "replace"))
            return
        report = self._parse(payload)
        if report is None:
            return
        if kind is Kind.INFO:
            member.info = report
        elif kind is Kind.TELEMETRY:
            member.telemetry = report

    def _parse(self, payload: bytes) -> Report | None:
        try:
            if len(payload) <= MAX_REPORT_BYTES:
                return read_object(payload, "a report")
        except RemoteProtocolError:
            pass
        self.num_unreadable += 1
        return None


def number(report: Report, key: str) -> float | None:
    """Return the number under ``key``; None if there is none that could be meant."""
    value = report.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < _ABSURD else None


def count(report: Report, key: str) -> int:
    """Return the number under ``key`` as a count; 0 if there is none."""
    return int(number(report, key) or 0)


def text(report: Report, key: str) -> str:
    """Return the text under ``key``, safe to print; empty if there is none."""
    value = report.get(key)
    return printable(value) if isinstance(value, str) else ""


def names(report: Report, key: str) -> list[str]:
    """Return the texts listed under ``key`` (of a table: its keys), safe to print."""
    value = report.get(key)
    if not isinstance(value, list | dict):
        return []
    return [printable(item) for item in value if isinstance(item, str)]


def table(report: Report, key: str) -> Report:
    """Return the table under ``key``; empty if there is none."""
    value = report.get(key)
    return value if isinstance(value, dict) else _EMPTY


def reports(report: Report, key: str) -> list[Report]:
    """Return the tables listed under ``key``."""
    value = report.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def printable(value: str) -> str:
    """Return ``value`` without what could steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in value)
