"""Numbers become integers and integers become bits as the docstrings say, at every edge."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secagg.fixedpoint import num_bytes, pack, quantise, quantise_stochastic, unpack

SEED = bytes(range(32))


def float32(*values: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


def packed_slowly(values: list[int], width: int) -> bytes:
    """The definition: one large integer."""
    whole = sum(value << (width * index) for index, value in enumerate(values))
    return whole.to_bytes(-(-width * len(values) // 8), "little")


packable = st.integers(1, 32).flatmap(
    lambda width: st.tuples(st.just(width), st.lists(st.integers(0, (1 << width) - 1), max_size=99))
)


@given(packable)
def test_packing_is_the_definition_and_unpacking_inverts_it(case: tuple[int, list[int]]) -> None:
    width, values = case
    data = pack(np.array(values, dtype=np.int64), width)
    assert data == packed_slowly(values, width)
    assert unpack(data, width, len(values)).tolist() == values


@pytest.mark.parametrize("width", range(1, 33))
def test_the_largest_values_pack_at_every_width(width: int) -> None:
    values = np.full(1_001, (1 << width) - 1, dtype=np.int64)
    data = pack(values, width)
    assert len(data) == num_bytes(1_001, width)
    np.testing.assert_array_equal(unpack(data, width, 1_001), values)


@given(st.binary(max_size=40), st.integers(1, 32), st.integers(0, 40))
def test_garbage_unpacks_to_itself_or_is_malformed(data: bytes, width: int, count: int) -> None:
    with contextlib.suppress(RemoteProtocolError):  # never any other error
        assert pack(unpack(data, width, count), width) == data


def test_padding_must_be_zero() -> None:
    data = bytearray(pack(np.zeros(3, dtype=np.int64), 12))
    assert len(data) == 5
    data[4] = 0b0000_1000
    assert unpack(bytes(data), 12, 3).tolist() == [0, 0, 1 << 11]
    data[4] = 0b0001_0000
    with pytest.raises(RemoteProtocolError, match="behind the last value") as refusal:
        unpack(bytes(data), 12, 3)
    assert refusal.value.reason == refusals.MALFORMED


@pytest.mark.parametrize("width", [-1, 0, 33])
def test_a_width_beyond_32_bits_is_our_bug(width: int) -> None:
    with pytest.raises(LocalProtocolError, match="width"):
        unpack(b"", width, 0)


def test_rounding_is_to_the_nearest_and_ties_go_to_even() -> None:
    integers, num_saturated = quantise(float32(0.24, 0.25, 0.26, 0.75, -0.25, -0.75, 1), 2.0, 5)
    assert integers.tolist() == [0, 0, 1, 2, 0, -2, 2]
    assert integers.dtype == np.int64
    assert num_saturated == 0


def test_values_at_the_clip_are_not_saturated_and_those_beyond_are() -> None:
    clip, limit = 0.1, 335_000_000  # float32(0.1) is a little more than 0.1
    above = float(np.nextafter(np.float32(clip), np.float32(1)))
    values = float32(clip, -clip, above, -above, 1e30, -1e30, 0)
    integers, num_saturated = quantise(values, limit / clip, limit)
    assert integers.tolist() == [limit, -limit, limit, -limit, limit, -limit, 0]
    assert num_saturated == 4


@given(
    st.lists(st.floats(-2, 2, width=32), max_size=50),
    st.floats(0.5, 1e8),
    st.integers(1, 1 << 30),
)
def test_both_roundings_stay_within_the_limit_and_near_the_value(
    values: list[float], scale: float, limit: int
) -> None:
    wanted = np.clip(np.array(values) * scale, -limit, limit)
    nearest, num_saturated = quantise(float32(*values), scale, limit)
    random, num_again = quantise_stochastic(float32(*values), scale, limit, SEED)
    assert num_saturated == num_again <= len(values)
    for integers, error in ((nearest, 0.5), (random, 1)):
        assert np.abs(integers).max(initial=0) <= limit
        assert np.abs(integers - wanted).max(initial=0) <= error


def test_stochastic_rounding_has_no_bias() -> None:
    values = np.full(100_000, 0.3, dtype=np.float32)
    integers, _ = quantise_stochastic(values, 1.0, 1, SEED)
    assert set(integers.tolist()) == {0, 1}
    assert abs(integers.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 100_000)


def test_the_seed_decides_the_rounding() -> None:
    values = np.linspace(-1, 1, 500, dtype=np.float32)
    first, _ = quantise_stochastic(values, 10.0, 10, SEED)
    again, _ = quantise_stochastic(values, 10.0, 10, SEED)
    other, _ = quantise_stochastic(values, 10.0, 10, bytes(32))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_our_bug(value: float) -> None:
    with pytest.raises(LocalProtocolError, match="not finite"):
        quantise(float32(0, value), 1.0, 10)
