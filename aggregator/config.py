"""The aggregator's settings: one TOML file, read once, checked once, frozen.

`TaskConfig` is what the coordinator decides by, `SecureConfig` what it adds for masked updates;
`AggregatorConfig` adds what only the shell needs. docs/configuration.md explains every key.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from aggregator.gate import Trust
from aggregator.secure_config import Enrolment, SecureConfig
from aggregator.task_config import TaskConfig
from protocol.codec import unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.secagg.messages import SignedRoster
from protocol.settings import beside, build, refuse_moved, refuse_unknown
from transport.config import FILES as BROKER_FILES
from transport.config import BrokerConfig
from transport.secret_files import open_secret_file


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Held-out data of the operator: an ``.npz`` with ``x`` and ``y``."""

    file: str = ""
    every_versions: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityConfig:
    """The table ``[identity]``: who the aggregator is, and who vouches for devices.

    ``key_file`` is its own key, which signs what it says; ``enrolment_key`` the operator's public
    key, which certifies devices and signs rosters. Unless signatures are ``required``, devices
    that have shown no certificate are believed without: for trials. ``passphrase_file`` opens a
    ``key_file`` that is locked (`transport.secret_files`).
    """

    key_file: str = ""
    passphrase_file: str = ""
    enrolment_key: str = ""
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorConfig:
    """Everything an operator can set."""

    state_dir: str
    task: TaskConfig
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    secure: SecureConfig = field(default_factory=SecureConfig)
    database: str = ""
    monitor_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.05 <= self.monitor_s <= 86_400:  # noqa: PLR2004 - 20 a second; once a day
            raise ConfigError(f"monitor_s must be from 0.05 to 86400, not {self.monitor_s}")


#: Tables of the task that stand at the top of the file: they are about devices, not the model.
FLEET_TABLES: Final = ("fairness", "bandwidth", "selection", "robust", "conduct", "privacy")

#: Settings that name files: relative ones lie beside the settings' own.
FILES: Final = (
    "state_dir",
    "evaluation.file",
    "robust.root_file",
    *("identity.key_file", "identity.passphrase_file"),
    "secure.rosters",
    *BROKER_FILES,
)
_MOVED: Final = {
    "secure.key_file": "[identity] key_file",
    "secure.enrolment_key": "[identity] enrolment_key",
}


def load_config(path: Path) -> AggregatorConfig:
    """Read a TOML file; what it names lies beside it, unless the name begins with ``/``.

    Raises ConfigError that names the file and the key.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `fedbus init` writes a sample") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        refuse_moved(table, _MOVED)
        refuse_unknown(table, (*(each.name for each in fields(AggregatorConfig)), *FLEET_TABLES))
        placed = beside(table, FILES, lambda name: str(path.parent / name))
        config = build(AggregatorConfig, with_fleet(placed))
        config.task.check()
        config.secure.check(config.task)
    except ConfigError as error:
        raise ConfigError(f"{path}: {as_written(str(error))}") from None
    return config


def with_fleet(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tables as `AggregatorConfig` has them."""
    rest = {name: given for name, given in table.items() if name not in FLEET_TABLES}
    if not isinstance(table.get("task"), dict):
        return rest
    for name in FLEET_TABLES:
        if name in table["task"]:
            raise ConfigError(f"task.{name}: [{name}] stands at the top of the file")
    fleet = {name: table[name] for name in FLEET_TABLES if name in table}
    return {**rest, "task": {**table["task"], **fleet}}


def as_written(problem: str) -> str:
    """Return an error's text with the tables' names as they stand in the file."""
    for name in FLEET_TABLES:
        if problem.startswith(f"task: {name}."):
            problem = problem.removeprefix("task: ")
        problem = problem.replace(f"task.{name}", name)
    return problem


def load_trust(config: AggregatorConfig) -> Trust | None:
    """Read the aggregator's own key, and whom it believes; None: nothing need be signed.

    Raises ConfigError that says what is missing and how to make it.
    """
    identity = config.identity
    given = {"key_file": identity.key_file, "enrolment_key": identity.enrolment_key}
    if not identity.required and not any(given.values()):
        return None
    for key, value in given.items():
        if not value:
            raise ConfigError(
                f"identity.{key}: `fedbus enrol new` makes it; or set identity.required = false for"
                " a trial in which whoever reaches the broker may speak for any device"
            )
    try:
        text, _ = open_secret_file(Path(identity.key_file), identity.passphrase_file)
    except ConfigError as error:
        raise ConfigError(f"identity.key_file {error}") from None
    try:
        secret, enrolment_key = bytes.fromhex(text.strip()), bytes.fromhex(identity.enrolment_key)
    except ValueError:
        raise ConfigError("identity: key_file and enrolment_key are 64 hex digits each") from None
    return Trust(secret, enrolment_key, identity.required)


def load_enrolment(config: AggregatorConfig) -> Enrolment | None:
    """Read the aggregator's key and its rosters; None if updates are not masked.

    Raises ConfigError that says what is missing and how to make it.
    """
    secure = config.secure
    if not secure.enabled:
        return None
    trust = load_trust(config)
    if trust is None or not secure.rosters:
        key = "identity.key_file" if trust is None else "secure.rosters"
        raise ConfigError(
            f'{key}: `fedbus enrol new` makes it; or set secure.scheme = "none", and the'
            " aggregator sees every update"
        )
    rosters = tuple(read_rosters(Path(secure.rosters)).values())
    return Enrolment(secure, trust.secret, trust.enrolment_key, rosters)


def read_rosters(folder: Path) -> dict[str, SignedRoster]:
    """Return the rosters that lie in a folder, by file name. Raises ConfigError."""
    try:
        files = {path.name: path.read_bytes() for path in sorted(folder.glob("*.roster"))}
    except OSError as error:
        raise ConfigError(f"secure.rosters {folder}: {error.strerror}") from None
    return {name: _read_roster(folder / name, data) for name, data in files.items()}


def _read_roster(path: Path, data: bytes) -> SignedRoster:
    try:
        return unpack(data, SignedRoster)
    except RemoteProtocolError as error:
        raise ConfigError(f"secure.rosters {path}: {error.detail}") from None
