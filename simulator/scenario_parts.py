"""The tables of a scenario file, one frozen class each; `simulator.scenario` explains every key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from device_sdk.config import parse_bytes
from protocol.errors import ConfigError
from protocol.messages import MIN_SAMPLES
from protocol.topics import check_id
from simulator.availability import Diurnal
from simulator.links import LinkProfile

LAWS: Final = ("constant", "uniform", "lognormal")
ATTACKS: Final = (
    "sign_flip", "scale", "noise", "label_flip", "backdoor", "free_rider",
    "nan", "replay", "sybil", "flood",
)  # fmt: skip
#: Those that are no sessions: clients with a link, and nothing else of a device.
ROGUES: Final = ("nan", "replay", "sybil", "flood")
DRIFTS: Final = ("rotated_labels", "mirrored", "new_labels")
LIMITS: Final = ("shipped", "stock")
#: Longer than this no scenario runs, in virtual seconds: ten years.
MAX_S: Final = 10 * 365 * 86_400.0
#: Hours that come round faster are a link that flaps, and say so there.
MIN_PERIOD_S: Final = 1.0


def check_ranges(given: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise ConfigError, naming the key, if a number is out of its range."""
    for name, (low, high) in ranges.items():
        value = getattr(given, name)
        if not low <= value <= high:
            told = f"{name} must be from {_plain(low)} to {_plain(high)}, not {_plain(value)}"
            raise ConfigError(told)


def _plain(value: float) -> str:
    """Return a number in full: 10000001 is too much where 1e+07 is not."""
    return f"{value:.15g}"


