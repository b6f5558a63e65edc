"""The folder of one broker: its configuration, rules, accounts, data and log.

::

    mosquitto.conf  acl  passwords     what the broker reads
    secrets/<account>                  each password alone, for the client that uses it
    data/  broker.log                  what the broker writes

``passwords`` has hashes only: once a device has its secret, the copy here may go.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from nacl.utils import random

from broker_config.accounts import account_names
from broker_config.mosquitto import SALT_BYTES, password_entry, render_acl, render_config
from protocol.topics import DEFAULT_PREFIX

PASSWORD_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class BrokerFiles:
    """Where the files of a broker are."""

    directory: Path

    @property
    def config(self) -> Path:
        """What ``mosquitto -c`` is given."""
        return self.directory / "mosquitto.conf"

    @property
    def acl(self) -> Path:
        """Who may publish and read what."""
        return self.directory / "acl"

    @property
    def passwords(self) -> Path:
        """A line an account, hashed."""
        return self.directory / "passwords"

    @property
    def data(self) -> Path:
        """Retained and queued messages."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """What the broker said last time it was started here."""
        return self.directory / "broker.log"

    def secret(self, account: str) -> Path:
        """The password of an account, alone: a client's ``password_file``."""
        return self.directory / "secrets" / account


def write_broker(
    directory: Path,
    devices: Iterable[str] = (),
    *,
    port: int,
    host: str = "127.0.0.1",
    prefix: str = DEFAULT_PREFIX,
) -> BrokerFiles:
    """Write what a broker needs to serve ``devices``; return where it is.

    Accounts that exist keep their passwords, also those of devices not listed. Raises ConfigError
    for a name or prefix that cannot be spelled, OSError if the folder cannot be written.
    """
    rules = render_acl(prefix)
    files = write_accounts(directory, devices)
    files.data.mkdir(mode=0o700, exist_ok=True)
    template = resources.files("broker_config").joinpath("mosquitto.conf").read_text("utf-8")
    values = {
        "listener": f"{port} {host}",
        "user": _broker_user(),
        "password_file": str(files.passwords.absolute()),
        "acl_file": str(files.acl.absolute()),
        "persistence_location": f"{files.data.absolute()}/",
    }
    _write_private(files.config, render_config(template, values))
    _write_private(files.acl, rules)
    return files


def write_accounts(directory: Path, devices: Iterable[str]) -> BrokerFiles:
    """Add the accounts that are missing, with a drawn password each; return where they are.

    A running broker knows them after SIGHUP.
    """
    files = BrokerFiles(directory)
    names = account_names(devices)
    directory.mkdir(parents=True, exist_ok=True)
    files.secret("").mkdir(mode=0o700, exist_ok=True)
    entries = read_entries(files.passwords)
    for name in names:
        if name not in entries:
            entries[name] = password_entry(name, _secret(files.secret(name)), random(SALT_BYTES))
    _write_private(files.passwords, "".join(f"{entry}\n" for entry in entries.values()))
    return files


def read_entries(passwords: Path) -> dict[str, str]:
    """Return the lines of a password file by account; none if there is no file."""
    if not passwords.exists():
        return {}
    lines = passwords.read_text(encoding="utf-8").splitlines()
    return {line.partition(":")[0]: line for line in lines if ":" in line}


def _secret(path: Path) -> str:
    """The secret is on disk before the hash: an entry never lacks the password it was made of."""
    if not path.exists():
        _write_private(path, random(PASSWORD_BYTES).hex() + "\n")
    return path.read_text(encoding="utf-8").strip()


def _write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only at any time."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _broker_user() -> str:
    """The user mosquitto changes to if root starts it: it must be able to read what we write.

    Started by anybody else, it ignores the line.
    """
    return "root" if os.geteuid() == 0 else "mosquitto"
