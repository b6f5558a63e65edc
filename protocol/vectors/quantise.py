"""Shorter numbers: float16, and int8 with one scale per group.

A group is what one tensor contributes to an update; ``counts`` says how many values each group has
(at least one). Values are at most `LARGEST` in magnitude: beyond it a delta means nothing any more,
and below it no scale, product or sum of ours can overflow a float32.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.stream import Stream

LARGEST: Final = 2.0**126
#: No int8 scale is larger, because LARGEST / MAX_LEVEL is not.
MAX_SCALE: Final = 2.0**120
MAX_LEVEL: Final = 127
MAX_FLOAT16: Final = 65_504.0


def to_float16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    """The nearest float16 of each value, ties to even.

    A value beyond 65,504 in magnitude, the largest float16, becomes 65,504 with its sign: never
    infinity. With a residual the rest is sent later; without one it is lost.
    """
    return np.clip(values, -MAX_FLOAT16, MAX_FLOAT16).astype(np.float16)


def int8_scales(
    values: npt.NDArray[np.float32], counts: npt.NDArray[np.intp]
) -> npt.NDArray[np.float32]:
    """The step between two levels in each group: the least float32 that is >= max|value| / 127."""
    starts = np.cumsum(counts) - counts
    peaks = np.maximum.reduceat(np.abs(values), starts).astype(np.float64)
    scales = (peaks / MAX_LEVEL).astype(np.float32)
    # A scale that was rounded down would need level 128 for the largest value.
    too_small = scales.astype(np.float64) * MAX_LEVEL < peaks
    return np.where(too_small, np.nextafter(scales, np.float32(np.inf)), scales)


def to_int8(
    values: npt.NDArray[np.float32],
    scales: npt.NDArray[np.float32],
    counts: npt.NDArray[np.intp],
    rounding_seed: bytes | None,
) -> npt.NDArray[np.int8]:
    """The level of each value, -127 to 127, with the ``scales`` of `int8_scales`.

    With a seed the rounding is stochastic, ``floor(value / scale + u)`` with u uniform in [0, 1),
    one u of `Stream.uniform` per value: unbiased (QSGD with the inf-norm, Alistarh et al. 2017).
    Without one it is to the nearest level, ties to even: never further from the value than zero
    is, so that a codec with a residual stays contractive.
    """
    steps = np.repeat(np.where(scales > 0, scales, np.float32(1)).astype(np.float64), counts)
    exact = values / steps
    if rounding_seed is None:
        return np.rint(exact).astype(np.int8)
    return np.floor(exact + Stream(rounding_seed).uniform(values.size)).astype(np.int8)


def from_int8(
    levels: npt.NDArray[np.int8],
    scales: npt.NDArray[np.float32],
    counts: npt.NDArray[np.intp],
) -> npt.NDArray[np.float32]:
    """The values that levels stand for: level times the scale of its group, in float32."""
    return levels.astype(np.float32) * np.repeat(scales, counts)
