"""What an enrolment's folder has of a revoked device: all by which somebody could be it."""

import shutil
from pathlib import Path

from fedbus.enrolment import DEVICES, WAITING
from fedbus.tokens import TOKENS
from fedbus.workplace import CARRY
from protocol.errors import ConfigError
from protocol.topics import check_id


def forget(enrolment: Path, device: str) -> list[Path]:
    """Delete a device's keys, what was to be carried to it, its token, and its place in a queue.

    What is public stays: its certificates, which lists of revoked ones name. Returns what is gone.
    Raises ConfigError.
    """
    check_id(device, "device")
    folder = enrolment / CARRY / device
    files = [
        enrolment / DEVICES / f"{device}.json",
        enrolment / TOKENS / f"{device}.json",
        folder.with_name(f"{device}.tar"),
        folder.with_name(f"{device}.token"),
        *(enrolment / WAITING).glob(f"*/{device}.json"),
    ]
    gone = [path for path in (folder, *files) if path.exists()]
    try:
        for path in gone:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; delete it by hand") from None
    return gone
