"""Windows that move over one or two axes: where each of their entries reads and writes."""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Final

from device_sdk.engine.arrays import Shape
from protocol.errors import ConfigError

#: Of one entry of the window: index of the outputs it takes part in, and of what they read there.
#: Both are indices of (n, *sides, channels); an entry beyond the border takes part in fewer.
Tap = tuple[tuple[slice, ...], tuple[slice, ...]]

#: Entries of a window: each takes a step of its own, and some memory.
MAX_ENTRIES: Final = 1 << 12
#: What Python keeps of an entry.
TAP_BYTES: Final = 512


def check_window(kernel: Shape, stride: Shape, padding: str) -> None:
    """Raise ConfigError unless all sides are at least 1, in bounds, and the padding has a name."""
    if min(*kernel, *stride) < 1:
        raise ConfigError(f"a window and its stride are at least 1 wide, not {kernel}, {stride}")
    if math.prod(kernel) > MAX_ENTRIES or max(stride) > MAX_ENTRIES:
        raise ConfigError(
            f"a window has at most {MAX_ENTRIES} entries, and a stride that is no wider, "
            f"not {kernel}, {stride}; to pool all there is, use global_avg_pool"
        )
    if padding not in ("valid", "same"):
        raise ConfigError(f'padding must be "valid" or "same", not {padding!r}')


def sides_of(key: str, sides: Shape, rank: int) -> Shape:
    """One number for each axis; a single one is for all. Raises ConfigError."""
    if len(sides) == 1:
        return sides * rank
    if len(sides) != rank:
        raise ConfigError(f"{key} must be a number or {rank} of them, not {list(sides)}")
    return sides


def sides_before_channels(input_shape: Shape, rank: int) -> Shape:
    """The axes that a window moves over. Raises ConfigError unless there are ``rank``."""
    if len(input_shape) != rank + 1:
        axes = "(height, width, channels)" if rank == 2 else "(steps, channels)"  # noqa: PLR2004
        raise ConfigError(f"takes {axes}, not {input_shape}; put a reshape layer before it")
    return input_shape[:-1]


def output_sides(sides: Shape, kernel: Shape, stride: Shape, padding: str) -> Shape:
    """How often the window fits; "same": once a stride. Raises ConfigError if it does not."""
    if padding == "same":
        return tuple(-(-side // step) for side, step in zip(sides, stride, strict=True))
    if any(side < width for side, width in zip(sides, kernel, strict=True)):
        raise ConfigError(f'a window of {kernel} does not fit into {sides}; use padding = "same"')
    return tuple((s - k) // step + 1 for s, k, step in zip(sides, kernel, stride, strict=True))


def padding_before(sides: Shape, kernel: Shape, stride: Shape, padding: str) -> Shape:
    """How much is padded before each axis; "same" pads as TensorFlow: the odd one is at the end."""
    outs = output_sides(sides, kernel, stride, padding)
    return tuple(
        max((out - 1) * step + width - side, 0) // 2
        for side, out, width, step in zip(sides, outs, kernel, stride, strict=True)
    )


@lru_cache(maxsize=64)
def taps(sides: Shape, kernel: Shape, stride: Shape, padding: str) -> tuple[Tap, ...]:
    """Every entry of the window, row-major."""
    outs = output_sides(sides, kernel, stride, padding)
    befores = padding_before(sides, kernel, stride, padding)
    axes = [
        [_along(side, out, step, offset - before) for offset in range(width)]
        for side, out, width, step, before in zip(sides, outs, kernel, stride, befores, strict=True)
    ]
    whole = slice(None)
    return tuple(
        ((whole, *(out for out, _ in tap)), (whole, *(into for _, into in tap)))
        for tap in product(*axes)
    )


def _along(side: int, outs: int, step: int, offset: int) -> tuple[slice, slice]:
    """Of one axis: the outputs that read at ``offset`` from where they start, and where."""
    first = max(0, -(offset // step))
    last = min(outs - 1, (side - 1 - offset) // step)
    if last < first:
        return slice(0, 0), slice(0, 0)
    start = first * step + offset
    return slice(first, last + 1), slice(start, start + (last - first) * step + 1, step)


def covers(entries: Sequence[Tap], outs: Shape) -> bool:
    """Whether every output reads every entry: nothing is beyond a border."""
    return all(
        (part.start, part.stop) == (0, side)
        for out, _ in entries
        for part, side in zip(out[1:], outs, strict=True)
    )