def check_word(name: str, given: str, words: tuple[str, ...]) -> None:
    """Raise ConfigError, naming the key and what it takes, if a word is none of ``words``."""
    if given not in words:
        raise ConfigError(f"{name} {given!r}: use {', '.join(words)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTime:
    """How long a device trains: ``seconds``, or by its samples at ``samples_per_s``.

    ``law`` spreads it: ``uniform`` over 1 -/+ ``spread`` times that, ``lognormal`` around it as the
    median with ``spread`` for sigma. ``per`` says whether each training draws, or each device once.
    """

    seconds: float = 0.0
    samples_per_s: float = 0.0
    law: str = "constant"
    spread: float = 0.0
    per: str = "training"

    def __post_init__(self) -> None:
        check_ranges(self, {"seconds": (0, MAX_S), "samples_per_s": (0, 1e12), "spread": (0, 5)})
        check_word("law", self.law, LAWS)
        check_word("per", self.per, ("training", "device"))
        if (self.seconds > 0) == (self.samples_per_s > 0):
            raise ConfigError("seconds: set either seconds or samples_per_s, above 0")
        if self.law == "constant" and self.spread:
            raise ConfigError('spread: law = "constant" has none; say uniform or lognormal')
        if self.law == "uniform" and self.spread > 1:
            raise ConfigError(f"spread of a uniform law is at most 1, not {_plain(self.spread)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Something goes down at ``at_s`` for ``down_s``."""

    at_s: float
    down_s: float = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, {"at_s": (0, MAX_S), "down_s": (0, MAX_S)})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRestart(Restart):
    """Of a broker, which may ``forget`` all it keeps."""

    forget: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reboot:
    """A ``share`` of all devices loses power at ``at_s`` at once, for ``down_s``."""

    at_s: float
    share: float = 0.5
    down_s: float = 5.0

    def __post_init__(self) -> None:
        check_ranges(self, {"at_s": (0, MAX_S), "share": (0, 1), "down_s": (0, MAX_S)})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerTable:
    """``[broker]``: what it holds (``limits``), how long it takes, when it is away."""

    limits: str = "shipped"
    latency_s: float = 0.05
    restart: tuple[BrokerRestart, ...] = ()

    def __post_init__(self) -> None:
        check_word("limits", self.limits, LIMITS)
        check_ranges(self, {"latency_s": (0, 60)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTable:
    """``[server]``: when the aggregator is killed."""

    restart: tuple[Restart, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """``[drift]``: at ``at_s`` the data of all devices, and what is held out, become others.

    ``rotated_labels``: every label becomes the one ``step`` after it. ``mirrored``: every image is
    turned left to right. ``new_labels``: rows of ``labels`` are there only from then on.
    """

    at_s: float
    kind: str
    step: int = 1
    labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, {"at_s": (0, MAX_S), "step": (1, 1_000)})
        check_word("kind", self.kind, DRIFTS)
        if (self.kind == "new_labels") != bool(self.labels):
            raise ConfigError('labels: kind = "new_labels" needs them, and no other kind')


@dataclass(frozen=True, slots=True, kw_only=True)
class Dry:
    """``[dry]``: no learning: every training moves each param by ``delta``."""

    delta: float = 0.001
    num_samples: int = 100

    def __post_init__(self) -> None:
        check_ranges(self, {"delta": (1e-6, 1e3), "num_samples": (MIN_SAMPLES, 1 << 30)})


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityTable:
    """When the devices of a class are there: ``always``, ``diurnal``, or as a ``trace`` file says.

    ``diurnal``: ``on_fraction`` of each ``period_s``, from ``phase`` (in periods) on, later by up
    to ``phase_spread`` for each device. ``trace``: each device takes one line of ``file``.
    ``drops``: the share of goings-off that are a loss of power.
    """

    kind: str = "always"
    period_s: float = 86_400.0
    on_fraction: float = 0.5
    phase: float = 0.0
    phase_spread: float = 0.0
    drops: float = 0.0
    file: str = ""

    def __post_init__(self) -> None:
        check_word("kind", self.kind, ("always", "diurnal", "trace"))
        check_ranges(self, {"phase": (0, 1), "phase_spread": (0, 1)})
        check_ranges(self, {"period_s": (MIN_PERIOD_S, MAX_S)})
        if (self.kind == "trace") != bool(self.file):
            raise ConfigError('file: kind = "trace" needs it, and no other kind')
        if self.kind == "diurnal":
            Diurnal(period_s=self.period_s, on_fraction=self.on_fraction, drops=self.drops)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceClass:
    """``[[class]]``: devices that are alike. Faults and attacks are drawn for each of its own."""

    name: str
    training: TrainingTime
    count: int = 0
    share: float = 0.0
    slow: bool = False
    memory_budget: str = ""
    link: LinkProfile = field(default_factory=LinkProfile)
    availability: AvailabilityTable = field(default_factory=AvailabilityTable)
    updates_per_wake: int = 0
    crashes_per_hour: float = 0.0
    crash_down_s: float = 30.0
    vanish: float = 0.0
    attack: str = ""
    strength: float = 1.0
    messages_per_s: float = 1.0
    joins_at_s: float = 0.0
    joins_within_s: float = 1.0

    def __post_init__(self) -> None:
        check_id(self.name, "name")
        check_ranges(self, _CLASS_RANGES)
        if (self.count > 0) == (self.share > 0):
            raise ConfigError("count: an empty class; set either count or share, above 0")
        if self.attack:
            check_word("attack", self.attack, ATTACKS)
        if self.attack in ROGUES:
            self._check_rogue()
        if self.updates_per_wake and self.availability.kind == "always":
            raise ConfigError(
                "updates_per_wake: who sleeps after so many updates wakes at its next hours, and"
                ' there are none: set availability to "diurnal" or "trace"'
            )
        _ = self.memory_budget_bytes

    def _check_rogue(self) -> None:
        given = {
            "availability": self.availability.kind != "always",
            "crashes_per_hour": self.crashes_per_hour > 0,
            "vanish": self.vanish > 0,
        }
        for name, is_given in given.items():
            if is_given:
                raise ConfigError(f"{name}: attack = {self.attack!r} is always there; remove it")

    def device_names(self, count: int) -> list[str]:
        """Return the names of ``count`` devices of this class, which sort as they count."""
        width = len(str(count - 1))
        return [f"{self.name}-{place:0{width}}" for place in range(count)]

    @property
    def memory_budget_bytes(self) -> int | None:
        """What training may take; None: no limit. Raises ConfigError."""
        if not self.memory_budget:
            return None
        try:
            return parse_bytes(self.memory_budget)
        except ConfigError as error:
            raise ConfigError(f"memory_budget: {error}") from None


_CLASS_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "count": (0, 10_000_000),
    "share": (0, 1),
    "updates_per_wake": (0, 1_000_000),
    "crashes_per_hour": (0, 3_600),
    "crash_down_s": (0, MAX_S),
    "vanish": (0, 1),
    "strength": (0, 1e6),
    "messages_per_s": (1e-3, 1e4),
    "joins_at_s": (0, MAX_S),
    "joins_within_s": (0, MAX_S),
}
