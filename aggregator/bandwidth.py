"""What an update may cost: the bytes of a lease, and the codec that fits into them.

A lease names a codec and a byte budget. Pure: what the device understands is an argument.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from protocol.errors import ConfigError
from protocol.messages import MAX_DIFFERENCES
from protocol.vectors.hidden import check_model_type, parse_downlink
from protocol.vectors.layout import Layout
from protocol.vectors.packing import CodecSpec, max_body_bytes

#: What an encoded update holds beside its values.
UPDATE_OVERHEAD_BYTES: Final = 192
#: No scheme takes more for a masked number.
MASKED_BYTES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthConfig:
    """What may travel. docs/fleets.md says when to change it.

    Down: ``differences`` is the codec by which devices hear of the next version, ``none`` gives
    each of them every version whole. Then, and for devices that are new, models are published as
    ``model`` (float32, float16 or int8), with differences at least every ``keyframe_every``
    versions.
    """

    differences: str = "none"
    model: str = "float32"
    keyframe_every: int = 10

    def __post_init__(self) -> None:
        try:
            if self.differences != "none":
                parse_downlink(self.differences)
            check_model_type(self.model)
        except ConfigError as error:
            raise ConfigError(f"bandwidth, downlink: {error}") from None
        if not 1 <= self.keyframe_every <= MAX_DIFFERENCES:
            raise ConfigError(
                f"keyframe_every must be from 1 to {MAX_DIFFERENCES}, not {self.keyframe_every}"
            )


def budget_bytes(codec: CodecSpec, layout: Layout) -> int:
    """Return how large an update of this codec may be: what its lease allows."""
    if codec.masked:
        return UPDATE_OVERHEAD_BYTES + MASKED_BYTES * (codec.num_kept(layout.size) + 1)
    return UPDATE_OVERHEAD_BYTES + max_body_bytes(codec, layout)


def choose_codec(
    codec: CodecSpec,
    words: AbstractSet[str],  # noqa: ARG001 - the next change uses it
    config: BandwidthConfig,  # noqa: ARG001
    layout: Layout,  # noqa: ARG001
) -> CodecSpec:
    """Return the codec of a lease for a device that understands ``words``."""
    return codec
