"""What an update may cost: the bytes of a lease, and the codec that fits into them.

A lease names a codec and a byte budget. It gets the richest codec of a ladder that its device
understands and that fits what may travel: the task's own, or where that is too much a more frugal
one. Codecs may differ from lease to lease, also of one device: a buffer adds up what arrives, and a
residual waits for the next contractive codec.

Pure: what the device understands, and what its link and site have left, are arguments.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Self

from protocol.errors import ConfigError
from protocol.messages import MAX_DIFFERENCES
from protocol.settings import told_as
from protocol.vectors.hidden import FLOAT32, check_model_type, parse_downlink
from protocol.vectors.layout import Layout
from protocol.vectors.levels import INT4, INT8
from protocol.vectors.packing import TOPK, CodecSpec, max_body_bytes, parse_codec
from protocol.vectors.values import FLOAT16

#: What an encoded update holds beside its values.
UPDATE_OVERHEAD_BYTES: Final = 192
#: No scheme takes more for a masked number.
MASKED_BYTES: Final = 4
#: From rich to frugal. Those of int8 are for devices that know no coarser levels.
LADDER: Final = (
    "dense/float32",
    "dense/float16",
    "dense/int8",
    "dense/int4",
    "topk-0.1/int8",
    "topk-0.1/int4",
    "topk-0.05/int8",
    "topk-0.05/int4",
    "topk-0.02/int8",
    "topk-0.02/int4",
    "topk-0.01/int8",
    "topk-0.01/int4",
    "topk-0.01/ternary",
    "topk-0.003/ternary",
    "topk-0.001/ternary",
)
MAX_UPLINK_BYTES: Final = 1 << 30
AUTO: Final = "auto"
NONE: Final = "none"
#: With ``differences = "auto"``, no difference carries a smaller part of the coordinates.
AUTO_FRACTION: Final = 0.05
#: And a model with fewer params is published whole.
AUTO_PARAMS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthConfig:
    """What may travel. docs/fleets.md says when to change it.

    Up, of updates that are not masked: ``uplink_bytes`` is the most that one may take (0: what the
    task's codec takes); ``uplink_s`` how long one may take on its device's link, as far as that is
    known (0: as long as it takes); ``uplink_codecs`` the codecs to choose from besides the task's,
    richer ones too (empty: those of `LADDER` that take less).

    Down: ``differences`` is the codec by which devices hear of the next version, ``none`` gives
    each of them every version whole. Then, and for devices that are new, models are published as
    ``model`` (float32, float16 or int8), with differences at least every ``keyframe_every``
    versions. `settled` says what ``auto`` is.
    """

    uplink_bytes: int = 0
    uplink_s: float = 60.0
    uplink_codecs: tuple[str, ...] = ()
    differences: str = AUTO
    model: str = AUTO
    keyframe_every: int = 10

    def __post_init__(self) -> None:
        self._check_uplink()
        with told_as("differences"):
            if self.differences not in {AUTO, NONE}:
                parse_downlink(self.differences)
        with told_as("model"):
            if self.model != AUTO:
                check_model_type(self.model)
        if not 1 <= self.keyframe_every <= MAX_DIFFERENCES:
            raise ConfigError(
                f"keyframe_every must be from 1 to {MAX_DIFFERENCES}, not {self.keyframe_every}"
            )

    def _check_uplink(self) -> None:
        if not 0 <= self.uplink_bytes <= MAX_UPLINK_BYTES:
            raise ConfigError(
                f"uplink_bytes must be from 0 to {MAX_UPLINK_BYTES}, not {self.uplink_bytes}"
            )
        if not 0 <= self.uplink_s <= 86_400:  # noqa: PLR2004 - a day
            raise ConfigError(f"uplink_s must be from 0 to 86400, not {self.uplink_s}")
        for at, spelled in enumerate(self.uplink_codecs):
            with told_as(f"uplink_codecs[{at}]"):
                codec = parse_codec(spelled)
                if codec.masked or codec.calibrated:
                    raise ConfigError(
                        f"{spelled!r}: write support and type only, as in topk-0.01/int8"
                    )

    def settled(
        self, codec: CodecSpec, size: int, *, masked: bool, is_delicate: bool = False
    ) -> Self:
        """Return the same settings without ``auto``, for a task's codec and ``size`` params.

        Where updates name the coordinates that they move, versions move few of them: differences
        carry as large a part, `AUTO_FRACTION` at least, as 4-bit levels, and whole models are of
        8 bits, or 16 where some of the model ``is_delicate``. Other tasks, and models so small that
        control messages weigh more, have neither.
        """
        differences, model = self.differences, self.model
        if differences == AUTO:
            is_sparse = codec.support == TOPK and not masked and size >= AUTO_PARAMS
            fraction = max(codec.fraction, AUTO_FRACTION)
            differences = str(CodecSpec(TOPK, fraction, INT4)) if is_sparse else NONE
        if model == AUTO:
            coarse = FLOAT16 if is_delicate else INT8
            model = FLOAT32 if differences == NONE else coarse
        return replace(self, differences=differences, model=model)

    def check(self, codec: CodecSpec, layout: Layout) -> None:
        """Check that some codec fits the model. Raises ConfigError that names the smallest."""
        smallest = _rungs(codec, self.uplink_codecs, layout)[-1]
        if self.uplink_bytes and budget_bytes(smallest, layout) > self.uplink_bytes:
            raise ConfigError(
                f"bandwidth.uplink_bytes: {self.uplink_bytes} are too few for this model: the"
                f" smallest codec, {smallest}, needs {budget_bytes(smallest, layout)}"
            )

    def link_bytes(self, bytes_per_s: float) -> int:
        """Return what an update may take on a link of such a speed; 0: whatever it takes."""
        return max(1, int(bytes_per_s * self.uplink_s)) if self.uplink_s else 0


def budget_bytes(codec: CodecSpec, layout: Layout) -> int:
    """Return how large an update of this codec may be: what its lease allows."""
    if codec.masked:
        return UPDATE_OVERHEAD_BYTES + MASKED_BYTES * (codec.num_kept(layout.size) + 1)
    return UPDATE_OVERHEAD_BYTES + max_body_bytes(codec, layout)


def largest_budget(codec: CodecSpec, config: BandwidthConfig, layout: Layout) -> int:
    """Return how large the largest update is that some lease may allow."""
    rungs = _rungs(codec, config.uplink_codecs, layout)
    return max(budget_bytes(each, layout) for each in rungs)


def choose_codec(
    codec: CodecSpec,
    words: AbstractSet[str],
    config: BandwidthConfig,
    layout: Layout,
    *,
    limit_bytes: int = 0,
) -> CodecSpec | None:
    """Return the codec of a lease for a device that understands ``words``.

    ``codec`` is the task's, in the open. ``limit_bytes`` is what the device's link seems to carry
    in time (0: no limit). The richest codec not richer than the task's that fits; for a device that
    understands none of those the least of the richer ones. Where the link carries none of them it
    is the least: only another update shows what the link is like now. None: the device understands
    none that ``uplink_bytes`` allows.
    """
    if not config.uplink_bytes and not limit_bytes and codec.words <= words:
        return codec
    most = config.uplink_bytes or MAX_UPLINK_BYTES
    rungs = _rungs(codec, config.uplink_codecs, layout)
    known = [each for each in rungs if each.words <= words]
    if not known:
        richer = reversed(_ladder(codec, layout))
        known = [each for each in richer if each.words <= words][:1]
    allowed = [each for each in known if budget_bytes(each, layout) <= most]
    if not limit_bytes:
        return allowed[0] if allowed else None
    fitting = (each for each in allowed if budget_bytes(each, layout) <= limit_bytes)
    return next(fitting, allowed[-1] if allowed else None)


@lru_cache(maxsize=16)
def _rungs(codec: CodecSpec, named: tuple[str, ...], layout: Layout) -> tuple[CodecSpec, ...]:
    """The task's codec and those to choose from beside it, from rich to frugal."""
    if named:
        beside = [replace(parse_codec(each), calibrated=codec.calibrated) for each in named]
    else:
        most = budget_bytes(codec, layout)
        beside = [each for each in _ladder(codec, layout) if budget_bytes(each, layout) < most]
    return _by_size({codec, *beside}, layout)


@lru_cache(maxsize=16)
def _ladder(codec: CodecSpec, layout: Layout) -> tuple[CodecSpec, ...]:
    rungs = (replace(parse_codec(each), calibrated=codec.calibrated) for each in LADDER)
    return _by_size(set(rungs), layout)


def _by_size(codecs: AbstractSet[CodecSpec], layout: Layout) -> tuple[CodecSpec, ...]:
    order = sorted(codecs, key=lambda each: (-budget_bytes(each, layout), str(each)))
    return tuple(order)
