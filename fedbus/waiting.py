"""Devices that have keys for a cohort's next epoch, and wait for its roster."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fedbus.key_files import PUBLIC, create
from protocol.errors import ConfigError
from protocol.secagg.roster import RosterMember

_FIELDS: Final = ("identity", "epoch_key", "endorsement")


def lay_down(folder: Path, members: Iterable[RosterMember]) -> None:
    """Note devices that wait, a file each. Raises OSError, also for one that waits already."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for member in members:
        table = {name: getattr(member, name).hex() for name in _FIELDS}
        create(folder / f"{member.device}.json", json.dumps(table, indent=1).encode(), PUBLIC)


def waiting_in(folder: Path) -> tuple[RosterMember, ...]:
    """Return the devices that wait. Raises ConfigError that names the file."""
    return tuple(map(_read, sorted(folder.glob("*.json"))))


def take_up(folder: Path) -> None:
    """Forget those who wait: a roster has them now. Raises OSError."""
    for path in folder.glob("*.json"):
        path.unlink()


def _read(path: Path) -> RosterMember:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        given = {name: bytes.fromhex(table[name]) for name in _FIELDS}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: damaged; enrol {path.stem} anew") from None
    return RosterMember(path.stem, **given)
