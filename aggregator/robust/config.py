"""What an operator sets about robust rules. docs/configuration.md explains every key."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self

import numpy as np

from aggregator.robust import Combine, Combined, Float64, mean, norms_of
from aggregator.robust.centred_clipping import centred_clip
from aggregator.robust.clipping import screened, usual_length
from aggregator.robust.coordinates import coordinate_median, trimmed_mean
from aggregator.robust.fltrust import fltrust
from aggregator.robust.geometric_median import geometric_median
from aggregator.robust.krum import least_rows, multi_krum
from protocol.errors import ConfigError

AUTO: Final = "auto"
MEAN: Final = "mean"
NORM_CLIP: Final = "norm_clip"
MEDIAN: Final = "median"
TRIMMED_MEAN: Final = "trimmed_mean"
KRUM: Final = "krum"
MULTI_KRUM: Final = "multi_krum"
GEOMETRIC_MEDIAN: Final = "geometric_median"
CENTRED_CLIP: Final = "centred_clip"
FLTRUST: Final = "fltrust"
RULES: Final = (
    *(AUTO, MEAN, NORM_CLIP, MEDIAN, TRIMMED_MEAN),
    *(KRUM, MULTI_KRUM, GEOMETRIC_MEDIAN, CENTRED_CLIP, FLTRUST),
)
#: What ``auto`` is where rows can be seen: docs/adr/0029 has the measurements.
DEFAULT: Final = NORM_CLIP
#: The same for the groups of masked buffers: docs/adr/0030.
OF_GROUPS: Final = GEOMETRIC_MEDIAN
#: With fewer rows nobody can say who is the exception.
LEAST_ROWS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustConfig:
    """The table ``[robust]``: what one update, or a part ``attackers`` of all, can do to a step.

    ``clip``: an update longer than so many times the usual one is shortened to that, and trusted
    the less the longer it was; 0: as long as it likes.
    ``samples_ratio``: none weighs more than so many times the usual one by its samples; 0: no such
    limit. ``alert_share``: a buffer of which the rule leaves out more than this is told of.
    ``max_rows_bytes``: what the updates of a buffer may take in memory. ``group``: masked updates
    are summed in groups of so many, which the rule compares; 0: all together, and no rule.
    ``root_file``: trusted data for ``fltrust``, an ``.npz`` with ``x`` and ``y``.
    """

    rule: str = AUTO
    attackers: float = 0.2
    clip: float = 2.0
    samples_ratio: float = 1.0
    alert_share: float = 0.5
    max_rows_bytes: int = 1 << 30
    group: int = 0
    root_file: str = ""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ConfigError(f"rule {self.rule!r}: use {', '.join(RULES)}")
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        if 0.0 < self.clip < 1.0 or 0.0 < self.samples_ratio < 1.0:
            raise ConfigError(
                "clip and samples_ratio are times the usual: 1 or more, or 0 for none"
            )

        self._check_root()

    def _check_root(self) -> None:
        if self.rule == FLTRUST and not self.root_file:
            raise ConfigError(
                'rule = "fltrust" compares with an update on trusted data: set root_file, an .npz'
                " of about 100 samples"
            )
        if self.rule == FLTRUST and self.group:
            raise ConfigError('rule = "fltrust" is for plain updates: leave group out')
        if self.root_file and self.rule != FLTRUST:
            raise ConfigError(f'root_file: rule = "{self.rule}" needs none; "fltrust" does')

    @property
    def sees_rows(self) -> bool:
        """Whether single updates are needed; False: their sum will do."""
        return self.rule != MEAN

    def settled(self, *, sees_rows: bool) -> Self:
        """Return the same settings with a rule for ``auto``: `DEFAULT` if rows can be compared."""
        rule = OF_GROUPS if self.group else DEFAULT if sees_rows else MEAN
        return replace(self, rule=rule) if self.rule == AUTO else self

    def num_attackers(self, num_rows: int) -> int:
        """Return how many of so many rows may be attackers', by the part declared."""
        return math.ceil(self.attackers * num_rows)

    def check(self, num_rows: int, size: int, row_bytes: int) -> None:
        """Check against the rows of a full buffer, of ``size`` values. Raises ConfigError.

        ``row_bytes``: what one takes at most as it came.
        """
        if not self.sees_rows:
            return
        num_bytes = num_rows * (row_bytes if self.rule == NORM_CLIP else row_bytes + 8 * size)
        if num_bytes > self.max_rows_bytes:
            raise ConfigError(
                f'rule = "{self.rule}" keeps {num_rows} updates until a buffer closes, {num_bytes}'
                ' bytes: lower the goal, raise max_rows_bytes, or set rule = "mean"'
            )
        least = least_rows(self.num_attackers(num_rows)) if self._is_krum else LEAST_ROWS
        if self.rule not in _ONE_WILL_DO and num_rows < least:
            raise ConfigError(
                f'rule = "{self.rule}" compares updates and needs {least} in a buffer for attackers'
                f' = {self.attackers}, not {num_rows}: raise the goal, or set rule = "norm_clip"'
            )

    @property
    def _is_krum(self) -> bool:
        return self.rule in {KRUM, MULTI_KRUM}

    def combine(
        self,
        *,
        usual_norm: float | None = None,
        centre: Float64 | None = None,
        root: Float64 | None = None,
    ) -> Combine:
        """Return the rule for one set of rows, which is first clipped.

        ``usual_norm``: how long rows usually are; None: as long as these are; 0: not known.
        ``centre``: the last step, for centred clipping; None: no step. ``root``: the trusted update
        of FLTrust, which takes lengths from it instead. Of fewer rows than a rule can compare, the
        clipped mean is returned.
        """
        if not self.sees_rows:
            return mean
        if self.rule == FLTRUST:
            if root is None:
                raise ValueError("FLTrust needs the root set's update")
            return partial(fltrust, root=root)

        def combine(rows: Float64, weights: Float64) -> Combined:
            norms = norms_of(rows)
            usual = usual_length(norms) if usual_norm is None else usual_norm
            clipped, trust = self.screened(norms, usual)
            rule = self._rule(len(rows), np.zeros(rows.shape[1]) if centre is None else centre)
            vector, kept = rule(rows * clipped[:, None], weights * trust)
            return Combined(vector, clipped * trust * kept)

        return combine

    def screened(self, norms: Float64, usual: float) -> tuple[Float64, Float64]:
        """Return what rows of these norms, and their weights, are multiplied by (n,) each."""
        return screened(norms, self.clip * usual)

    def _rule(self, num_rows: int, centre: Float64) -> Combine:
        num_attackers = self.num_attackers(num_rows)
        least = least_rows(num_attackers) if self._is_krum else LEAST_ROWS
        if num_rows < least:
            return mean
        rules: Mapping[str, Callable[[], Combine]] = {
            NORM_CLIP: lambda: mean,
            MEDIAN: lambda: coordinate_median,
            TRIMMED_MEAN: lambda: partial(trimmed_mean, share=min(self.attackers, 0.49)),
            KRUM: lambda: partial(multi_krum, num_attackers=num_attackers, num_chosen=1),
            MULTI_KRUM: lambda: partial(multi_krum, num_attackers=num_attackers),
            GEOMETRIC_MEDIAN: lambda: geometric_median,
            CENTRED_CLIP: lambda: partial(centred_clip, centre=centre),
        }
        return rules[self.rule]()


#: Rules that do not compare rows with each other.
_ONE_WILL_DO: Final = frozenset({NORM_CLIP, FLTRUST})
_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "attackers": (0.0, 0.49),
    "clip": (0.0, 1e6),
    "samples_ratio": (0.0, 1e6),
    "alert_share": (0.0, 1.0),
    "max_rows_bytes": (1 << 16, 1 << 44),
    "group": (0, 64),
}
