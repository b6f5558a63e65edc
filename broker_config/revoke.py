"""Take a device's way in: its certificates, its password, and at once all that it may do.

A list of revoked certificates keeps a device from connecting again, and so does a password that is
gone; the connection that it has stays. So the access rules deny it everything, too, from the next
message on.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker_config import mosquitto
from broker_config.accounts import SERVICES
from broker_config.authority import Authority
from broker_config.files import BrokerFiles, read_entries, write_entries
from broker_config.private_files import PUBLIC, replace
from protocol.errors import ConfigError
from protocol.joining import NEWCOMER
from protocol.topics import check_id

_PROGRAM: Final = "mosquitto"


@dataclass(frozen=True, slots=True)
class Revoked:
    """What `revoke` did: so many certificates; whether a broker runs here, and was told.

    ``removed``: the files of passwords that are gone.
    """

    certificates: int
    reloaded: bool
    removed: tuple[Path, ...] = ()


def revoke(authority: Authority, device: str, broker: Path | None = None) -> Revoked:
    """Take back a device's certificates, and cut it off at the broker whose folder is here.

    Without ``broker`` (it runs elsewhere) ``crl.pem`` is to be carried there. Raises ConfigError
    for a name that no device can have, or for files that cannot be written.
    """
    certificates = take_back(authority, device)
    if broker is None:
        return Revoked(certificates, reloaded=False)
    publish_list(authority, broker)
    removed = forget_passwords(broker, device)
    return Revoked(certificates, deny_device(broker, device), removed)


def take_back(authority: Authority, device: str) -> int:
    """Take back a device's certificates; return how many. Raises ConfigError."""
    _check_device(device)
    with file_errors_told():
        return authority.revoke(device)


def publish_list(authority: Authority, broker: Path) -> None:
    """Lay down what an authority has taken back where a broker reads it; it is not told yet.

    Raises ConfigError.
    """
    with file_errors_told():
        replace(BrokerFiles(broker).revocations, authority.list_pem, PUBLIC)


def deny_device(broker: Path, device: str) -> bool:
    """Deny a device everything at the broker of a folder; return whether one runs and was told.

    Its password goes for good; its certificates stay valid, for `allow_device`. Raises ConfigError.
    """
    _check_device(device)
    files = BrokerFiles(broker)
    with file_errors_told():
        entries = read_entries(files.passwords)
        if entries.pop(device, None) is not None:
            write_entries(files.passwords, entries)
    _write_rules(files, mosquitto.deny(_rules(files), device))
    return reload_broker(broker)


def forget_passwords(broker: Path, device: str) -> tuple[Path, ...]:
    """Delete a device's password, and that of its one-time token; return the files that are gone.

    A broker that runs is not told. Raises ConfigError as `revoke`.
    """
    _check_device(device)
    files, accounts = BrokerFiles(broker), (device, f"{NEWCOMER}{device}")
    with file_errors_told():
        entries = read_entries(files.passwords)
        left = {name: entry for name, entry in entries.items() if name not in accounts}
        gone = [path for path in map(files.secret, accounts) if path.exists()]
        if left != entries:
            write_entries(files.passwords, left)
        for path in gone:
            path.unlink()
    rules = _rules(files)
    if (without := mosquitto.unconfine(rules, accounts[1])) != rules:
        _write_rules(files, without)
    return tuple(gone)


def allow_device(broker: Path, device: str) -> bool:
    """Undo `deny_device`, but for a password; return whether a broker runs and was told."""
    _check_device(device)
    files = BrokerFiles(broker)
    _write_rules(files, mosquitto.allow(_rules(files), device))
    return reload_broker(broker)


def denied_devices(broker: Path) -> set[str]:
    """Return the devices that `deny_device` was called for."""
    return mosquitto.denied(_rules(BrokerFiles(broker)))


def reload_broker(broker: Path) -> bool:
    """Have the mosquitto of a folder read its files again; return whether one runs."""
    pid = running_pid(BrokerFiles(broker).pid)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGHUP)
        return True
    return False


def _check_device(device: str) -> None:
    check_id(device, "device")
    if device in SERVICES:
        raise ConfigError(f"{device} is a service, and stays: renew its certificate instead")


def _rules(files: BrokerFiles) -> str:
    with file_errors_told():
        return files.acl.read_text(encoding="utf-8")


def _write_rules(files: BrokerFiles, rules: str) -> None:
    with file_errors_told():
        replace(files.acl, rules.encode())


@contextmanager
def file_errors_told() -> Iterator[None]:
    """Raise a ConfigError that names the file for any OSError within."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None


def running_pid(path: Path) -> int | None:
    """Return a mosquitto's process id by its file; None if it has ended, be it by a power cut."""
    try:
        pid = int(path.read_text(encoding="ascii"))
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return pid if name == _PROGRAM else None
