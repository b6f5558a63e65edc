"""The common support: the same for all, with what was named and a fair rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secagg.common import coordinates, num_named, read_named
from protocol.vectors.sparse import encode_indices

NONE = np.zeros(0, np.int64)


@st.composite
def supports(draw: st.DrawFn) -> tuple[int, int, list[int], int]:
    size = draw(st.integers(1, 300))
    num_kept = draw(st.integers(1, size))
    named = draw(st.sets(st.integers(0, size - 1), max_size=num_kept))
    return size, num_kept, sorted(named), draw(st.integers(0, 1 << 40))


@given(supports())
def test_a_support_has_its_size_is_sorted_and_has_all_that_is_named(
    case: tuple[int, int, list[int], int],
) -> None:
    size, num_kept, named, number = case
    where = coordinates("t", number, np.array(named, np.int64), size, num_kept)
    assert where.size == num_kept
    assert (np.diff(where) > 0).all()
    assert 0 <= where[0] <= where[-1] < size
    assert set(named) <= set(where.tolist())


def test_task_and_number_decide_the_rest_and_nothing_else_does() -> None:
    first = coordinates("t", 1, NONE, 100, 10)
    assert first.tolist() == [1, 11, 62, 63, 78, 81, 84, 95, 96, 97]
    np.testing.assert_array_equal(first, coordinates("t", 1, NONE, 100, 10))
    assert (first != coordinates("t", 2, NONE, 100, 10)).any()
    assert (first != coordinates("u", 1, NONE, 100, 10)).any()


def test_every_coordinate_is_visited_about_equally_often() -> None:
    visits = np.zeros(100)
    for number in range(400):
        visits[coordinates("t", number, np.arange(5), 100, 15)] += 1
    assert (visits[:5] == 400).all()
    expected = 400 * 10 / 95
    assert visits[5:].min() > expected / 2
    assert visits[5:].max() < expected * 2


def test_what_cannot_be_chosen_is_refused() -> None:
    for named, size, num_kept in ((np.arange(3), 10, 2), (NONE, 10, 11)):
        with pytest.raises(LocalProtocolError):
            coordinates("t", 1, named, size, num_kept)


def test_named_coordinates_are_read_back() -> None:
    named = np.array([2, 5, 9])
    np.testing.assert_array_equal(read_named(encode_indices(named, 20), 20, 6), named)
    assert read_named(b"", 20, 6).size == 0
    assert num_named(6) == 3


@pytest.mark.parametrize("num_kept", [1, 4, 8])
def test_names_of_another_count_are_refused(num_kept: int) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        read_named(encode_indices(np.array([2, 5, 9]), 20), 20, num_kept)
    assert refused.value.reason == refusals.MALFORMED


@given(st.binary(max_size=40), st.integers(1, 50))
def test_garbage_is_read_or_refused(data: bytes, num_kept: int) -> None:
    try:
        named = read_named(data, 50, num_kept)
    except RemoteProtocolError:
        return
    assert coordinates("t", 1, named, 50, num_kept).size == num_kept
