"""Shorter numbers: float16, and levels of a coarse grid with one scale per group.

A group is what one tensor, or a block of one, contributes to an update; ``counts`` says how many
values each group has (at least one). Values are at most `LARGEST` in magnitude: beyond it a delta
means nothing any more, and below it no scale, product or sum of ours can overflow a float32.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.stream import Stream
from protocol.vectors.levels import Grid, Levels

LARGEST: Final = 2.0**126
MAX_FLOAT16: Final = 65_504.0

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.intp]


def to_float16(values: Floats) -> npt.NDArray[np.float16]:
    """The nearest float16 of each value, ties to even.

    A value beyond 65,504 in magnitude, the largest float16, becomes 65,504 with its sign: never
    infinity. With a residual the rest is sent later; without one it is lost.
    """
    return np.clip(values, -MAX_FLOAT16, MAX_FLOAT16).astype(np.float16)


def max_scale(grid: Grid) -> float:
    """No scale is larger: the least power of two from which no level reaches LARGEST."""
    return LARGEST / (1 << (grid.largest.bit_length() - 1))


def peak_scales(values: Floats, counts: Counts, grid: Grid) -> Floats:
    """The step between two levels in each group: the least float32 with room for its largest value.

    That is the least which is >= max|value| / ``grid.largest``.
    """
    starts = np.cumsum(counts) - counts
    peaks = np.maximum.reduceat(np.abs(values), starts).astype(np.float64)
    scales = (peaks / grid.largest).astype(np.float32)
    # A scale that was rounded down would need one level more for the largest value.
    too_small = scales.astype(np.float64) * grid.largest < peaks
    return np.where(too_small, np.nextafter(scales, np.float32(np.inf)), scales)


def mean_scales(values: Floats, counts: Counts) -> Floats:
    """The mean magnitude in each group, rounded to float32; computed in float64."""
    starts = np.cumsum(counts) - counts
    sums = np.add.reduceat(np.abs(values).astype(np.float64), starts)
    return (sums / counts).astype(np.float32)


def to_levels(
    values: Floats, scales: Floats, counts: Counts, grid: Grid, rounding_seed: bytes | None
) -> Levels:
    """The level of each value.

    With a seed the rounding is stochastic, ``floor(value / scale + u)`` with u uniform in [0, 1),
    one u of `Stream.uniform` per value: unbiased (QSGD with the inf-norm, Alistarh et al. 2017;
    of three levels TernGrad, Wen et al. 2017). It needs `peak_scales`. Without one it is to the
    nearest level that the grid has, ties to even: never further from the value than zero is,
    whatever the scale, so that a codec with a residual stays contractive.
    """
    steps = np.repeat(np.where(scales > 0, scales, np.float32(1)).astype(np.float64), counts)
    exact = values / steps
    if rounding_seed is not None:
        return np.floor(exact + Stream(rounding_seed).uniform(values.size)).astype(np.int8)
    nearest = np.rint(exact, out=exact)
    return np.clip(nearest, -grid.largest, grid.largest, out=nearest).astype(np.int8)


def from_levels(levels: Levels, scales: Floats, counts: Counts) -> Floats:
    """The values that levels stand for: level times the scale of its group, in float32."""
    return levels.astype(np.float32) * np.repeat(scales, counts)
