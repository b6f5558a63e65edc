"""The fast transforms do what the definitions say, exactly, at every edge of the range."""

from hashlib import blake2b
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError
from protocol.secagg.field import Q31, Elements, to_bytes, uniform
from protocol.secagg.ring import DEGREE, intt, multiply, negacyclic_product, ntt
from protocol.stream import SEED_BYTES

SEED = bytes(range(SEED_BYTES))
ROOT = pow(11, (Q31 - 1) // (2 * DEGREE), Q31)
OTHER_SEED = bytes(SEED_BYTES)

fills = st.sampled_from([0, 1, Q31 // 2, Q31 // 2 + 1, (1 << 15) - 1, 1 << 15, Q31 - 2, Q31 - 1])


@st.composite
def polys(draw: st.DrawFn) -> Elements:
    """Uniform, constant, sparse, or of two extreme values in runs."""
    seed = draw(st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES))
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return uniform(seed, (DEGREE,), Q31)
    poly = np.full(DEGREE, draw(fills) if kind != 1 else 0, dtype=np.int64)
    if kind == 1:
        poly[draw(st.integers(0, DEGREE - 1))] = draw(fills)
    if kind == 2:
        step = draw(st.sampled_from([2, 3, 32, 33, 64, 512]))
        poly[np.arange(DEGREE) % step < step // 2] = draw(fills)
    return poly


def evaluate(poly: Elements, place: int) -> int:
    """Value k of the transform, by the definition, in Python's integers."""
    point = pow(ROOT, 2 * place + 1, Q31)
    value = 0
    for coefficient in reversed(poly.tolist()):
        value = (value * point + coefficient) % Q31
    return value


def monomial(degree: int, coefficient: int = 1) -> Elements:
    poly = np.zeros(DEGREE, dtype=np.int64)
    poly[degree] = coefficient
    return poly


def is_canonical(values: Elements) -> bool:
    return values.dtype == np.int64 and bool(((values >= 0) & (values < Q31)).all())


@settings(max_examples=25, deadline=None)
@given(polys(), st.lists(st.integers(0, DEGREE - 1), min_size=1, max_size=4))
def test_values_are_those_at_the_odd_powers_of_the_root(poly: Elements, places: list[int]) -> None:
    values = ntt(poly)
    assert is_canonical(values)
    assert [int(values[place]) for place in places] == [evaluate(poly, place) for place in places]


def test_the_points_are_all_roots_of_x_to_the_1024_plus_1() -> None:
    points = ntt(monomial(1)).tolist()
    assert len(set(points)) == DEGREE
    assert all(pow(point, DEGREE, Q31) == Q31 - 1 for point in points)


@given(polys())
def test_the_inverse_gives_the_coefficients_back(poly: Elements) -> None:
    assert np.array_equal(intt(ntt(poly)), poly)
    assert np.array_equal(ntt(intt(poly)), poly)
    assert is_canonical(intt(poly))


@settings(max_examples=25, deadline=None)
@given(polys(), polys())
def test_products_are_those_of_the_school(a: Elements, b: Elements) -> None:
    product = intt(multiply(ntt(a), ntt(b)))
    assert is_canonical(product)
    assert np.array_equal(product, negacyclic_product(a, b))


@settings(max_examples=5, deadline=None)
@given(polys(), polys(), st.integers(0, DEGREE - 1))
def test_the_schools_product_is_that_of_pythons_integers(
    a: Elements, b: Elements, place: int
) -> None:
    left, right = a.tolist(), b.tolist()
    expected = sum(left[low] * right[place - low] for low in range(place + 1))
    expected -= sum(left[low] * right[DEGREE + place - low] for low in range(place + 1, DEGREE))
    assert negacyclic_product(a, b)[place] == expected % Q31


def test_x_to_the_1024_is_minus_one() -> None:
    product = negacyclic_product(monomial(1023), monomial(1))
    assert np.array_equal(product, monomial(0, Q31 - 1))
    assert np.array_equal(intt(multiply(ntt(monomial(1023)), ntt(monomial(1)))), product)


@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (2, 3), (98,), ()])
def test_a_batch_is_transformed_one_by_one(shape: tuple[int, ...]) -> None:
    batch = uniform(SEED, (*shape, DEGREE), Q31)
    for transform in (ntt, intt):
        together = transform(batch)
        assert together.shape == batch.shape
        for place in np.ndindex(shape):
            assert np.array_equal(together[place], transform(batch[place]))


def test_one_factor_serves_a_whole_batch() -> None:
    batch, factor = uniform(SEED, (3, DEGREE), Q31), uniform(OTHER_SEED, (DEGREE,), Q31)
    assert multiply(batch, factor).tolist() == (batch.astype(object) * factor % Q31).tolist()


def test_views_and_unsigned_words_count_as_what_they_hold() -> None:
    batch = uniform(SEED, (3, DEGREE), Q31)
    batch[0] = Q31 - 1
    unsigned = cast("Elements", batch.astype(np.uint32))
    views = [unsigned, np.asfortranarray(batch), np.repeat(batch, 2, axis=1)[:, ::2]]
    for view in views:
        view.flags.writeable = False
        for transform in (ntt, intt):
            assert np.array_equal(transform(view), transform(batch))
        assert np.array_equal(multiply(view, view), multiply(batch, batch))


def test_the_arguments_stay_as_they_are() -> None:
    batch = uniform(SEED, (2, DEGREE), Q31)
    before = batch.copy()
    ntt(batch)
    intt(batch)
    multiply(batch, batch)
    assert np.array_equal(batch, before)


@pytest.mark.parametrize("shape", [(2, 512), (1023,), (2048,), (0,)])
def test_other_degrees_are_refused(shape: tuple[int, ...]) -> None:
    for transform in (ntt, intt):
        with pytest.raises(LocalProtocolError, match="1024"):
            transform(np.zeros(shape, dtype=np.int64))


def test_transforms_are_frozen() -> None:
    """If this fails, devices in the field compute other masks than the aggregator."""
    poly = uniform(SEED, (DEGREE,), Q31)
    digests = [
        blake2b(to_bytes(values, Q31), digest_size=8).hexdigest()
        for values in (ntt(poly), intt(poly))
    ]
    assert digests == ["f105151177aa02d4", "2a17bca5a702991c"]
