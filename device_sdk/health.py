"""What a device can say about its own health, read from Linux where Linux has it."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from device_sdk.conditions import Readings

_MEMORY: Final = Path("/proc/meminfo")
_OWN_MEMORY: Final = Path("/proc/self/statm")
_SERIAL: Final = Path("/proc/device-tree/serial-number")
_PAGE_KIB: Final = 4


def hardware_class() -> str:
    """Return a short description: machine and system."""
    return f"{platform.machine()} {platform.system()}".strip().lower()


def board_serial() -> bytes:
    """Return the board's own serial number (Raspberry Pi and other device-tree boards), or b""."""
    try:
        return _SERIAL.read_bytes().strip(b"\0\n ")
    except OSError:
        return b""


def health(now: Readings) -> Mapping[str, Any]:
    """Return what is known now; a key that cannot be read is left out.

    ``memory_kib`` is this process's resident memory, ``memory_free_kib`` the machine's available
    memory, ``temperature_c`` degrees Celsius, ``battery_percent`` 0 to 100, ``charging`` of a
    device with a battery.
    """
    readings = {
        "memory_kib": _own_memory_kib(),
        "memory_free_kib": _free_memory_kib(),
        "temperature_c": now.temperature_c,
        "battery_percent": now.battery_percent,
        "charging": now.charging,
    }
    return {name: value for name, value in readings.items() if value is not None}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None


def _own_memory_kib() -> int | None:
    text = _read(_OWN_MEMORY)
    return None if text is None else int(text.split()[1]) * _PAGE_KIB


def _free_memory_kib() -> int | None:
    for line in (_read(_MEMORY) or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    return None
