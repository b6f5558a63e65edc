"""May this device train now, and if not, why: settings and readings in, one word out. No I/O."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.errors import ConfigError

NOT_CHARGING: Final = "not_charging"
BUSY: Final = "busy"
LOAD_UNKNOWN: Final = "load_unknown"
OUTSIDE_WINDOW: Final = "outside_window"
CLOCK_NOT_SET: Final = "clock_not_set"
BATTERY_LOW: Final = "battery_low"
BATTERY_UNKNOWN: Final = "battery_unknown"
TOO_HOT: Final = "too_hot"
TEMPERATURE_UNKNOWN: Final = "temperature_unknown"

#: Why a device does not train -> the sentence a person reads.
MEANING: Final[Mapping[str, str]] = {
    NOT_CHARGING: "it runs on its battery",
    BUSY: "others use more of the processor than load_ceiling",
    LOAD_UNKNOWN: "it cannot tell how busy the processor is",
    OUTSIDE_WINDOW: "the local time is outside window",
    CLOCK_NOT_SET: "its clock has not been set since it started",
    BATTERY_LOW: "the battery is below battery_floor",
    BATTERY_UNKNOWN: "its battery does not say how full it is",
    TOO_HOT: "it is above temperature_ceiling",
    TEMPERATURE_UNKNOWN: "it has no temperature sensor",
}

ALWAYS, CHARGING, IDLE, WINDOW = _WHEN = ("always", "charging", "idle", "window")
_DAY: Final = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What a device reads of itself, as far as it can.

    ``charging``: external power; None: it has no battery, so it is on the mains.
    ``battery_percent``: 0 to 100, of the emptiest battery. ``temperature_c``: of the hottest
    sensor. ``load``: the share of all cores that others than this process use, 0 to 1.
    ``minute``: of the local day, 0 to 1439; None: the clock is not set.
    """

    charging: bool | None = None
    battery_percent: int | None = None
    temperature_c: float | None = None
    load: float | None = None
    minute: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """When a device may train: all that ``train_when`` names, and its floors and ceilings."""

    train_when: str = ALWAYS
    window: str = "22:00-06:00"
    battery_floor: int = 0
    temperature_ceiling: float = 0.0
    load_ceiling: float = 0.25

    def __post_init__(self) -> None:
        for word in self._when:
            if word not in _WHEN:
                raise ConfigError(f"train_when: expected {', '.join(_WHEN)}, not {word!r}")
        if not 0 <= self.battery_floor <= 100:  # noqa: PLR2004 - percent
            raise ConfigError(f"battery_floor must be 0 to 100, not {self.battery_floor}")
        if self.temperature_ceiling < 0:
            raise ConfigError(
                f"temperature_ceiling must be above 0, not {self.temperature_ceiling}"
            )
        if not 0 < self.load_ceiling <= 1:
            raise ConfigError(f"load_ceiling must be above 0, at most 1, not {self.load_ceiling}")
        _ends_of(self.window)

    @property
    def _when(self) -> list[str]:
        return [word.strip() for word in self.train_when.split(",")]

    def against(self, now: Readings) -> str:
        """Return the first of `reasons`; empty: train."""
        return next(self.reasons(now), "")

    def reasons(self, now: Readings) -> Iterator[str]:
        """Yield all that is against training now, each a word of `MEANING`.

        What is asked for must be there to be read: only a device without a battery passes for one
        that is charged and charging.
        """
        if CHARGING in self._when and now.charging is False:
            yield NOT_CHARGING
        if IDLE in self._when and now.load is None:
            yield LOAD_UNKNOWN
        if IDLE in self._when and now.load is not None and now.load > self.load_ceiling:
            yield BUSY
        if WINDOW in self._when:
            yield from self._outside(now.minute)
        if self.battery_floor and now.charging is not None:
            yield from self._drained(now.battery_percent)
        if self.temperature_ceiling and now.temperature_c is None:
            yield TEMPERATURE_UNKNOWN
        if self.temperature_ceiling and (now.temperature_c or 0.0) > self.temperature_ceiling:
            yield TOO_HOT

    def _outside(self, minute: int | None) -> Iterator[str]:
        first, end = _ends_of(self.window)
        if minute is None:
            yield CLOCK_NOT_SET
        elif (minute - first) % _DAY >= (end - first) % _DAY:
            yield OUTSIDE_WINDOW

    def _drained(self, percent: int | None) -> Iterator[str]:
        if percent is None:
            yield BATTERY_UNKNOWN
        elif percent < self.battery_floor:
            yield BATTERY_LOW


def describe(now: Readings) -> Mapping[str, str]:
    """Return the readings in words, name by name."""
    battery = {None: "none", True: "charging", False: "in use"}[now.charging]
    percent = "?" if now.battery_percent is None else now.battery_percent
    time = "not set" if now.minute is None else f"{now.minute // 60:02}:{now.minute % 60:02}"
    return {
        "battery": battery if now.charging is None else f"{percent} %, {battery}",
        "temperature": "no sensor" if now.temperature_c is None else f"{now.temperature_c:.1f} C",
        "load of others": "unknown" if now.load is None else f"{now.load:.0%}",
        "local time": time,
    }


def _ends_of(window: str) -> tuple[int, int]:
    """Return the window's first minute of the day, and the first one after it."""
    found = re.fullmatch(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])", window)
    if found is None or found.group(1, 2) == found.group(3, 4):
        raise ConfigError(f'window: expected two times like "22:00-06:00", not {window!r}')
    hour, minute, end_hour, end_minute = map(int, found.groups())
    return 60 * hour + minute, 60 * end_hour + end_minute
