"""Who of the waiting devices gets a lease, and how many may be out at once: the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.settings import build

LONGEST_WAITING: Final = "longest_waiting"
UNIFORM: Final = "uniform"
HUNGARIAN: Final = "hungarian"
OORT: Final = "oort"
RULES: Final = (LONGEST_WAITING, UNIFORM, HUNGARIAN, OORT)
#: By what Oort prefers devices: the norm of their updates, or how many samples they have.
UTILITIES: Final = ("auto", "norm", "samples")
#: Devices of no site belong to this one, which has no limits.
ELSEWHERE: Final = ""
MAX_SITES: Final = 64
MAX_SLOTS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfig:
    """Devices that share a link: ``devices`` are patterns of ids, as in a shell (``plant-*``).

    ``concurrency`` leases at most run there at once; ``bytes_per_hour`` is what leases may cost,
    updates and models together. 0: no limit.
    """

    devices: tuple[str, ...]
    concurrency: int = 0
    bytes_per_hour: int = 0

    def __post_init__(self) -> None:
        if not self.devices or not all(self.devices):
            raise ConfigError('devices: name at least one pattern, like ["plant-*"]')
        if self.concurrency < 0 or self.bytes_per_hour < 0:
            raise ConfigError("concurrency and bytes_per_hour must be 0 (no limit) or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class OortConfig:
    """Oort's own settings; the names are those of the paper's parameters in words."""

    utility: str = "auto"
    exploration: float = 0.9
    exploration_decay: float = 0.98
    exploration_min: float = 0.2
    slow_penalty: float = 2.0
    cutoff: float = 0.95

    def __post_init__(self) -> None:
        if self.utility not in UTILITIES:
            raise ConfigError(f"utility {self.utility!r}: use {', '.join(UTILITIES)}")
        for name in ("exploration", "exploration_decay", "exploration_min", "cutoff"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if not 0 <= self.slow_penalty <= 10:  # noqa: PLR2004 - the paper uses 2
            raise ConfigError(f"slow_penalty must be from 0 to 10, not {self.slow_penalty}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionConfig:
    """How devices are chosen. docs/fleets.md says when to change it.

    ``every_versions`` is the floor of rules that prefer some devices: each one that waits is chosen
    once in so many versions, 0: no floor. ``freshness`` is `aggregator.scheduling.hungarian`'s.

    ``slots`` 0: with ``hungarian`` as many as a version needs, else none; ``deadline_s`` 0: the
    round's deadline, in ``buffered`` the lease's time; ``max_outstanding_bytes`` 0: 256 MiB, or
    what two versions need if that is more.
    """

    rule: str = LONGEST_WAITING
    slots: int = 0
    slot_s: int = 2
    deadline_s: float = 0.0
    every_versions: int = 20
    freshness: float = 1.0
    max_outstanding_bytes: int = 0
    sites: Mapping[str, Any] = field(default_factory=dict)
    oort: OortConfig = field(default_factory=OortConfig)

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"rule {self.rule!r}: use {', '.join(RULES)}")
        for name, high in _HIGHEST.items():
            if not 0 <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be from 0 to {high}, not {getattr(self, name)}")
        self.site_configs()

    @property
    def is_choosing(self) -> bool:
        """Whether it matters how many wait: a round gathers before it chooses among them."""
        return self.rule != LONGEST_WAITING

    @property
    def scores(self) -> bool:
        """Whether the rule prefers some devices, so that the others need a floor."""
        return self.rule in (HUNGARIAN, OORT)

    @property
    def sees_norms(self) -> bool:
        """Whether the norm of an update is looked at, where it can be seen."""
        return self.rule == OORT and self.oort.utility != "samples"

    def site_configs(self) -> dict[str, SiteConfig]:
        """Return the sites by name. Raises ConfigError that names the key."""
        if len(self.sites) > MAX_SITES:
            raise ConfigError(f"sites: {len(self.sites)}, and at most {MAX_SITES} are possible")
        for name, table in self.sites.items():
            if not isinstance(table, Mapping):
                raise ConfigError(f"sites.{name}: expected a table, as in [selection.sites.{name}]")
        return {
            name: build(SiteConfig, table, f"sites.{name}") for name, table in self.sites.items()
        }

    def site_of(self, device: str) -> str:
        """Return the first site that has a pattern for a device; `ELSEWHERE` if none has."""
        for name, site in self.sites.items():
            if any(fnmatchcase(device, pattern) for pattern in site["devices"]):
                return name
        return ELSEWHERE

    def check_credit(self, version_bytes: int) -> None:
        """Refuse a bound under which no version could be made. Raises ConfigError."""
        if 0 < self.max_outstanding_bytes < version_bytes:
            raise ConfigError(
                f"selection.max_outstanding_bytes: the updates of one version need {version_bytes}"
                f" bytes: raise it, or 0 for the default; or lower rounds.size or buffered.goal"
            )

    def check_masked(self, *, is_pairwise: bool) -> None:
        """Refuse what masked updates cannot have. Raises ConfigError."""
        if self.rule == OORT and self.oort.utility == "norm":
            raise ConfigError(
                'selection.oort.utility = "norm" looks at single updates, and these are masked: use'
                ' "samples", or "auto", which does that in secure tasks'
            )
        if is_pairwise and (self.slots or self.rule == HUNGARIAN):
            raise ConfigError(
                'selection: slots would hold a round of "pairwise" up, which waits for all its'
                " devices at every stage: set slots = 0 and another rule, or use seedmask"
            )


_HIGHEST: dict[str, float] = {
    "slots": MAX_SLOTS,
    "slot_s": 86_400,
    "deadline_s": 1 << 31,
    "every_versions": 1_000_000,
    "freshness": 4,
    "max_outstanding_bytes": 1 << 50,
}
