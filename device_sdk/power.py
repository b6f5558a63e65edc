"""What a device reads of itself from Linux: power supply, heat, load, and its clock.

All of it lies below one root, so that a made-up tree is as good as a board. What is not there, or
is no number, is None.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from device_sdk.conditions import Readings

#: No clock shows an earlier time than this, 2026-01-01, once it has been set.
EARLIEST: Final = 1_767_225_600
#: The load is taken over at least so many seconds of one core.
LOAD_S: Final = 0.5
#: Sensors that are switched off say things like -274 or 255.
_DEGREES: Final = range(-40, 150)

_BATTERIES: Final = ("Battery", "UPS")
_ON_MAINS: Final = ("Charging", "Full", "Not charging")


class Board:
    """The machine below ``root``. ``clock`` is the wall clock, ``own_cpu`` this process's CPU time.

    Supplies of a device that is attached (a mouse) do not count (``scope`` is ``Device``), nor do
    batteries that are not in place.
    """

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        clock: Callable[[], float] = time.time,
        own_cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._root = root
        self._clock = clock
        self._own_cpu = own_cpu
        self._load = self._average_load()
        self._before = self._cpu_times()

    def read(self) -> Readings:
        """Read all. The load is that since the last call, at first the last minute's average."""
        supplies = [
            supply
            for supply in sorted(self._root.glob("sys/class/power_supply/*"))
            if _text(supply / "scope") != "Device"
        ]
        batteries = [
            supply
            for supply in supplies
            if _text(supply / "type") in _BATTERIES and _text(supply / "present") != "0"
        ]
        percents = [_number(battery / "capacity") for battery in batteries]
        zones = self._root.glob("sys/class/thermal/thermal_zone*/temp")
        degrees = [milli / 1000 for zone in zones if (milli := _number(zone)) is not None]
        return Readings(
            charging=_is_charging(supplies, batteries) if batteries else None,
            battery_percent=min((each for each in percents if each is not None), default=None),
            temperature_c=max((each for each in degrees if int(each) in _DEGREES), default=None),
            load=self._load_since(),
            minute=self._minute(),
        )

    def _minute(self) -> int | None:
        now = self._clock()
        if now < EARLIEST or not self._is_clock_set():
            return None
        local = time.localtime(now)
        return 60 * local.tm_hour + local.tm_min

    def _is_clock_set(self) -> bool:
        """Whether a clock chip or the network has set it; other services cannot be asked."""
        chips = self._root.glob("sys/class/rtc/*/hctosys")
        timesync = self._root / "run/systemd/timesync"  # there while systemd-timesyncd is
        return (
            any(_text(chip) == "1" for chip in chips)
            or _is_there(timesync / "synchronized")
            or not _is_there(timesync)
        )

    def _average_load(self) -> float | None:
        words = _text(self._root / "proc/loadavg").split()
        cores = _text(self._root / "proc/stat").count("\ncpu")
        try:
            return min(1.0, float(words[0]) / cores)
        except (IndexError, ValueError, ZeroDivisionError):
            return None

    def _load_since(self) -> float | None:
        """Whatever this process takes itself must not look like somebody else's work."""
        now = self._cpu_times()
        if now is None or self._before is None:
            return self._load
        passed, busy, own = (new - old for new, old in zip(now, self._before, strict=True))
        if passed >= LOAD_S:
            self._load = min(1.0, max(0.0, (busy - own) / passed))
            self._before = now
        return self._load

    def _cpu_times(self) -> tuple[float, float, float] | None:
        """Return CPU seconds since the start: of all cores, those in use, those used by us."""
        words = _text(self._root / "proc/stat").split("\n", 1)[0].split()
        try:
            ticks = [int(word) for word in words[1:9]]  # guests' time is in user's already
            idle = ticks[3] + ticks[4]
        except (IndexError, ValueError):
            return None
        second = os.sysconf("SC_CLK_TCK")
        return sum(ticks) / second, (sum(ticks) - idle) / second, self._own_cpu()


def _is_charging(supplies: list[Path], batteries: list[Path]) -> bool:
    """A charger says so itself; where none does, the batteries' own words count."""
    online = [_number(supply / "online") for supply in supplies if supply not in batteries]
    if any(each is not None for each in online):
        return any(online)
    return all(_text(battery / "status") in _ON_MAINS for battery in batteries)


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None
