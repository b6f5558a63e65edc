"""Indices survive their bytes in every coding, and nothing else is taken for indices."""

import contextlib
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.stream import SEED_BYTES, Stream, derive
from protocol.vectors.sparse import (
    BITMAP,
    BUCKETS,
    FITTED,
    VARINTS,
    Indices,
    decode_indices,
    encode_indices,
    max_indices_bytes,
    rand_k,
    split_indices,
    top_k,
)

SEED = bytes(SEED_BYTES)
CODINGS = (BITMAP, VARINTS, BUCKETS)
ALL_CODINGS = (*CODINGS, FITTED)
Case = tuple[Indices, int]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = draw(st.one_of(st.integers(1, 700), st.integers(1, 1 << 28)))
    num_max = min(size, 60) if size > 700 else size
    chosen = draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=num_max))
    return np.array(sorted(chosen), dtype=np.int64), size


def pack_bits(positions: list[int], num_bits: int) -> bytes:
    data = bytearray((num_bits + 7) // 8)
    for position in positions:
        data[position // 8] |= 1 << position % 8
    return bytes(data)


def slow_bitmap(indices: list[int], size: int) -> bytes:
    return pack_bits(indices, size)


def slow_varints(indices: list[int], _size: int) -> bytes:
    data = []
    before = -1
    for index in indices:
        gap = index - before - 1
        while gap >= 128:
            data.append(gap % 128 + 128)
            gap //= 128
        data.append(gap)
        before = index
    return bytes(data)


def slow_high(indices: list[int], size: int, low_bits: int) -> bytes:
    inhabitants = Counter(index >> low_bits for index in indices)
    bits: list[int] = []
    num_bits = 0
    for bucket in range((size - 1 >> low_bits) + 1):
        num_bits += bucket > 0  # the zero that ends the bucket before
        bits.extend(range(num_bits, num_bits + inhabitants[bucket]))
        num_bits += inhabitants[bucket]
    return pack_bits(bits, num_bits)


def slow_buckets(indices: list[int], size: int) -> bytes:
    return bytes(index % 256 for index in indices) + slow_high(indices, size, 8)


def slow_fitted(indices: list[int], size: int) -> bytes:
    low_bits = math.floor(math.log2(size / len(indices)))
    low = [
        at * low_bits + bit
        for at, index in enumerate(indices)
        for bit in range(low_bits)
        if index >> bit & 1
    ]
    return pack_bits(low, low_bits * len(indices)) + slow_high(indices, size, low_bits)


SLOW: dict[int, Callable[[list[int], int], bytes]] = {
    BITMAP: slow_bitmap,
    VARINTS: slow_varints,
    BUCKETS: slow_buckets,
    FITTED: slow_fitted,
}


def slow_codings(indices: Indices, size: int) -> dict[int, bytes]:
    return {
        coding: bytes([coding]) + SLOW[coding](indices.tolist(), size) for coding in ALL_CODINGS
    }


def spread(num: int, size: int) -> Indices:
    return rand_k(SEED, size, num)


@given(cases(), st.booleans())
def test_decode_inverts_encode(case: Case, fine: bool) -> None:  # noqa: FBT001 - drawn
    indices, size = case
    data = encode_indices(indices, size, fine=fine)
    decoded, num_bytes = split_indices(data, size, indices.size, fine=fine)
    assert num_bytes == len(data)
    assert decoded.dtype == np.int64
    assert np.array_equal(decoded, indices)
    assert len(data) <= max_indices_bytes(size, indices.size, fine=fine)


@settings(deadline=None)  # the slow way takes long for the large examples
@given(cases().filter(lambda case: case[1] <= 100_000))
@example((spread(1000, 100_000), 100_000))
@example((spread(5000, 100_000), 100_000))
@example((spread(20_000, 100_000), 100_000))
@example((spread(10, 100_000), 100_000))
def test_the_shortest_coding_is_taken_and_every_coding_is_read(case: Case) -> None:
    indices, size = case
    codings = slow_codings(indices, size)
    for fine, known in ((False, CODINGS), (True, ALL_CODINGS)):
        shortest = min((codings[each] for each in known), key=lambda data: (len(data), data[0]))
        assert encode_indices(indices, size, fine=fine) == shortest
        for coding in known:
            found, _ = split_indices(codings[coding], size, indices.size, fine=fine)
            assert np.array_equal(found, indices)


@pytest.mark.parametrize(
    ("num", "coding"), [(10, VARINTS), (1000, BUCKETS), (5000, VARINTS), (20_000, BITMAP)]
)
def test_each_coding_has_its_densities(num: int, coding: int) -> None:
    assert encode_indices(spread(num, 100_000), 100_000)[0] == coding


def test_a_thousand_of_a_hundred_thousand_take_less_than_ten_bits_each() -> None:
    assert len(encode_indices(spread(1000, 100_000), 100_000)) == 1175


@pytest.mark.parametrize(("num", "most"), [(1000, 8.6), (5000, 6.4), (10_000, 5.3)])
def test_fitted_buckets_are_within_half_a_bit_of_entropy(num: int, most: float) -> None:
    share = num / 100_000
    entropy = -math.log2(share) - (1 / share - 1) * math.log2(1 - share)
    bits = 8 * len(encode_indices(spread(num, 100_000), 100_000, fine=True)) / num
    assert bits < most
    assert entropy < bits < entropy + 0.6


def test_fitted_buckets_are_refused_where_they_were_not_asked_for() -> None:
    coded = encode_indices(spread(50, 1000), 1000, fine=True)
    assert coded[0] == FITTED
    with pytest.raises(RemoteProtocolError, match="unknown coding"):
        split_indices(coded, 1000, 50)


def garbage(size: int) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda coding, rest: bytes([coding]) + rest, st.integers(0, 4), st.binary(max_size=size)
    )


@given(garbage(12), st.integers(1, 80), st.integers(1, 80))
def test_garbage_is_indices_or_is_refused(data: bytes, size: int, count: int) -> None:
    count = min(size, count)
    with contextlib.suppress(RemoteProtocolError):  # never any other error
        indices, num_bytes = split_indices(data, size, count, fine=True)
        assert indices.size == count
        assert 0 <= indices[0] <= indices[-1] < size
        assert (np.diff(indices) > 0).all()
        # Nothing is said in two ways: these are the only bytes of this coding.
        assert slow_codings(indices, size)[data[0]] == data[:num_bytes]


@given(cases().filter(lambda case: case[1] <= 5_000), st.data())
def test_a_damaged_encoding_is_refused_or_says_something_else(
    case: Case, data: st.DataObject
) -> None:
    indices, size = case
    coded = bytearray(slow_codings(indices, size)[data.draw(st.sampled_from(ALL_CODINGS))])
    coded[data.draw(st.integers(1, len(coded) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RemoteProtocolError):
        found, num_bytes = split_indices(bytes(coded), size, indices.size, fine=True)
        assert num_bytes < len(coded) or not np.array_equal(found, indices)


@given(cases().filter(lambda case: case[1] <= 5_000), st.sampled_from(ALL_CODINGS), st.binary())
def test_what_follows_is_left_alone_and_a_cut_is_seen(case: Case, coding: int, rest: bytes) -> None:
    indices, size = case
    coded = slow_codings(indices, size)[coding]
    found, num_bytes = split_indices(coded + rest, size, indices.size, fine=True)
    assert np.array_equal(found, indices)
    assert num_bytes == len(coded)
    with pytest.raises(RemoteProtocolError):
        split_indices(coded[:-1], size, indices.size, fine=True)
    if rest and coding != FITTED:
        with pytest.raises(RemoteProtocolError, match="bytes after"):
            decode_indices(coded + rest, size, indices.size)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("", "unknown coding"),
        ("03", "unknown coding"),
        ("00", "cut off"),
        ("00ffff", "16 in the bitmap"),
        ("000100", "1 in the bitmap"),
        ("000140", "beyond the model"),
        ("0103", "cut off"),
        ("018384", "cut off"),
        ("010309", "beyond the model"),
        ("01038000", "group too many"),
        ("01038080808001", "too long"),
        ("020309", "cut off"),
        ("02030900", "0 in the buckets"),
        ("02030907", "3 in the buckets"),
        ("02090303", "not sorted"),
        ("02030303", "not sorted"),
        ("02030905", "beyond the model"),
        ("0203090300", "bytes after"),
    ],
)
def test_bad_bytes_are_malformed(data: str, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=problem) as refusal:
        decode_indices(bytes.fromhex(data), 12, 2)
    assert refusal.value.reason == refusals.MALFORMED


@pytest.mark.parametrize(
    ("data", "size", "problem"),
    [("030d", 40, "cut off"), ("031403", 12, "bits after"), ("030900", 40, "0 in the buckets")],
)
def test_bad_fitted_buckets_are_malformed(data: str, size: int, problem: str) -> None:
    with pytest.raises(RemoteProtocolError, match=problem) as refusal:
        split_indices(bytes.fromhex(data), size, 2, fine=True)
    assert refusal.value.reason == refusals.MALFORMED


@pytest.mark.parametrize(
    ("indices", "size"), [([], 3), ([2, 1], 3), ([1, 1], 3), ([-1, 1], 3), ([3], 3), ([0], 1 << 29)]
)
def test_other_indices_are_our_mistake(indices: list[int], size: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_indices(np.array(indices, dtype=np.int64), size)


halves = st.integers(-4, 4).map(lambda number: number / 2)  # few values: many ties


@given(npst.arrays(np.float32, st.integers(1, 40), elements=halves), st.data())
def test_top_k_keeps_the_largest_and_of_equals_the_first(
    values: npt.NDArray[np.float32], data: st.DataObject
) -> None:
    num_kept = data.draw(st.integers(1, values.size))
    ranked = sorted(range(values.size), key=lambda index: (-abs(values[index]), index))
    assert top_k(values, num_kept).tolist() == sorted(ranked[:num_kept])


def test_top_k_has_no_place_for_nan_or_other_counts() -> None:
    with pytest.raises(LocalProtocolError, match="NaN"):
        top_k(np.array([1, np.nan, 3], np.float32), 1)
    for num_kept in (0, 4):
        with pytest.raises(LocalProtocolError):
            top_k(np.zeros(3, np.float32), num_kept)


def test_rand_k_is_the_subset_of_its_seed_and_cannot_be_written_to() -> None:
    seed = derive(SEED, "support")
    indices = rand_k(seed, 1000, 50)
    assert indices.tolist() == Stream(seed).subset(1000, 50).tolist()
    with pytest.raises(ValueError, match="read-only"):
        indices[0] = 1
