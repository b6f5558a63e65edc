"""When devices are there: always, at their hours, or as a trace file says.

Going off is polite (the device says that it sleeps) or, in the share ``drops`` of all times, a loss
of power.
"""

import bisect
import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from protocol.errors import ConfigError

Interval = tuple[float, float]
_COLUMNS: Final = ("on_s", "off_s")


class Change(NamedTuple):
    """At ``at`` (virtual seconds; infinity: never) a device goes on, or off; till then not."""

    at: float
    is_on: bool


class Availability(Protocol):
    """When a device is there."""

    @property
    def drops(self) -> float:
        """The share of goings-off, 0 to 1, that are a loss of power."""

    def next_change(self, now: float) -> Change:
        """Return the first change after ``now``: before it, the device is what it changes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Always:
    """There from the beginning, for ever."""

    drops: float = 0.0

    def next_change(self, now: float) -> Change:  # noqa: ARG002 - as the others
        """Return that it never goes off."""
        return Change(math.inf, is_on=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diurnal:
    """On for ``on_fraction`` of every ``period_s``, from ``phase`` (0 to 1 periods) on.

    Raises ConfigError.
    """

    period_s: float = 86_400.0
    on_fraction: float = 0.5
    phase: float = 0.0
    drops: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.period_s < math.inf:
            raise ConfigError(f"period_s must be above 0, not {self.period_s}")
        if not 0 < self.on_fraction < 1:
            raise ConfigError(f"on_fraction must be between 0 and 1, not {self.on_fraction}")
        if not 0 <= self.phase < 1:
            raise ConfigError(f"phase must be from 0 to below 1, not {self.phase}")
        _check_drops(self.drops)

    def next_change(self, now: float) -> Change:
        """Return when it comes on or goes off next."""
        on_at = (math.floor(now / self.period_s - self.phase) + self.phase) * self.period_s
        # Summed in few ways only, so that rounding cannot put a change at ``now`` or before it.
        for number in range(-1, 3):
            start = on_at + number * self.period_s
            if start > now:
                return Change(start, is_on=True)
            if (end := start + self.on_fraction * self.period_s) > now:
                return Change(end, is_on=False)
        raise AssertionError("a period passed without a change")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """On from the first to the second number of each interval (seconds), and off after the last.

    Raises ConfigError unless the intervals are in order and apart.
    """

    intervals: tuple[Interval, ...]
    drops: float = 0.0

    def __post_init__(self) -> None:
        before = 0.0
        for start, end in self.intervals:
            if not before <= start < end < math.inf:
                raise ConfigError(
                    f"interval {start} to {end}: must begin at {before} or later, and end after"
                    " its beginning"
                )
            before = end
        _check_drops(self.drops)

    def next_change(self, now: float) -> Change:
        """Return when it comes on or goes off next."""
        index = bisect.bisect_right(self.intervals, now, key=itemgetter(1))
        if index == len(self.intervals):
            return Change(math.inf, is_on=True)
        start, end = self.intervals[index]
        return Change(start, is_on=True) if start > now else Change(end, is_on=False)


def _check_drops(drops: float) -> None:
    if not 0 <= drops <= 1:
        raise ConfigError(f"drops must be from 0 to 1, not {drops}")


def read_trace(path: Path) -> dict[str, Trace]:
    """Return who is there when, by device.

    A CSV file has the columns ``device,on_s,off_s`` (without ``device``: one trace, named ""), in
    order of time for each device. A JSON file holds ``{"device": [[on_s, off_s], ...], ...}``.
    Raises ConfigError that names the file, and of a CSV file the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text: {error}") from None
    rows = _json_rows(path, text) if path.suffix == ".json" else _csv_rows(path, text)
    intervals: dict[str, list[Interval]] = {}
    traces: dict[str, Trace] = {}
    for where, device, interval in rows:
        intervals.setdefault(device, []).append(interval)
        try:
            Trace(intervals=tuple(intervals[device][-2:]))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    for device, found in intervals.items():
        traces[device] = Trace(intervals=tuple(found))
    if not traces:
        raise ConfigError(f"{path}: holds no interval")
    return traces


_Row = tuple[str, str, Interval]


def _csv_rows(path: Path, text: str) -> Iterator[_Row]:
    lines = csv.reader(text.splitlines())
    header = [name.strip() for name in next(lines, [])]
    if header not in (["device", *_COLUMNS], [*_COLUMNS]):
        raise ConfigError(f"{path}:1: begin with the line device,on_s,off_s (or on_s,off_s)")
    for row in lines:
        where = f"{path}:{lines.line_num}"
        if not row:
            continue
        if len(row) != len(header):
            raise ConfigError(f"{where}: {len(row)} columns, not {len(header)}")
        yield where, row[0] if len(row) > len(_COLUMNS) else "", _interval(where, row[-2:])


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    try:
        table = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise ConfigError(f"{path}:{line}: not JSON: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f'{path}: begin with {{"device": [[on_s, off_s], ...]}}')
    for device, pairs in table.items():
        if not isinstance(pairs, list):
            raise ConfigError(f"{path}: {device}: a list of [on_s, off_s] is expected")
        for index, pair in enumerate(pairs):
            where = f"{path}: {device}[{index}]"
            if not isinstance(pair, list) or len(pair) != len(_COLUMNS):
                raise ConfigError(f"{where}: [on_s, off_s] is expected, not {pair!r}")
            yield where, device, _interval(where, pair)


def _interval(where: str, pair: Sequence[object]) -> Interval:
    try:
        start, end = (float(str(each)) for each in pair)
    except ValueError:
        raise ConfigError(f"{where}: two numbers are expected, not {list(pair)}") from None
    return start, end
