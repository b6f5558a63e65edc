"""A task's settings: what the coordinator decides by. docs/configuration.md explains every key."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, Self

from aggregator.bandwidth import BandwidthConfig, largest_budget
from aggregator.conduct.config import ConductConfig
from aggregator.fairness import FairnessConfig
from aggregator.privacy.config import PrivacyConfig
from aggregator.robust.config import AUTO as ROBUST_AUTO
from aggregator.robust.config import MEAN, RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.scheduling.selection import SelectionConfig
from aggregator.strategy import Strategy
from aggregator.strategy.adaptive import fedadagrad, fedadam, fedyogi
from aggregator.strategy.ca2fl import ca2fl
from aggregator.strategy.calibrated import calibrated
from aggregator.strategy.fadas import fadas
from aggregator.strategy.fedasync import fedasync
from aggregator.strategy.fedavg import fedavg, fedavgm
from aggregator.strategy.fedbuff import fedbuff
from aggregator.strategy.stratified import stratified
from device_sdk.engine.spec import ModelSpec, parse_spec
from device_sdk.engine.subset import trained_subset
from protocol.errors import ConfigError
from protocol.messages import MAX_DOCUMENT_CHARS, MIN_SAMPLES
from protocol.staleness import CONSTANT, StalenessWeight, hinge, parse_staleness, polynomial
from protocol.topics import DEFAULT_PREFIX, check_id, check_prefix
from protocol.vectors.layout import PARAM_BYTES, Subset
from protocol.vectors.levels import INT8
from protocol.vectors.packing import DENSE, CodecSpec, parse_codec

_STRATEGIES: Final[Mapping[str, Callable[..., Strategy]]] = {
    "fedavg": fedavg,
    "fedbuff": fedbuff,
    "fedasync": fedasync,
    "fedavgm": fedavgm,
    "fedadagrad": fedadagrad,
    "fedadam": fedadam,
    "fedyogi": fedyogi,
    "fadas": fadas,
    "calibrated": calibrated,
    "ca2fl": ca2fl,
    "stratified": stratified,
}
#: The strategy that suits the mode; `TaskConfig.settled` says which.
AUTO: Final = "auto"
#: How many versions late an update of a buffered task may be. Plain: a device 20 times slower than
#: the others still takes part. Masked: so that any rule's weight is within what masks can hold.
PLAIN_STALENESS: Final = 100
MASKED_STALENESS: Final = 20
#: What a value of a sparse update takes in memory, its place included.
_SPARSE_BYTES: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class StalenessConfig:
    """How staleness weighs: ``rule`` is constant, polynomial or hinge.

    ``auto`` is polynomial, but constant in masked and calibrated tasks.
    """

    rule: str = "auto"
    exponent: float = 0.5
    slope: float = 1.0
    grace: int = 4

    def __post_init__(self) -> None:
        if self.rule not in {"auto", "constant", "polynomial", "hinge"}:
            raise ConfigError(f"rule {self.rule!r}: use auto, constant, polynomial or hinge")
        polynomial(self.exponent)
        hinge(self.slope, self.grace)
        parse_staleness(self.plain)

    @property
    def can_be_constant(self) -> bool:
        """Whether nothing forbids that all updates weigh the same."""
        return self.rule in {"auto", CONSTANT}

    @property
    def plain(self) -> str:
        """The rule of a plain task, as `protocol.staleness` names it."""
        if self.rule in {"auto", "polynomial"}:
            return f"polynomial-{_short(self.exponent)}"
        return f"hinge-{_short(self.slope)}-{self.grace}" if self.rule == "hinge" else CONSTANT

    @property
    def masked(self) -> str:
        """The rule that a roster names: devices weigh, and only if told to."""
        return CONSTANT if self.can_be_constant else self.plain


#: Each start asks for it several times.
_signature = cache(inspect.signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategyConfig:
    """Which server optimiser, and its own settings under ``options``.

    ``auto`` is what suits the mode (`TaskConfig.settled`).
    """

    name: str = AUTO
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.strategy()

    def strategy(self) -> Strategy:
        """Return the strategy; raises ConfigError for a name or an option it does not know.

        Of ``auto`` it is FedAvg's, as long as it is not `TaskConfig.settled`.
        """
        if self.name not in (AUTO, *_STRATEGIES):
            raise ConfigError(f"name {self.name!r}: use {AUTO}, {', '.join(_STRATEGIES)}")
        factory = fedavg if self.name == AUTO else _STRATEGIES[self.name]
        known = _signature(factory).parameters
        for key, value in self.options.items():
            if key not in known:
                raise ConfigError(f"options.{key}: {self.name} knows {', '.join(sorted(known))}")
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"options.{key}: expected a number, not {value!r}")
        return factory(**{key: float(value) for key, value in self.options.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskConfig:
    """One task: the model, how devices train it, and how their updates become versions.

    ``max_staleness`` of -1 means the mode's own default: in ``buffered`` `PLAIN_STALENESS`, masked
    `MASKED_STALENESS`, 0 in ``rounds``.
    """

    task: str
    model: Mapping[str, Any]
    prefix: str = DEFAULT_PREFIX
    training: Mapping[str, Any] = field(default_factory=dict)
    codec: str = "topk-0.05/int4"
    mode: str = "buffered"
    buffered: Buffered = field(default_factory=Buffered)
    rounds: Rounds = field(default_factory=Rounds)
    staleness: StalenessConfig = field(default_factory=StalenessConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig)
    fairness: FairnessConfig = field(default_factory=FairnessConfig)
    bandwidth: BandwidthConfig = field(default_factory=BandwidthConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    conduct: ConductConfig = field(default_factory=ConductConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    robust: RobustConfig = field(default_factory=RobustConfig)
    normalise: str = "weights"
    weigh_by_samples: bool = True
    samples_cap: int = 1_000_000
    min_samples: int = MIN_SAMPLES
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
        self._check_strategy()
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")

    def _check_strategy(self) -> None:
        """Refuse weights that a strategy cannot bear, or that contradict each other."""
        name, strategy = self.strategy.name, self.strategy.strategy()
        if strategy.plain_sum and (self.weigh_by_samples or self._weighs_by_pace):
            raise ConfigError(
                f'strategy.name = "{name}" is right for a plain sum only: set weigh_by_samples'
                " = false and leave staleness.rule and fairness.weights alone"
            )
        if strategy.strata and self._weighs_by_pace:
            raise ConfigError(
                f'strategy.name = "{name}" balances fast and slow devices itself: leave'
                " staleness.rule and fairness.weights alone, or take another strategy"
            )
        if strategy.plain_sum and self.robust.rule not in {ROBUST_AUTO, MEAN}:
            raise ConfigError(
                f'strategy.name = "{name}" is right for a plain sum only, and robust.rule ='
                f' "{self.robust.rule}" makes another of it: set robust.rule = "mean", or take'
                " another strategy"
            )
        if strategy.drifts and (self.mode != "buffered" or self.buffered.goal != 1):
            raise ConfigError(
                f'strategy.name = "{name}" takes updates one by one: mode must be "buffered" and'
                " buffered.goal 1"
            )
        self._check_fairness()

    def _check_fairness(self) -> None:
        rule = f'fairness.weights = "{self.fairness.weights}"'
        if self.fairness.weighs and not self.staleness.can_be_constant:
            raise ConfigError(
                f"{rule} raises the updates of slow devices, and staleness.rule ="
                f' "{self.staleness.rule}" lowers them: choose one'
            )
        if self.fairness.weighs and self.normalise == "goal":
            raise ConfigError(f'{rule} means ratios: set normalise = "weights"')

    @property
    def _weighs_by_pace(self) -> bool:
        """Whether late updates, or those of slow devices, weigh more or less than others."""
        return self.fairness.weighs or not self.staleness.can_be_constant

    def settled(self, *, masked: bool) -> Self:
        """Return the same settings with nothing left open that depends on the kind of task.

        A plain buffered task is ``stratified``, unless weights by pace or privacy were asked for; a
        masked one is FedBuff's, with constant weights; rounds are FedAvg's. docs/adr/0022 says why.
        """
        name = "fedavg" if self.mode == "rounds" else "fedbuff"
        is_plain = not masked and not self.privacy.enabled
        if self.mode == "buffered" and is_plain and not self._weighs_by_pace:
            name = "stratified"
        if self.strategy.name != AUTO:
            name = self.strategy.name
        limit = self.staleness_limit
        if masked and self.mode == "buffered" and self.max_staleness < 0:
            limit = MASKED_STALENESS
        strategy = replace(self.strategy, name=name)
        spec = self.model_spec()
        trained = trained_subset(spec, self.training)
        bandwidth = self.bandwidth.settled(
            parse_codec(self.codec),
            trained.layout.size,
            masked=masked,
            is_delicate=spec.has_statistics or trained.layout is not trained.whole,
        )
        robust = self.robust.settled(sees_rows=not masked and self._sees_rows(strategy))
        return replace(
            self, strategy=strategy, bandwidth=bandwidth, robust=robust, max_staleness=limit
        )

    def _sees_rows(self, strategy: StrategyConfig) -> bool:
        """Whether a plain buffer of this strategy can go through a robust rule."""
        return not strategy.strategy().plain_sum and not self.privacy.enabled

    @property
    def scheduling(self) -> Buffered | Rounds:
        """The rules of the mode."""
        return self.buffered if self.mode == "buffered" else self.rounds

    def staleness_weight(self) -> StalenessWeight:
        """Return how an update's staleness weighs."""
        is_constant = self.strategy.strategy().balances or self.fairness.weighs
        return parse_staleness(CONSTANT if is_constant else self.staleness.plain)

    @property
    def uplink(self) -> CodecSpec:
        """The codec that leases of a plain task name."""
        return replace(parse_codec(self.codec), calibrated=self.strategy.strategy().calibrated)

    @property
    def staleness_limit(self) -> int:
        """The oldest base an update may have, in versions behind the current one."""
        if self.max_staleness >= 0:
            return self.max_staleness
        return PLAIN_STALENESS if self.mode == "buffered" else 0

    def model_spec(self) -> ModelSpec:
        """Return the model; raises ConfigError that names the layer."""
        return parse_spec(self.model)

    def trained(self) -> Subset:
        """Return which params are trained and sent. Raises ConfigError."""
        return trained_subset(self.model_spec(), self.training)

    def model_digest(self) -> str:
        """Return a digest by which a store tells one model, and what is trained, from another."""
        told = self.documents()[0]
        if (trained := self.trained()).layout is not trained.whole:
            told += json.dumps(sorted(trained.names))
        return hashlib.sha256(told.encode()).hexdigest()

    def check(self) -> None:
        """Check what depends on the model. Raises ConfigError that names the key."""
        layout = self.trained().layout
        self.bandwidth.check(self.uplink, layout)
        if self.bandwidth.model == INT8 and self.model_spec().has_statistics:
            raise ConfigError(
                'bandwidth.model = "int8" would publish small running variances as 0: use "float16"'
            )
        budget = largest_budget(self.uplink, self.bandwidth, layout)
        if self.max_assembly_bytes < 2 * budget:
            raise ConfigError(
                f"max_assembly_bytes must hold two updates, {2 * budget} bytes for this model"
            )
        self.selection.check_credit(self.scheduling.per_version * budget)
        caches = 4 * self.trained().layout.size * self.max_devices
        if self.strategy.strategy().caches and caches > self.fairness.max_cache_bytes:
            raise ConfigError(
                f'strategy.name = "{self.strategy.name}" keeps a delta of every device, {caches}'
                f" bytes for {self.max_devices}: lower max_devices, raise fairness.max_cache_bytes,"
                ' or use "calibrated", which keeps them on the devices'
            )
        if max(len(document) for document in self.documents()) > MAX_DOCUMENT_CHARS:
            raise ConfigError(
                f"model and training must fit {MAX_DOCUMENT_CHARS} characters of JSON"
            )

    def check_rows(self) -> None:
        """Check what depends on single updates being seen. Raises ConfigError."""
        layout, codec = self.trained().layout, self.uplink
        kept = codec.num_kept(layout.size)
        decoded = (PARAM_BYTES if codec.support == DENSE else _SPARSE_BYTES) * kept
        row_bytes = max(decoded, largest_budget(codec, self.bandwidth, layout))
        robust = self.settled(masked=False).robust
        robust.check(self.scheduling.per_version, layout.size, row_bytes)

    def documents(self) -> tuple[str, str]:
        """Return the plan's two JSON documents: model and training."""
        return (
            json.dumps(dict(self.model), sort_keys=True),
            json.dumps(dict(self.training), sort_keys=True),
        )


def _short(value: float) -> str:
    """A number above 0 in plain digits, as the names of rules have it."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


_RANGES: dict[str, tuple[float, float]] = {
    "samples_cap": (1, 1 << 40),
    "min_samples": (MIN_SAMPLES, 1 << 40),
    "max_staleness": (-1, 1_000_000),
    "lease_ttl_s": (1, 1 << 31),
    "chunk_patience_s": (0.01, 86_400),
    "max_devices": (1, 10_000_000),
    "max_assembly_bytes": (1 << 16, 1 << 40),
    "keep_versions": (1, 10_000),
    "check_in_s": (1, 1 << 31),
    "init_seed": (0, (1 << 63) - 1),
}
