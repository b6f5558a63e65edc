"""Fewer bits: as near as promised, unbiased where promised, never saturated."""

import math

import numpy as np
import numpy.typing as npt
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protocol.stream import SEED_BYTES, Stream, derive
from protocol.vectors.quantise import (
    LARGEST,
    MAX_SCALE,
    from_int8,
    int8_scales,
    to_float16,
    to_int8,
)

SEED = bytes(SEED_BYTES)
Floats = npt.NDArray[np.float32]
elements = st.floats(-LARGEST, LARGEST, width=32)
vectors = npst.arrays(np.float32, st.integers(1, 30), elements=elements)
seeds = st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES)


@st.composite
def groups(draw: st.DrawFn) -> tuple[Floats, npt.NDArray[np.intp]]:
    counts = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    values = draw(npst.arrays(np.float32, sum(counts), elements=elements))
    return values, np.array(counts, dtype=np.intp)


def one_group(*values: float) -> tuple[Floats, npt.NDArray[np.intp]]:
    return np.array(values, np.float32), np.array([len(values)], np.intp)


def slow_levels(values: Floats, counts: list[int], uniform: list[float] | None) -> list[int]:
    levels = []
    ends = np.cumsum(counts).tolist()
    for end, count in zip(ends, counts, strict=True):
        group = values[end - count : end].tolist()
        peak = max(abs(value) for value in group)
        scale = np.float32(peak / 127)
        if float(scale) * 127 < peak:
            scale = np.nextafter(scale, np.float32(np.inf))
        for position, value in enumerate(group, end - count):
            exact = value / float(scale) if scale else 0.0
            levels.append(
                round(exact) if uniform is None else math.floor(exact + uniform[position])
            )
    return levels


@given(groups(), seeds)
def test_levels_are_those_of_the_slow_way(
    grouped: tuple[Floats, npt.NDArray[np.intp]], seed: bytes
) -> None:
    values, counts = grouped
    scales = int8_scales(values, counts)
    uniform = Stream(seed).uniform(values.size).tolist()
    nearest = to_int8(values, scales, counts, None)
    stochastic = to_int8(values, scales, counts, seed)
    assert nearest.tolist() == slow_levels(values, counts.tolist(), None)
    assert stochastic.tolist() == slow_levels(values, counts.tolist(), uniform)


@given(groups(), seeds)
@example(one_group(LARGEST, -LARGEST, 1.0), SEED)
@example(one_group(1e-45, -1e-45), SEED)  # the least float32: a 127th of it is none
@example(one_group(0.0, -0.0), SEED)
def test_nothing_saturates_or_overflows(
    grouped: tuple[Floats, npt.NDArray[np.intp]], seed: bytes
) -> None:
    values, counts = grouped
    scales = int8_scales(values, counts)
    assert scales.dtype == np.float32
    assert scales.max() <= MAX_SCALE
    assert (values.astype(np.float64) / np.repeat(np.maximum(scales, 1e-45), counts) <= 127).all()
    for rounding in (seed, None):
        levels = to_int8(values, scales, counts, rounding)
        assert levels.dtype == np.int8
        assert levels.min() >= -127
        restored = from_int8(levels, scales, counts)
        assert restored.dtype == np.float32
        assert np.isfinite(restored).all()
        exact = levels.astype(np.float64) * np.repeat(scales, counts)
        assert (np.abs(values - exact) <= np.repeat(scales, counts) * (1 + 1e-12)).all()


@given(groups())
def test_nearest_rounding_ends_no_further_from_the_value_than_zero(
    grouped: tuple[Floats, npt.NDArray[np.intp]],
) -> None:
    values, counts = grouped
    scales = int8_scales(values, counts)
    restored = from_int8(to_int8(values, scales, counts, None), scales, counts)
    assert (np.abs(values.astype(np.float64) - restored) <= np.abs(values) * (1 + 1e-7)).all()


def test_stochastic_rounding_is_unbiased() -> None:
    values, counts = one_group(1.0, -0.734, 0.5, 0.003, -0.0001, 0.0, 0.25)
    scales = int8_scales(values, counts)
    num_seeds = 4_000
    total = np.zeros(values.size)
    for index in range(num_seeds):
        total += from_int8(to_int8(values, scales, counts, derive(SEED, index)), scales, counts)
    # A level is off by a Bernoulli of standard deviation at most a half.
    bound = 4.5 * 0.5 * float(scales[0]) / math.sqrt(num_seeds)
    assert np.abs(total / num_seeds - values).max() < bound
    nearest = from_int8(to_int8(values, scales, counts, None), scales, counts)
    assert np.abs(nearest - values).max() > bound  # so this test can fail


def test_zeros_stay_zero_whatever_the_seed() -> None:
    values, counts = one_group(0.0, 3.0, 0.0, -0.0)
    scales = int8_scales(values, counts)
    for index in range(50):
        levels = to_int8(values, scales, counts, derive(SEED, index))
        assert levels.tolist() == [0, 127, 0, 0]


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
