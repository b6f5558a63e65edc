"""Fewer bits: as near as promised, unbiased where promised, never saturated."""

import contextlib
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protocol.errors import RemoteProtocolError
from protocol.stream import SEED_BYTES, Stream, derive
from protocol.vectors.levels import GRIDS, INT4, INT8, TERNARY, Grid, pack_levels, unpack_levels
from protocol.vectors.quantise import (
    LARGEST,
    from_levels,
    max_scale,
    mean_scales,
    peak_scales,
    to_float16,
    to_levels,
)

SEED = bytes(SEED_BYTES)
Floats = npt.NDArray[np.float32]
elements = st.floats(-LARGEST, LARGEST, width=32)
vectors = npst.arrays(np.float32, st.integers(1, 30), elements=elements)
seeds = st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES)
grids = st.sampled_from(tuple(GRIDS.values()))
EIGHT_BITS = GRIDS[INT8]


@st.composite
def groups(draw: st.DrawFn) -> tuple[Floats, npt.NDArray[np.intp]]:
    counts = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    values = draw(npst.arrays(np.float32, sum(counts), elements=elements))
    return values, np.array(counts, dtype=np.intp)


def one_group(*values: float) -> tuple[Floats, npt.NDArray[np.intp]]:
    return np.array(values, np.float32), np.array([len(values)], np.intp)


def slow_levels(
    values: Floats, counts: list[int], largest: int, uniform: list[float] | None
) -> list[int]:
    levels = []
    ends = np.cumsum(counts).tolist()
    for end, count in zip(ends, counts, strict=True):
        group = values[end - count : end].tolist()
        peak = max(abs(value) for value in group)
        scale = np.float32(peak / largest)
        if float(scale) * largest < peak:
            scale = np.nextafter(scale, np.float32(np.inf))
        for position, value in enumerate(group, end - count):
            exact = value / float(scale) if scale else 0.0
            levels.append(
                round(exact) if uniform is None else math.floor(exact + uniform[position])
            )
    return levels


@given(groups(), seeds, grids)
def test_levels_are_those_of_the_slow_way(
    grouped: tuple[Floats, npt.NDArray[np.intp]], seed: bytes, grid: Grid
) -> None:
    values, counts = grouped
    scales = peak_scales(values, counts, grid)
    uniform = Stream(seed).uniform(values.size).tolist()
    nearest = to_levels(values, scales, counts, grid, None)
    stochastic = to_levels(values, scales, counts, grid, seed)
    assert nearest.tolist() == slow_levels(values, counts.tolist(), grid.largest, None)
    assert stochastic.tolist() == slow_levels(values, counts.tolist(), grid.largest, uniform)


@given(groups(), seeds, grids)
@example(one_group(LARGEST, -LARGEST, 1.0), SEED, EIGHT_BITS)
@example(one_group(LARGEST, -LARGEST, 1.0), SEED, GRIDS[TERNARY])
@example(one_group(1e-45, -1e-45), SEED, EIGHT_BITS)  # the least float32: a 127th of it is none
@example(one_group(0.0, -0.0), SEED, EIGHT_BITS)
def test_nothing_saturates_or_overflows(
    grouped: tuple[Floats, npt.NDArray[np.intp]], seed: bytes, grid: Grid
) -> None:
    values, counts = grouped
    scales = peak_scales(values, counts, grid)
    assert scales.dtype == np.float32
    assert scales.max() <= max_scale(grid)
    steps = np.repeat(np.maximum(scales, 1e-45), counts)
    assert (values.astype(np.float64) / steps <= grid.largest).all()
    for rounding in (seed, None):
        levels = to_levels(values, scales, counts, grid, rounding)
        assert levels.dtype == np.int8
        assert np.abs(levels.astype(int)).max() <= grid.largest
        restored = from_levels(levels, scales, counts)
        assert restored.dtype == np.float32
        assert np.isfinite(restored).all()
        exact = levels.astype(np.float64) * np.repeat(scales, counts)
        assert (np.abs(values - exact) <= np.repeat(scales, counts) * (1 + 1e-12)).all()


