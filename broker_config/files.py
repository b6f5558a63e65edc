"""The folder of one broker: its configuration, rules, accounts, data and log.

::

    mosquitto.conf  acl  passwords             what the broker reads
    ca.crt  crl.pem  broker.crt  broker.key    the same, with TLS
    secrets/<account>                          a password alone, for the client that uses it
    data/  broker.log  broker.pid              what the broker writes

``passwords`` has hashes only: once a device has its secret, the copy here may go. A broker with TLS
names its files relative to the folder, which can be carried to another machine.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from nacl.utils import random

from broker_config.accounts import MONITOR, account_names
from broker_config.authority import Authority
from broker_config.mosquitto import (
    SALT_BYTES,
    Ports,
    password_entry,
    render_acl,
    render_config,
    render_listeners,
    render_plain,
)
from broker_config.private_files import PUBLIC, replace
from protocol.topics import DEFAULT_PREFIX
from transport.secret_files import read_secret_file

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
    def authority(self) -> Path:
        """Whose certificates the broker takes; there only with TLS."""
        return self.directory / "ca.crt"

    @property
    def revocations(self) -> Path:
        """Which certificates it takes no longer."""
        return self.directory / "crl.pem"

    @property
    def certificate(self) -> Path:
        """The broker's own certificate; its key is ``broker.key``."""
        return self.directory / "broker.crt"

    @property
    def key(self) -> Path:
        """The key of the broker's certificate."""
        return self.directory / "broker.key"

    @property
    def pid(self) -> Path:
        """Where a running mosquitto says its process id."""
        return self.directory / "broker.pid"

    @property
    def has_tls(self) -> bool:
        """Whether this is the folder of a broker with TLS."""
        return self.authority.exists()

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

    def check_secrets(self) -> None:
        """Raise ConfigError for a secret that is there and that others may read."""
        for path in (self.passwords, self.key, *sorted(self.secret("").glob("*"))):
            if path.is_file():
                read_secret_file(path)


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
    values = {
        "listener": f"{port} {host}",
        "user": _broker_user(),
        "password_file": str(files.passwords.absolute()),
        "acl_file": str(files.acl.absolute()),
        "persistence_location": f"{files.data.absolute()}/",
        "pid_file": str(files.pid.absolute()),
    }
    _write_private(files.config, render_config(render_plain(_template()), values))
    _write_private(files.acl, rules)
    return files


def write_secure_broker(
    directory: Path,
    authority: Authority,
    hosts: Iterable[str],
    *,
    ports: Ports | None = None,
    listen: str = "",
    prefix: str = DEFAULT_PREFIX,
) -> BrokerFiles:
    """Write what a broker with TLS needs, which clients reach as ``hosts``; return where it is.

    Devices and services come with certificates of ``authority``; the monitor has a password, too,
    for dashboards. Raises ConfigError for a host or prefix that cannot be spelled, OSError if the
    folder cannot be written.
    """
    rules = render_acl(prefix)
    config = render_listeners(_template(), ports or Ports(), listen)
    own = authority.issue_server("broker", hosts)
    files = BrokerFiles(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for folder in (files.data, files.secret("")):
        folder.mkdir(mode=0o700, exist_ok=True)
    replace(files.authority, authority.certificate_pem, PUBLIC)
    replace(files.revocations, authority.list_pem, PUBLIC)
    replace(files.certificate, own.certificate, PUBLIC)
    replace(files.key, own.key)
    _add_entries(files, [MONITOR])
    _write_private(files.config, render_config(config, {"user": _broker_user()}))
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
    _add_entries(files, names)
    return files


def _add_entries(files: BrokerFiles, names: Iterable[str]) -> None:
    entries = read_entries(files.passwords)
    for name in names:
        if name not in entries:
            entries[name] = password_entry(name, _secret(files.secret(name)), random(SALT_BYTES))
    write_entries(files.passwords, entries)


def write_entries(passwords: Path, entries: Mapping[str, str]) -> None:
    """Write what `read_entries` returns. A running broker knows it after SIGHUP."""
    _write_private(passwords, "".join(f"{entry}\n" for entry in entries.values()))


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
    replace(path, text.encode())


def _template() -> str:
    return resources.files("broker_config").joinpath("mosquitto.conf").read_text("utf-8")


def _broker_user() -> str:
    """The user mosquitto changes to if root starts it: it must be able to read what we write.

    Started by anybody else, it ignores the line.
    """
    return "root" if os.geteuid() == 0 else "mosquitto"
