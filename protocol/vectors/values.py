"""The numbers that travel, as bytes: float32, float16, or levels with scales.

Two pieces, between which indices may stand: the values themselves, and the scales of their groups
(none of floats). A group is what a tensor contributes, for coarse grids at most a block of it.
"""

import math
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.vectors import quantise
from protocol.vectors.levels import GRIDS, TERNARY, Grid, pack_levels, unpack_levels

FLOAT32: Final = "float32"
FLOAT16: Final = "float16"
#: Number type -> how a float of it lies in bytes.
FLOATS: Final[dict[str, str]] = {FLOAT32: "<f4", FLOAT16: "<f2"}
#: All number types, the most exact first.
DTYPES: Final = (*FLOATS, *GRIDS)
SCALE_BYTES: Final = 4

Values = npt.NDArray[np.float32]
Counts = npt.NDArray[np.intp]


class Coded(NamedTuple):
    """The two pieces."""

    values: bytes
    scales: bytes


def num_bytes(dtype: str, count: int) -> int:
    """How many bytes so many values take, without scales."""
    grid = GRIDS.get(dtype)
    return np.dtype(FLOATS[dtype]).itemsize * count if grid is None else grid.num_bytes(count)


def max_scale_bytes(dtype: str, count: int, num_tensors: int) -> int:
    """No scales of so many values in so many tensors take more bytes."""
    grid = GRIDS.get(dtype)
    if grid is None:
        return 0
    used = min(count, num_tensors)
    blocks = (count - used) // grid.block if grid.block else 0
    return SCALE_BYTES * (used + blocks)


def encode_values(values: Values, dtype: str, counts: Counts, rounding_seed: bytes | None) -> Coded:
    """The bytes of values of which each tensor has so many, in magnitude at most LARGEST.

    With a seed levels are rounded stochastically, unbiased. Without one to the nearest; the scale
    of three levels is then the mean magnitude instead of the largest: of the few values that top-k
    leaves most would be nearer to zero than to the largest (Sattler et al. 2019).
    """
    grid = GRIDS.get(dtype)
    if grid is None:
        short = quantise.to_float16(values) if dtype == FLOAT16 else values
        return Coded(short.astype(FLOATS[dtype], copy=False).tobytes(), b"")
    groups = _groups(counts, grid)
    if dtype == TERNARY and rounding_seed is None:
        scales = quantise.mean_scales(values, groups)
    else:
        scales = quantise.peak_scales(values, groups, grid)
    levels = quantise.to_levels(values, scales, groups, grid, rounding_seed)
    return Coded(pack_levels(levels, grid), scales.astype("<f4", copy=False).tobytes())


def decode_values(body: bytes, scales_at: int, dtype: str, counts: Counts, count: int) -> Values:
    """The ``count`` values at the start of ``body``; from ``scales_at`` on it holds their scales.

    Raises RemoteProtocolError: ``wrong_shape`` for another number of scales, ``not_finite``,
    ``malformed`` for scales and levels that no encoder writes. May be a read-only view.
    """
    grid = GRIDS.get(dtype)
    if grid is None:
        return _floats(body, scales_at, dtype, count)
    groups = _groups(counts, grid)
    scales = _scales(body, scales_at, groups.size, grid)
    return quantise.from_levels(unpack_levels(body, count, grid), scales, groups)


def _floats(body: bytes, end: int, dtype: str, count: int) -> Values:
    if len(body) != end:
        raise wrong_length(body, f"{count} {dtype}")
    values = np.frombuffer(body, FLOATS[dtype], count).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise RemoteProtocolError(refusals.NOT_FINITE, "among the values")
    return values


def _scales(body: bytes, start: int, count: int, grid: Grid) -> Values:
    if len(body) != start + SCALE_BYTES * count:
        raise wrong_length(body, f"levels with {count} scales")
    scales = np.frombuffer(body, "<f4", offset=start).astype(np.float32, copy=False)
    numbers = scales.tolist()  # a few: NumPy would take longer to begin
    if not all(map(math.isfinite, numbers)):
        raise RemoteProtocolError(refusals.NOT_FINITE, "among the scales")
    if min(numbers) < 0 or max(numbers) > quantise.max_scale(grid):
        raise RemoteProtocolError(refusals.MALFORMED, "a scale that is negative or too large")
    return scales


def _groups(counts: Counts, grid: Grid) -> Counts:
    """How many values share each scale."""
    if not grid.block or counts.max() <= grid.block:
        return counts
    return _blocks(tuple(counts.tolist()), grid.block)


@lru_cache(maxsize=8)  # dense ones of a model are always the same
def _blocks(counts: tuple[int, ...], block: int) -> Counts:
    sizes = [min(block, count - start) for count in counts for start in range(0, count, block)]
    return np.array(sizes, np.intp)


def wrong_length(body: bytes, wanted: str) -> RemoteProtocolError:
    """The refusal of a body of another length."""
    return RemoteProtocolError(refusals.WRONG_SHAPE, f"{len(body)} bytes do not hold {wanted}")
