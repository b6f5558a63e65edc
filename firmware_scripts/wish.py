"""What the user wants on the device: read once, checked before anything is touched."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Final

from device_sdk.config import DeviceConfig, load_config
from firmware_scripts.bundle import REQUIREMENTS, Bundle, build_bundle
from protocol.errors import ConfigError
from transport.secret_files import read_secret_file

OPT: Final = "/opt/fedbus"
RELEASES: Final = f"{OPT}/releases"
CURRENT: Final = f"{OPT}/current"
PREVIOUS: Final = f"{OPT}/previous"
VENV: Final = f"{OPT}/venv"
VENV_READY: Final = f"{VENV}/ready"
ETC: Final = "/etc/fedbus"
CONFIG: Final = f"{ETC}/device.toml"
PASSWORD: Final = f"{ETC}/password"
#: What `fedbus enrol` puts into a folder to carry, beside the settings, and its mode.
CARRIED: Final = {"ca.crt": 0o644, "device.crt": 0o644, "device.key": 0o600, "keys.json": 0o600}
#: What the device trains on, if it lies in that folder, too. Its service runs as a user of no name.
DATA: Final = {"data.npz": 0o644}
_SECRETS: Final = ("password", "device.key", "keys.json")
STATE_DIR: Final = "/var/lib/fedbus"
DEVICE_UNIT: Final = "fedbus-device.service"
SETUP_UNIT: Final = "fedbus-setup.service"

_UNITS: Final = "/etc/systemd/system"


def _credential(name: str) -> str:
    """The unit's user is made up at its start and may not read root's files: it gets a copy."""
    return (
        f"\nLoadCredential={name}:{ETC}/{name}"
        f"\nBindReadOnlyPaths=/run/credentials/{DEVICE_UNIT}/{name}:{ETC}/{name}\n"
    )


@dataclass(frozen=True, slots=True)
class File:
    """A file on the target: ``path`` there, ``mode``, content."""

    path: str
    mode: int
    data: bytes = field(repr=False)

    @property
    def secret(self) -> bool:
        """Whether not even its size may be told."""
        return self.path in {f"{ETC}/{name}" for name in _SECRETS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One device as it should be.

    ``python`` is an interpreter on the target that has the libraries; empty: a virtual environment
    is made there, from ``wheels`` (file name -> content) or, without any, from the network.
    ``carried`` are those of `CARRIED` and `DATA` that were given: certificates, keys, data.
    """

    bundle: Bundle
    config: bytes
    settings: DeviceConfig
    password: bytes | None = field(default=None, repr=False)
    python: str = ""
    wheels: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    carried: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def needs_password(self) -> bool:
        """Whether the device reads `PASSWORD`, be it flashed now or there already."""
        return self.settings.broker.password_file == PASSWORD

    @property
    def data_file(self) -> str:
        """Where the device looks for what it trains on; empty: its own trainer knows."""
        if self.settings.trainer or not self.settings.data.file:
            return ""
        given = tomllib.loads(self.config.decode())["data"]["file"]
        return str(PurePosixPath(ETC) / given)

    def files(self) -> tuple[File, ...]:
        """Everything but the release, in the order in which it is put in place."""
        wanted = [File(CONFIG, 0o644, self.config)]
        if self.password is not None:
            wanted.append(File(PASSWORD, 0o600, self.password))
        wanted += [
            File(f"{ETC}/{name}", mode, self.carried[name])
            for name, mode in (CARRIED | DATA).items()
            if name in self.carried
        ]
        wanted.append(File(f"{_UNITS}/{DEVICE_UNIT}", 0o644, self._unit()))
        return (*self.setup_files(), *wanted)

    def setup_files(self) -> tuple[File, ...]:
        """What makes the virtual environment; nothing where an interpreter was given."""
        if self.python:
            return ()
        requirements = "".join(f"{each}\n" for each in REQUIREMENTS).encode()
        return (
            *(File(f"{OPT}/wheels/{name}", 0o644, data) for name, data in self.wheels.items()),
            File(f"{OPT}/requirements.txt", 0o644, requirements),
            File(f"{OPT}/setup", 0o755, _template("setup.sh")),
            File(f"{_UNITS}/{SETUP_UNIT}", 0o644, _template(SETUP_UNIT)),
        )

    def links(self) -> dict[str, str]:
        """Path -> what it points to: what starts the units, without a running systemd."""
        units = [DEVICE_UNIT] if self.python else [DEVICE_UNIT, SETUP_UNIT]
        return {wanted_by(unit): f"../{unit}" for unit in units}

    def _unit(self) -> bytes:
        read = {self.settings.broker.key_file, self.settings.identity.keys}
        read |= {PASSWORD} if self.needs_password() else set()
        credential = "".join(_credential(name) for name in _SECRETS if f"{ETC}/{name}" in read)
        text = _template(DEVICE_UNIT).decode()
        text = text.replace("@python@", self.python or f"{VENV}/bin/python")
        return text.replace("@password@\n", credential).encode()


def wanted_by(unit: str) -> str:
    """Return the link that has systemd start ``unit`` at boot."""
    return f"{_UNITS}/multi-user.target.wants/{unit}"


def read_wish(
    config: Path,
    *,
    password_file: Path | None = None,
    python: str = "",
    wheelhouse: Path | None = None,
    carried: Path | None = None,
) -> Wish:
    """Read and check what the user gave; ``carried`` is a device's folder by `fedbus enrol`.

    Raises ConfigError, naming what to mend.
    """
    settings = load_config(config)
    if settings.state_dir != STATE_DIR:
        raise ConfigError(
            f'{config}: a flashed device keeps its state in state_dir = "{STATE_DIR}"'
        )
    if python and (not python.startswith("/") or any(each.isspace() for each in python)):
        raise ConfigError(f"--python {python}: give its whole path, without spaces")
    if python and wheelhouse is not None:
        raise ConfigError("--wheelhouse is for the virtual environment: leave out --python")
    wish = Wish(
        bundle=build_bundle(),
        config=config.read_bytes(),
        settings=settings,
        password=None if password_file is None else _read_password(password_file),
        python=python,
        wheels={} if wheelhouse is None else _read_wheels(wheelhouse),
        carried={} if carried is None else _read_carried(carried),
    )
    if password_file is not None and not wish.needs_password():
        raise ConfigError(
            f'{config}: the device will find its password in broker.password_file = "{PASSWORD}"'
        )
    return wish


def _read_password(path: Path) -> bytes:
    try:
        text = read_secret_file(path).strip()
    except ConfigError as error:
        raise ConfigError(f"--password-file {error}") from None
    if not text:
        raise ConfigError(f"--password-file {path}: is empty")
    return f"{text}\n".encode()


def _read_wheels(folder: Path) -> dict[str, bytes]:
    wheels = {path.name: path.read_bytes() for path in sorted(folder.glob("*.whl"))}
    if not wheels:
        raise ConfigError(f"--wheelhouse {folder}: no *.whl files there")
    return wheels


def _read_carried(folder: Path) -> dict[str, bytes]:
    try:
        there = [name for name in DATA if (folder / name).is_file()]
        for name in (each for each in CARRIED if each in _SECRETS):
            read_secret_file(folder / name)
        return {name: (folder / name).read_bytes() for name in [*CARRIED, *there]}
    except ConfigError as error:
        raise ConfigError(f"--carry {error}") from None
    except OSError as error:
        raise ConfigError(f"--carry {error.filename}: {error.strerror}") from None


def _template(name: str) -> bytes:
    return files("firmware_scripts").joinpath(name).read_bytes()
