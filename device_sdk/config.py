"""The device's settings: one TOML file, read once, checked once, frozen.

docs/configuration.md explains every key.
"""

from dataclasses import dataclass, field
from pathlib import Path

from protocol.errors import ConfigError
from protocol.messages import AGGREGATOR, MAX_STOCK
from protocol.settings import build
from protocol.topics import DEFAULT_PREFIX, check_id, check_prefix
from transport.config import BrokerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The samples for the SDK's own engine: an ``.npz`` file with ``x`` and ``y``."""

    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """How often the device says how it is; 0: never."""

    interval_s: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """How patiently the device asks after an update that has no receipt yet."""

    first_s: float = 15.0
    cap_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.cap_s:
            raise ConfigError(f"first_s ({self.first_s}) must be above 0 and at most cap_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureConfig:
    """Secure aggregation: the device's keys file; empty: the task is not secure.

    ``stock`` masks are dealt ahead of time; of others' shares ``max_share_bytes`` are kept.
    """

    keys: str = ""
    stock: int = 3
    max_share_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        if not 1 <= self.stock <= MAX_STOCK // 2:
            raise ConfigError(f"stock must be 1 to {MAX_STOCK // 2}, not {self.stock}")
        if self.max_share_bytes < 1:
            raise ConfigError(f"max_share_bytes must be above 0, not {self.max_share_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """Everything a device engineer can set.

    ``trainer`` is ``"package.module:Class"``, made without arguments; empty: the SDK's own engine
    on ``data.file``.
    """

    task: str
    device: str
    state_dir: str
    prefix: str = DEFAULT_PREFIX
    trainer: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    secure: SecureConfig = field(default_factory=SecureConfig)

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        check_id(self.task, "task")
        check_id(self.device, "device")
        if self.device == AGGREGATOR:
            raise ConfigError(f"device {self.device!r} is the aggregator's own name")


def load_config(path: Path) -> DeviceConfig:
    """Read a TOML file. Raises ConfigError that names the file and the key."""
    import tomllib  # noqa: PLC0415 - importing the SDK must be quick, and this is needed once

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        return build(DeviceConfig, table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
