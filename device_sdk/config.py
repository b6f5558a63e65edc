"""The device's settings: one TOML file, read once, checked once, frozen.

docs/configuration.md explains every key.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from device_sdk.conditions import Conditions
from protocol.errors import ConfigError
from protocol.messages import AGGREGATOR, MAX_STOCK, MIN_SAMPLES
from protocol.settings import beside, build, refuse_moved
from protocol.topics import DEFAULT_PREFIX, check_id, check_prefix
from transport.config import FILES as BROKER_FILES
from transport.config import BrokerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The samples for the SDK's own engine: an ``.npz`` file with ``x`` and ``y``."""

    file: str = ""


_UNITS: Final = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}


def parse_bytes(text: str) -> int:
    """Return the number of bytes that a text like ``"32 MiB"`` means. Raises ConfigError."""
    found = re.fullmatch(r"([0-9]{1,15}) ?([A-Za-z]*)", text)
    if found is None or found[2] not in _UNITS:
        units = ", ".join(filter(None, _UNITS))
        raise ConfigError(f'expected a size like "32 MiB" ({units}), not {text!r}')
    return int(found[1]) * _UNITS[found[2]]


_ENGINES: Final = ("numpy", "torch", "tflite")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Which engine trains, and what it may take: memory, for the SDK's own engine, and CPU time.

    ``engine``: "numpy", the SDK's own; "torch"; or "tflite", with a file of training signatures in
    ``engine_file`` (`device_sdk.adapters.signatures`). ``memory_budget``: a size; empty: no limit.
    ``cpu_limit``: a share of one core; 0: no limit.
    """

    engine: str = "numpy"
    engine_file: str = ""
    memory_budget: str = ""
    cpu_limit: float = 0.0

    def __post_init__(self) -> None:
        if self.engine not in _ENGINES:
            raise ConfigError(f"engine must be one of {', '.join(_ENGINES)}, not {self.engine!r}")
        if bool(self.engine_file) != (self.engine == "tflite"):
            raise ConfigError('engine_file goes with engine = "tflite", one needs the other')
        if self.memory_budget and self.engine != "numpy":
            raise ConfigError('memory_budget is kept by engine = "numpy" alone')
        if self.cpu_limit < 0:
            raise ConfigError(f"cpu_limit must be above 0 (0: no limit), not {self.cpu_limit}")
        if self.memory_budget_bytes is not None and self.memory_budget_bytes < 1:
            raise ConfigError("memory_budget must be above 0; leave it empty for no limit")

    @property
    def memory_budget_bytes(self) -> int | None:
        """The budget in bytes; None: no limit."""
        if not self.memory_budget:
            return None
        try:
            return parse_bytes(self.memory_budget)
        except ConfigError as error:
            raise ConfigError(f"memory_budget: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceConfig:
    """What `Device.predict` uses: a ``.tflite`` file; empty: the engine and the newest model."""

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
class IdentityConfig:
    """Who the device is: its keys file from `fedbus enrol`; empty: it has no keys.

    Without keys it signs nothing and believes whatever the broker brings. ``seal``: only the
    aggregator can read an update that is not masked. ``passphrase_file`` opens keys that are locked
    (`transport.secret_files`).
    """

    keys: str = ""
    passphrase_file: str = ""
    seal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureConfig:
    """Secure aggregation: what is kept for it.

    ``stock`` masks are dealt ahead of time; of others' shares ``max_share_bytes`` are kept.
    """

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
    on ``data.file``. An update is made from at least ``min_samples``.
    """

    task: str
    device: str
    state_dir: str
    prefix: str = DEFAULT_PREFIX
    trainer: str = ""
    min_samples: int = MIN_SAMPLES
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    conditions: Conditions = field(default_factory=Conditions)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    secure: SecureConfig = field(default_factory=SecureConfig)

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        check_id(self.task, "task")
        check_id(self.device, "device")
        if self.device == AGGREGATOR:
            raise ConfigError(f"device {self.device!r} is the aggregator's own name")
        if self.min_samples < MIN_SAMPLES:
            raise ConfigError(
                f"min_samples must be at least {MIN_SAMPLES}, not {self.min_samples}: what fewer"
                " samples taught a model can be read back from the update (fedbus audit)"
            )


#: Settings that name files: relative ones lie beside the settings' own.
FILES: Final = (
    *("state_dir", "data.file", "training.engine_file", "inference.file"),
    *("identity.keys", "identity.passphrase_file"),
    *BROKER_FILES,
)


def load_config(path: Path) -> DeviceConfig:
    """Read a TOML file; what it names lies beside it, unless the name begins with ``/``.

    Raises ConfigError that names the file and the key.
    """
    import tomllib  # noqa: PLC0415 - importing the SDK must be quick, and this is needed once

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        refuse_moved(table, {"secure.keys": "[identity] keys"})
        placed = beside(table, FILES, lambda name: str(path.parent / name))
        return build(DeviceConfig, placed)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
