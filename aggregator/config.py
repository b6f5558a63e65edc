"""The aggregator's settings: one TOML file, read once, checked once, frozen.

`TaskConfig` is what the coordinator decides by; `AggregatorConfig` adds what only the shell needs.
docs/configuration.md explains every key.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.staleness import StalenessWeight, constant, hinge, polynomial
from aggregator.strategy import Strategy
from aggregator.strategy.adaptive import fedadagrad, fedadam, fedyogi
from aggregator.strategy.fedavg import fedavg, fedavgm
from device_sdk.engine.model import Model
from device_sdk.engine.spec import ModelSpec, parse_spec
from protocol.errors import ConfigError
from protocol.messages import MAX_DOCUMENT_CHARS
from protocol.settings import build
from protocol.topics import DEFAULT_PREFIX, check_id, check_prefix
from protocol.vectors.packing import max_body_bytes, parse_codec
from transport.config import BrokerConfig

_STRATEGIES = {
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessConfig:
    """How staleness weighs: ``rule`` is constant, polynomial or hinge."""

    rule: str = "polynomial"
    exponent: float = 0.5
    slope: float = 1.0
    grace: int = 4

    def __post_init__(self) -> None:
        if self.rule not in {"constant", "polynomial", "hinge"}:
            raise ConfigError(f"rule {self.rule!r}: use constant, polynomial or hinge")
        self.weight()

    def weight(self) -> StalenessWeight:
        """Return the rule as a function."""
        if self.rule == "polynomial":
            return polynomial(self.exponent)
        return hinge(self.slope, self.grace) if self.rule == "hinge" else constant


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """Which server optimiser, and its own settings under ``options``."""

    name: str = "fedavg"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.strategy()

    def strategy(self) -> Strategy:
        """Return the strategy; raises ConfigError for a name or an option it does not know."""
        if self.name not in _STRATEGIES:
            raise ConfigError(f"name {self.name!r}: use {', '.join(_STRATEGIES)}")
        factory = _STRATEGIES[self.name]
        known = set(factory.__kwdefaults__ or {})
        for key, value in self.options.items():
            if key not in known:
                raise ConfigError(f"options.{key}: {self.name} knows {', '.join(sorted(known))}")
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"options.{key}: expected a number, not {value!r}")
        return factory(**{key: float(value) for key, value in self.options.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task: the model, how devices train it, and how their updates become versions.

    ``max_staleness`` of -1 means the mode's own default: 20 versions in ``buffered``, 0 in
    ``rounds``.
    """

    task: str
    model: Mapping[str, Any]
    prefix: str = DEFAULT_PREFIX
    training: Mapping[str, Any] = field(default_factory=dict)
    codec: str = "topk-0.1/int8"
    mode: str = "buffered"
    buffered: Buffered = field(default_factory=Buffered)
    rounds: Rounds = field(default_factory=Rounds)
    staleness: StalenessConfig = field(default_factory=StalenessConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    normalise: str = "weights"
    weigh_by_samples: bool = True
    samples_cap: int = 1_000_000
    max_staleness: int = -1
    lease_ttl_s: int = 600
    chunk_patience_s: float = 20.0
    max_devices: int = 100_000
    max_assembly_bytes: int = 256 * 1024 * 1024
    keep_versions: int = 3
    check_in_s: int = 60
    init_seed: int = 0

    def __post_init__(self) -> None:
        check_id(self.task, "task")
        check_prefix(self.prefix)
        parse_codec(self.codec)
        if self.mode not in {"buffered", "rounds"}:
            raise ConfigError(f"mode {self.mode!r}: use buffered or rounds")
        if self.normalise not in {"weights", "goal"}:
            raise ConfigError(f"normalise {self.normalise!r}: use weights or goal")
        if self.normalise == "goal" and self.weigh_by_samples:
            raise ConfigError(
                'normalise = "goal" divides by the number of updates: set weigh_by_samples = false'
            )
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")

    @property
    def scheduling(self) -> Buffered | Rounds:
        """The rules of the mode."""
        return self.buffered if self.mode == "buffered" else self.rounds

    @property
    def staleness_limit(self) -> int:
        """The oldest base an update may have, in versions behind the current one."""
        if self.max_staleness >= 0:
            return self.max_staleness
        return 20 if self.mode == "buffered" else 0

    def model_spec(self) -> ModelSpec:
        """Return the model; raises ConfigError that names the layer."""
        return parse_spec(self.model)

    def model_digest(self) -> str:
        """Return a digest by which a store tells one model from another."""
        return hashlib.sha256(self.documents()[0].encode()).hexdigest()

    def check(self) -> None:
        """Check what depends on the model. Raises ConfigError that names the key."""
        layout = Model(self.model_spec()).layout
        budget = max_body_bytes(parse_codec(self.codec), layout)
        if self.max_assembly_bytes < 2 * budget:
            raise ConfigError(
                f"max_assembly_bytes must hold two updates, {2 * budget} bytes for this model"
            )
        if max(len(document) for document in self.documents()) > MAX_DOCUMENT_CHARS:
            raise ConfigError(
                f"model and training must fit {MAX_DOCUMENT_CHARS} characters of JSON"
            )

    def documents(self) -> tuple[str, str]:
        """Return the plan's two JSON documents: model and training."""
        return (
            json.dumps(dict(self.model), sort_keys=True),
            json.dumps(dict(self.training), sort_keys=True),
        )


_RANGES: dict[str, tuple[float, float]] = {
    "samples_cap": (1, 1 << 40),
    "max_staleness": (-1, 1_000_000),
    "lease_ttl_s": (1, 1 << 31),
    "chunk_patience_s": (0.01, 86_400),
    "max_devices": (1, 10_000_000),
    "max_assembly_bytes": (1 << 16, 1 << 40),
    "keep_versions": (1, 10_000),
    "check_in_s": (1, 1 << 31),
    "init_seed": (0, (1 << 63) - 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """Held-out data of the operator: an ``.npz`` with ``x`` and ``y``."""

    file: str = ""
    every_versions: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatorConfig:
    """Everything an operator can set."""

    state_dir: str
    task: TaskConfig
    broker: BrokerConfig = field(default_factory=BrokerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    database: str = ""
    monitor_s: float = 1.0

    def __post_init__(self) -> None:
        if not 0.05 <= self.monitor_s <= 86_400:  # noqa: PLR2004 - 20 a second; once a day
            raise ConfigError(f"monitor_s must be from 0.05 to 86400, not {self.monitor_s}")


def load_config(path: Path) -> AggregatorConfig:
    """Read a TOML file. Raises ConfigError that names the file and the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `fedbus init` writes a sample") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    try:
        config = build(AggregatorConfig, table)
        config.task.check()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config
