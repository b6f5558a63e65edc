"""Every result is that of Python's integers, whatever the size and the signs inside."""

from itertools import product as cartesian
from math import prod
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.refusals import MALFORMED
from protocol.secagg.field import (
    P16,
    Q31,
    Elements,
    fill,
    from_bytes,
    inverse,
    lagrange,
    matmul,
    solve,
    to_bytes,
    uniform,
    word_type,
)
from protocol.secagg.field import words as read_words
from protocol.stream import SEED_BYTES, Stream

SEED = bytes(range(SEED_BYTES))
MERSENNE = 2**31 - 1
PRIMES = [2, 3, 5, 251, 65_519, P16, 65_537, 1_048_573, Q31, MERSENNE]

primes = st.sampled_from(PRIMES)
seeds = st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES)


def extremes(modulus: int) -> list[int]:
    """The ends of the range, and around where centring and the cut into limbs turn over."""
    edges = (0, modulus // 2, modulus - 1, 1 << 15, 1 << 16, modulus - (1 << 15))
    return sorted({(edge + step) % modulus for edge in edges for step in (-1, 0, 1)})


def elements(modulus: int, shape: tuple[int, ...]) -> st.SearchStrategy[Elements]:
    number = st.sampled_from(extremes(modulus)) | st.integers(0, modulus - 1)
    size = prod(shape)
    lists = st.lists(number, min_size=size, max_size=size)
    return lists.map(lambda numbers: np.array(numbers, dtype=np.int64).reshape(shape))


def reference(a: Elements, b: Elements, modulus: int) -> object:
    """Rows times columns, in Python's integers."""
    return (a.astype(object) @ b.astype(object) % modulus).tolist()


def horner(coefficients: list[int], point: int, modulus: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % modulus
    return value


def words(data: bytes, modulus: int) -> list[int]:
    """The rule of `uniform`, one number at a time."""
    num_bytes = 2 if modulus < 1 << 16 else 4
    bits = (modulus - 1).bit_length()
    cut = (data[at : at + num_bytes] for at in range(0, len(data), num_bytes))
    numbers = (int.from_bytes(word, "little") % 2**bits for word in cut)
    return [number for number in numbers if number < modulus]


@given(st.data(), primes, st.integers(1, 4), st.integers(1, 6), st.integers(1, 4))
def test_matrices_multiply_as_integers_do(
    data: st.DataObject, modulus: int, height: int, size: int, width: int
) -> None:
    a = data.draw(elements(modulus, (height, size)))
    b = data.draw(elements(modulus, (size, width)))
    assert matmul(a, b, modulus).tolist() == reference(a, b, modulus)
    assert matmul(a, b[:, 0], modulus).tolist() == reference(a, b[:, 0], modulus)


@pytest.mark.parametrize("modulus", PRIMES)
@pytest.mark.parametrize("size", [1, 32, 125, 126, 127, 252, 300, 1000])
def test_the_largest_sums_lose_no_bit(modulus: int, size: int) -> None:
    """All terms alike: the sums grow as far as they can, at every edge of the limbs."""
    values = extremes(modulus)
    a = np.repeat(np.array(values)[:, np.newaxis], size, axis=1)
    expected = [[x * y * size % modulus for y in values] for x in values]
    assert matmul(a, a.T, modulus).tolist() == expected


@pytest.mark.parametrize("modulus", [P16, 65_519])
@pytest.mark.parametrize("size", [(1 << 21) + 1, (1 << 22) - 1, (1 << 22) + 3, (1 << 23) + 1])
def test_millions_of_terms_lose_no_bit(modulus: int, size: int) -> None:
    values = np.array([modulus // 2 - 1, modulus // 2, modulus // 2 + 1, modulus - 2])
    for value in values.tolist():
        factor = np.broadcast_to(np.int64(value), (1, size))
        other = np.broadcast_to(np.int64(modulus - 2), (size,))
        assert matmul(factor, other, modulus).tolist() == [value * (modulus - 2) * size % modulus]


@pytest.mark.parametrize("modulus", [P16, Q31])
@pytest.mark.parametrize("width", [0, 1, 1023, 1024, 1025, 4100])
def test_a_wide_product_is_right_in_every_column(modulus: int, width: int) -> None:
    a = uniform(SEED, (2, 5), modulus)
    b = uniform(SEED, (5, width), modulus)
    assert matmul(a, b, modulus).tolist() == reference(a, b, modulus)


@pytest.mark.parametrize(("height", "size", "width"), [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_an_empty_product_is_zeros(height: int, size: int, width: int) -> None:
    a, b = np.zeros((height, size), dtype=np.int64), np.zeros((size, width), dtype=np.int64)
    assert np.array_equal(matmul(a, b, Q31), np.zeros((height, width)))


def test_shapes_that_do_not_multiply_are_refused() -> None:
    for a, b in [((2, 250), (125, 3)), ((2, 125), (250, 3)), ((2, 3), (4,))]:
        with pytest.raises(LocalProtocolError, match="multiply"):
            matmul(np.ones(a, dtype=np.int64), np.ones(b, dtype=np.int64), Q31)


@pytest.mark.parametrize("modulus", [P16, Q31, MERSENNE])
def test_views_and_unsigned_words_count_as_what_they_hold(modulus: int) -> None:
    plain = uniform(SEED, (6, 6), modulus)
    plain[0] = modulus - 1
    views = [
        cast("Elements", plain.astype(np.uint32)),
        np.asfortranarray(plain),
        np.repeat(np.repeat(plain, 2, axis=0), 3, axis=1)[::2, ::3],
        plain[::-1, ::-1][::-1, ::-1],
    ]
    for view in views:
        view.flags.writeable = False
        assert np.array_equal(matmul(view, view, modulus), matmul(plain, plain, modulus))
        assert np.array_equal(matmul(plain, view.T, modulus), matmul(plain, plain.T, modulus))
        assert to_bytes(view, modulus) == to_bytes(plain, modulus)
        assert np.array_equal(inverse(view, modulus), inverse(plain, modulus))
        solution = solve(view, view[:, 0], modulus)
        assert solution is not None
        assert np.array_equal(matmul(plain, solution, modulus), plain[:, 0])


@given(st.data(), primes)
def test_inverses_multiply_to_one(data: st.DataObject, modulus: int) -> None:
    values = data.draw(elements(modulus, (2, 3)))
    values[values == 0] = 1
    found = inverse(values, modulus)
    assert found.tolist() == [[pow(value, -1, modulus) for value in row] for row in values.tolist()]


@pytest.mark.parametrize("modulus", PRIMES)
def test_zero_has_no_inverse(modulus: int) -> None:
    for zero in (0, modulus):
        with pytest.raises(LocalProtocolError, match="no inverse"):
            inverse(np.array([1, zero]), modulus)


@given(st.data(), primes)
def test_interpolation_gives_the_values_of_the_polynomial(
    data: st.DataObject, modulus: int
) -> None:
    number = st.integers(0, modulus - 1) | st.sampled_from(extremes(modulus))
    points = tuple(data.draw(st.lists(number, unique=True, min_size=1, max_size=min(8, modulus))))
    coefficients = data.draw(st.lists(number, min_size=len(points), max_size=len(points)))
    targets = tuple(data.draw(st.lists(number, max_size=4))) + points[:1]  # one is a point itself
    values = np.array([horner(coefficients, point, modulus) for point in points])
    matrix = lagrange(points, targets, modulus)
    assert matrix.shape == (len(targets), len(points))
    assert matmul(matrix, values, modulus).tolist() == [
        horner(coefficients, target, modulus) for target in targets
    ]
    assert ((matrix >= 0) & (matrix < modulus)).all()


def test_interpolation_of_a_whole_cohort_is_exact() -> None:
    points, targets = tuple(range(97, 225)), tuple(range(1, 97))
    coefficients = uniform(SEED, (len(points),), Q31).tolist()
    values = np.array([horner(coefficients, point, Q31) for point in points])
    expected = [horner(coefficients, target, Q31) for target in targets]
    assert matmul(lagrange(points, targets, Q31), values, Q31).tolist() == expected


def test_cached_matrices_cannot_be_changed() -> None:
    matrix = lagrange((1, 2, 3), (0,), P16)
    assert lagrange((1, 2, 3), (0,), P16) is matrix
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1


def test_points_that_are_equal_modulo_p_are_refused() -> None:
    for points in [(1, 2, 1), (1, P16 + 1), (0, P16)]:
        with pytest.raises(LocalProtocolError, match="equal"):
            lagrange(points, (5,), P16)


@given(st.data(), primes, st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_a_system_with_a_solution_is_solved(
    data: st.DataObject, modulus: int, height: int, width: int, rank: int
) -> None:
    left = data.draw(elements(modulus, (height, rank)))
    matrix = matmul(left, data.draw(elements(modulus, (rank, width))), modulus)
    rhs = matmul(matrix, data.draw(elements(modulus, (width,))), modulus)
    solution = solve(matrix, rhs, modulus)
    assert solution is not None
    assert matmul(matrix, solution, modulus).tolist() == rhs.tolist()


@given(st.data(), st.sampled_from([2, 3, 5]), st.integers(1, 4), st.integers(1, 3))
def test_none_means_that_no_vector_solves_it(
    data: st.DataObject, modulus: int, height: int, width: int
) -> None:
    matrix = data.draw(elements(modulus, (height, width)))
    rhs = data.draw(elements(modulus, (height,)))
    solvable = any(
        (matrix @ np.array(vector) % modulus).tolist() == rhs.tolist()
        for vector in cartesian(range(modulus), repeat=width)
    )
    solution = solve(matrix, rhs, modulus)
    assert (solution is not None) == solvable
    assert solution is None or matmul(matrix, solution, modulus).tolist() == rhs.tolist()


@given(st.data(), primes, st.integers(0, 6))
def test_bytes_hold_the_elements_little_endian(
    data: st.DataObject, modulus: int, count: int
) -> None:
    values = data.draw(elements(modulus, (count,)))
    num_bytes = 2 if modulus < 1 << 16 else 4
    written = to_bytes(values, modulus)
    assert written == b"".join(value.to_bytes(num_bytes, "little") for value in values.tolist())
    read = from_bytes(written, modulus, count)
    assert read.dtype == np.int64
    assert read.tolist() == values.tolist()
    read[:] = 0  # writable: not a view of the message


@given(st.binary(max_size=40), primes, st.integers(0, 12))
def test_garbage_is_elements_or_malformed(data: bytes, modulus: int, count: int) -> None:
    try:
        values = from_bytes(data, modulus, count)
    except RemoteProtocolError as error:
        assert error.reason == MALFORMED  # noqa: PT017 - it may as well succeed
        return
    assert to_bytes(values, modulus) == data
    assert len(values) == count
    assert (values < modulus).all()


@pytest.mark.parametrize("modulus", PRIMES)
def test_what_is_not_below_p_or_of_another_length_is_malformed(modulus: int) -> None:
    num_bytes = 2 if modulus < 1 << 16 else 4
    largest = (modulus - 1).to_bytes(num_bytes, "little")
    assert from_bytes(largest, modulus, 1).tolist() == [modulus - 1]
    for data in (modulus.to_bytes(num_bytes, "little"), largest[:-1], largest * 2, b""):
        with pytest.raises(RemoteProtocolError, match=MALFORMED):
            from_bytes(data, modulus, 1)


@settings(max_examples=30)
@given(seeds, primes, st.integers(0, 40))
def test_uniform_follows_its_rule(seed: bytes, modulus: int, size: int) -> None:
    drawn = uniform(seed, (size,), modulus)
    assert drawn.dtype == np.int64
    assert drawn.tolist() == words(Stream(seed).bytes(16_384), modulus)[:size]


@given(seeds, primes, st.integers(0, 300), st.integers(0, 300))
def test_a_small_draw_begins_a_larger_one(seed: bytes, modulus: int, few: int, more: int) -> None:
    whole = uniform(seed, (few + more,), modulus)
    assert np.array_equal(uniform(seed, (few,), modulus), whole[:few])


def test_a_draw_fills_its_shape_row_by_row() -> None:
    assert np.array_equal(uniform(SEED, (3, 4, 5), P16).ravel(), uniform(SEED, (60,), P16))
    assert uniform(SEED, (0, 4), P16).shape == (0, 4)


@pytest.mark.parametrize("modulus", [3, 5, 251, P16, Q31, MERSENNE])
def test_all_elements_are_equally_likely(modulus: int) -> None:
    """Chi-square over 16 bins (fewer for small primes), beyond the 0.999 quantile for 15."""
    num_bins = min(16, modulus)
    size = 40_000
    counts = np.bincount(uniform(SEED, (size,), modulus) * num_bins // modulus, minlength=num_bins)
    starts = [-(-modulus * place // num_bins) for place in range(num_bins + 1)]
    expected = np.diff(starts) / modulus * size
    assert np.sum((counts - expected) ** 2 / expected) < 37.7


def test_draws_are_frozen() -> None:
    """If this fails, devices in the field derive other masks than the aggregator."""
    assert uniform(SEED, (4,), P16).tolist() == [8513, 30902, 5279, 14866]
    drawn = [2025201985, 974263455, 475005294, 1733959681]
    assert uniform(SEED, (4,), Q31).tolist() == drawn


def test_what_is_filled_in_place_is_what_is_drawn_anew() -> None:
    whole = np.zeros((5, 7), dtype=np.int64)
    assert fill(whole[1:4], SEED, P16) is not whole
    assert whole[1:4].tolist() == uniform(SEED, (3, 7), P16).tolist()
    assert not whole[[0, 4]].any()


@pytest.mark.parametrize("modulus", [2, 257, P16, MERSENNE])
@pytest.mark.parametrize("size", [4_095, 4_096, 8_191, 8_192, 8_193, 30_000])
def test_what_is_filled_goes_on_after_each_page(modulus: int, size: int) -> None:
    wanted = words(Stream(SEED).bytes(16 * size), modulus)[:size]
    assert len(wanted) == size
    assert uniform(SEED, (size,), modulus).tolist() == wanted
    travelling = fill(np.empty(size, word_type(modulus)), SEED, modulus)
    assert travelling.tolist() == wanted


@pytest.mark.parametrize("modulus", [P16, Q31])
def test_words_are_the_elements_as_they_travel(modulus: int) -> None:
    elements = uniform(SEED, (50,), modulus)
    data = to_bytes(elements, modulus)
    travelling = read_words(data, modulus, 50)
    assert travelling.tolist() == elements.tolist()
    assert travelling.itemsize == len(data) // 50
    assert to_bytes(travelling, modulus) == data
    with pytest.raises(ValueError, match="read-only"):
        travelling[0] = 0


@pytest.mark.parametrize("modulus", [P16, Q31])
def test_products_of_words_do_not_wrap(modulus: int) -> None:
    largest = np.full((3, 3), modulus - 1, word_type(modulus))
    assert matmul(largest, largest, modulus).tolist() == [[3] * 3] * 3
    assert matmul(largest, largest[0], modulus).tolist() == [3] * 3


def test_an_array_with_gaps_is_refused_not_left_as_it_was() -> None:
    with pytest.raises(LocalProtocolError, match="gaps"):
        fill(np.zeros((5, 7), dtype=np.int64)[:, :3], SEED, P16)


@pytest.mark.parametrize("modulus", [P16, Q31, MERSENNE])
@pytest.mark.parametrize("size", [511, 512, 513, 600])
def test_few_products_and_many_are_summed_alike(modulus: int, size: int) -> None:
    """Around the size at which a matrix times a vector is left to BLAS; the worst numbers."""
    a = np.full((4, size), modulus - 1, dtype=np.int64)
    a[1], a[2] = modulus // 2, uniform(SEED, (size,), modulus)
    b = np.full(size, modulus - 1, dtype=np.int64)
    assert matmul(a, b, modulus).tolist() == reference(a, b, modulus)
