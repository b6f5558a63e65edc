"""The folder that `fedbus init` makes: what each party needs, a folder a party.

::

    fed.toml  aggregator/               to the aggregator's host
    broker/                             to the broker's host
    enrolment/carry/<id>/               each to its device
    enrolment/                          all else in it: stays with the operator, on none of these
    device.toml                         what every device's own is made from
"""

import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from broker_config.accounts import AGGREGATOR, MONITOR
from broker_config.authority import Authority, Issued
from broker_config.private_files import PUBLIC, SECRET, create, replace
from fedbus.key_files import refuse_existing
from fedbus.toml_text import fill
from protocol.errors import ConfigError

FED: Final = "fed.toml"
DEVICE: Final = "device.toml"
SAMPLES: Final = (FED, DEVICE)
CA_CERTIFICATE: Final = "ca.crt"
#: What of an enrolment goes to devices, a folder each.
CARRY: Final = "carry"
#: What lies in a folder to carry, beside `CA_CERTIFICATE` and `DEVICE`.
KEYS: Final = "keys.json"
DEVICE_CERTIFICATE: Final = "device.crt"
DEVICE_KEY: Final = "device.key"


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where things are in an operator's folder."""

    directory: Path

    @property
    def fed(self) -> Path:
        """The aggregator's settings."""
        return self.directory / FED

    @property
    def device(self) -> Path:
        """What a device's settings are made from."""
        return self.directory / DEVICE

    @property
    def aggregator(self) -> Path:
        """What the aggregator's host needs beside its settings."""
        return self.directory / AGGREGATOR

    @property
    def broker(self) -> Path:
        """What the broker's host needs."""
        return self.directory / "broker"

    @property
    def enrolment(self) -> Path:
        """The operator's keys, and what it made of them."""
        return self.directory / "enrolment"

    @property
    def ca(self) -> Path:
        """The authority (`broker_config.authority`)."""
        return self.enrolment / "ca"

    def carried(self, device: str) -> Path:
        """The folder to carry to a device."""
        return self.enrolment / CARRY / device

    def token(self, device: str) -> Path:
        """The one-time token to carry to a device instead."""
        return self.enrolment / CARRY / f"{device}.token"

    def service(self, name: str) -> tuple[Path, Path]:
        """A service's certificate and its key."""
        return self.enrolment / "services" / f"{name}.crt", (
            self.enrolment / "services" / f"{name}.key"
        )

    def check_new(self) -> None:
        """Raise ConfigError for the first thing that would be overwritten."""
        refuse_existing([self.fed, self.device, self.aggregator, self.broker, self.enrolment])


def sample(name: str) -> str:
    """Return the text of one of `SAMPLES`."""
    return resources.files("fedbus.samples").joinpath(name).read_text(encoding="utf-8")


def write_services(place: Workplace, authority: Authority) -> None:
    """Give the aggregator and the monitor their certificates. Raises OSError."""
    for name in (AGGREGATOR, MONITOR):
        certificate, key = place.service(name)
        certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        issued = authority.issue_client(name)
        replace(certificate, issued.certificate, PUBLIC)
        replace(key, issued.key)


def fill_aggregator(place: Workplace, aggregator_key: Path, rosters: Path) -> None:
    """Put together what the aggregator's host gets; its key moves there. Raises OSError."""
    certificate, key = place.service(AGGREGATOR)
    place.aggregator.mkdir(mode=0o700)
    shutil.copy(place.ca / CA_CERTIFICATE, place.aggregator)
    shutil.move(certificate, place.aggregator / "tls.crt")
    shutil.move(key, place.aggregator / "tls.key")
    shutil.move(aggregator_key, place.aggregator / "aggregator.key")
    (place.aggregator / "rosters").mkdir(mode=0o700)
    copy_rosters(place, rosters)


def copy_rosters(place: Workplace, rosters: Path) -> list[Path]:
    """Lay new rosters down for the aggregator, if it lives here; return them. Raises OSError."""
    folder = place.aggregator / "rosters"
    found = rosters.glob("*.roster") if folder.is_dir() else ()
    new = [path for path in found if not (folder / path.name).exists()]
    return [Path(shutil.copy(path, folder / path.name)) for path in new]


def carry(place: Workplace, device: str, issued: Issued, keys: Path, *, as_file: bool) -> Path:
    """Put all that a device needs into one folder, or one tar, and return where it is.

    ``keys`` moves there: it is nowhere else. Raises ConfigError for what would be overwritten.
    """
    folder, archive = place.carried(device), place.carried(device).with_name(f"{device}.tar")
    refuse_existing([folder, archive])
    contents = {
        KEYS: (keys.read_bytes(), SECRET),
        DEVICE_CERTIFICATE: (issued.certificate, PUBLIC),
        DEVICE_KEY: (issued.key, SECRET),
        CA_CERTIFICATE: ((place.ca / CA_CERTIFICATE).read_bytes(), PUBLIC),
        DEVICE: (_settings(place, device).encode(), PUBLIC),
    }
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if as_file:
            create(archive, _tar(contents))
        else:
            folder.mkdir(mode=0o700)
            for name, (data, mode) in contents.items():
                create(folder / name, data, mode)
        keys.unlink()
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from None
    return archive if as_file else folder


def _settings(place: Workplace, device: str) -> str:
    try:
        text = place.device.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{place.device}: {error.strerror}; `fedbus init` writes it") from None
    return fill(text, {"": {"device": device}})


def _tar(contents: Mapping[str, tuple[bytes, int]]) -> bytes:
    """Owned by whoever unpacks it, and of no date: boards may not know today's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, (data, mode) in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            entry.uid, entry.gid = os.getuid(), os.getgid()
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