@given(groups(), grids, st.booleans())
@example(one_group(1.0, 0.6, 0.4, -0.3, 0.0), GRIDS[TERNARY], True)  # noqa: FBT003 - no other form
def test_nearest_rounding_ends_no_further_from_the_value_than_zero(
    grouped: tuple[Floats, npt.NDArray[np.intp]],
    grid: Grid,
    by_mean: bool,  # noqa: FBT001 - drawn
) -> None:
    values, counts = grouped
    scales = mean_scales(values, counts) if by_mean else peak_scales(values, counts, grid)
    restored = from_levels(to_levels(values, scales, counts, grid, None), scales, counts)
    assert (np.abs(values.astype(np.float64) - restored) <= np.abs(values) * (1 + 1e-7)).all()


@pytest.mark.parametrize("name", GRIDS)
def test_stochastic_rounding_is_unbiased(name: str) -> None:
    grid = GRIDS[name]
    values, counts = one_group(1.0, -0.734, 0.5, 0.003, -0.0001, 0.0, 0.25)
    scales = peak_scales(values, counts, grid)
    num_seeds = 4_000
    total = np.zeros(values.size)
    for index in range(num_seeds):
        levels = to_levels(values, scales, counts, grid, derive(SEED, index))
        total += from_levels(levels, scales, counts)
    # A level is off by a Bernoulli of standard deviation at most a half.
    bound = 4.5 * 0.5 * float(scales[0]) / math.sqrt(num_seeds)
    assert np.abs(total / num_seeds - values).max() < bound
    nearest = from_levels(to_levels(values, scales, counts, grid, None), scales, counts)
    assert np.abs(nearest - values).max() > bound  # so this test can fail


def test_zeros_stay_zero_whatever_the_seed() -> None:
    values, counts = one_group(0.0, 3.0, 0.0, -0.0)
    for grid in GRIDS.values():
        scales = peak_scales(values, counts, grid)
        for index in range(50):
            levels = to_levels(values, scales, counts, grid, derive(SEED, index))
            assert levels.tolist() == [0, grid.largest, 0, 0]


# --- levels in bytes


@given(st.data(), grids)
def test_levels_come_back_from_their_bytes(data: st.DataObject, grid: Grid) -> None:
    given_levels = data.draw(st.lists(st.integers(-grid.largest, grid.largest), max_size=40))
    levels = np.array(given_levels, np.int8)
    packed = pack_levels(levels, grid)
    assert len(packed) == grid.num_bytes(levels.size)
    assert unpack_levels(packed + b"rest", levels.size, grid).tolist() == given_levels


@given(st.binary(max_size=30), st.integers(0, 40), grids)
def test_no_two_bytes_stand_for_the_same_levels(packed: bytes, count: int, grid: Grid) -> None:
    """What is not refused is what an encoder writes."""
    packed = packed[: grid.num_bytes(count)]
    if len(packed) < grid.num_bytes(count):
        return
    with contextlib.suppress(RemoteProtocolError):
        assert pack_levels(unpack_levels(packed, count, grid), grid) == packed


def test_the_bytes_of_levels_are_as_documented() -> None:
    assert pack_levels(np.array([1, -1, 7], np.int8), GRIDS[INT4]).hex() == "f107"
    trits = np.array([1, -1, 0, 0, 1, -1], np.int8)
    assert list(pack_levels(trits, GRIDS[TERNARY])) == [1 + 2 * 3 + 81, 2]


@given(vectors)
@example(np.array([65_504, 65_519.996, 65_520, -1e38], np.float32))
def test_float16_is_the_nearest_and_never_infinite(values: Floats) -> None:
    halves = to_float16(values).astype(np.float64)
    assert np.isfinite(halves).all()
    clipped = np.clip(values.astype(np.float64), -65_504, 65_504)
    assert (np.abs(halves - clipped) <= np.maximum(np.abs(clipped) / 2**11, 2.0**-25)).all()


def test_float16_clips_to_its_largest() -> None:
    halves = to_float16(np.array([1e5, -3e38, 65_520, 1e-9], np.float32))
    assert halves.tolist() == [65_504, -65_504, 65_504, 0]
