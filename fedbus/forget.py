"""What an enrolment's folder has of a revoked device: all by which somebody could be it."""

import shutil
from pathlib import Path
from typing import Final

from fedbus.known import DEVICES, TOKENS, WAITING
from fedbus.workplace import (
    CA_CERTIFICATE,
    CARRY,
    DEVICE,
    DEVICE_CERTIFICATE,
    DEVICE_KEY,
    KEYS,
)
from protocol.errors import ConfigError
from protocol.topics import check_id

#: What `fedbus.workplace.carry` puts into a folder.
_CARRIED: Final = {KEYS, DEVICE_CERTIFICATE, DEVICE_KEY, CA_CERTIFICATE, DEVICE}


def forget(enrolment: Path, device: str) -> list[Path]:
    """Delete a device's keys, what was to be carried to it, its token, and its place in a queue.

    What is public stays: its certificates, which lists of revoked ones name. So does what was put
    beside its keys, its data above all. Returns what is gone. Raises ConfigError.
    """
    check_id(device, "device")
    try:
        gone = _held(enrolment, device)
        for path in gone:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; delete it by hand") from None
    return gone


def _held(enrolment: Path, device: str) -> list[Path]:
    folder = enrolment / CARRY / device
    is_ours = not folder.is_dir() or {path.name for path in folder.iterdir()} <= _CARRIED
    secrets = [folder] if is_ours else [folder / name for name in (KEYS, DEVICE_KEY)]
    files = [
        *secrets,
        enrolment / DEVICES / f"{device}.json",
        enrolment / TOKENS / f"{device}.json",
        folder.with_name(f"{device}.tar"),
        folder.with_name(f"{device}.token"),
        *(enrolment / WAITING).glob(f"*/{device}.json"),
    ]
    return [path for path in files if path.exists()]
