"""A model's arrays and the flat vector are two views of one thing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.vectors.layout import Layout, Subset, Tensor, params_from_bytes, params_to_bytes

MLP = Layout((Tensor("w1", (3, 2)), Tensor("b1", (2,)), Tensor("gain", ())))
shapes = st.lists(npst.array_shapes(min_dims=0, max_dims=3, max_side=4), min_size=1, max_size=5)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def numbered(layout: Layout) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.arange(layout.size, dtype=np.float32)


def test_the_bounds_say_where_each_tensor_starts() -> None:
    assert MLP.size == 9
    assert MLP.bounds.tolist() == [0, 6, 8, 9]
    assert MLP.bounds.dtype == np.int64


@given(shapes)
def test_flatten_inverts_views(sides: list[tuple[int, ...]]) -> None:
    layout = Layout(tuple(Tensor(f"t{i}", shape) for i, shape in enumerate(sides)))
    flat = numbered(layout)
    views = layout.views(flat)
    assert [view.shape for view in views.values()] == sides
    assert np.array_equal(layout.flatten(views), flat)


def test_views_share_memory_and_flatten_does_not() -> None:
    flat = numbered(MLP)
    views = MLP.views(flat)
    views["b1"][1] = 70
    assert flat[7] == 70
    copy = MLP.flatten(views)
    copy[:] = 0
    assert flat[7] == 70


def test_flatten_goes_by_name_not_by_order() -> None:
    views = MLP.views(numbered(MLP))
    assert np.array_equal(MLP.flatten(dict(reversed(views.items()))), numbered(MLP))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"w1": np.zeros((3, 2)), "b1": np.zeros(2)},
        {"w1": np.zeros((2, 3)), "b1": np.zeros(2), "gain": 0.0},
        {"w1": np.zeros((3, 2)), "b1": np.zeros(1), "gain": 0.0},
        {"w1": np.zeros((3, 2)), "b1": np.zeros(2), "gain": 0.0, "more": 0.0},
    ],
)
def test_other_names_or_shapes_are_our_mistake(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(LocalProtocolError):
        MLP.flatten(arrays)


def test_views_need_one_contiguous_vector_of_the_right_size() -> None:
    for flat in (
        np.zeros(8, np.float32),
        np.zeros((9, 1), np.float32),
        np.zeros(18, np.float32)[::2],
    ):
        with pytest.raises(LocalProtocolError):
            MLP.views(flat)


@pytest.mark.parametrize(
    "tensors",
    [
        (),
        (Tensor("w", (1,)), Tensor("w", (2,))),
        (Tensor("w", (1 << 14, 1 << 14)), Tensor("b", ())),
    ],
)
def test_layouts_that_cannot_be_are_our_mistake(tensors: tuple[Tensor, ...]) -> None:
    with pytest.raises(LocalProtocolError):
        Layout(tensors)


def test_a_tensor_holds_something() -> None:
    with pytest.raises(LocalProtocolError):
        Tensor("w", (3, 0))


@given(npst.arrays(np.float32, st.integers(1, 20), elements=floats))
def test_params_survive_their_bytes(params: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    data = params_to_bytes(params)
    assert params_from_bytes(data, params.size).tobytes() == params.tobytes()


def test_params_are_little_endian_whatever_the_machine() -> None:
    assert params_to_bytes(np.array([1, -2], np.float32)).hex() == "0000803f000000c0"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", refusals.WRONG_SHAPE),
        (bytes(7), refusals.WRONG_SHAPE),
        (bytes(9), refusals.WRONG_SHAPE),
        (bytes(4) + bytes.fromhex("0000807f"), refusals.NOT_FINITE),
        (bytes.fromhex("0100a07f") + bytes(4), refusals.NOT_FINITE),
    ],
)
def test_bad_bytes_are_refused_with_their_reason(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        params_from_bytes(data, 2)
    assert refusal.value.reason == reason


def test_what_is_not_finite_or_not_float32_does_not_leave() -> None:
    bad = [
        np.array([np.nan], np.float32),
        np.array([np.inf], np.float32),
        np.zeros((1, 1), np.float32),
    ]
    for params in bad:
        with pytest.raises(LocalProtocolError):
            params_to_bytes(params)
    with pytest.raises(LocalProtocolError):
        params_to_bytes(np.zeros(1))  # type: ignore[arg-type]  # float64: what is tested


def test_a_subset_has_the_numbers_of_its_tensors_in_the_order_of_the_whole() -> None:
    subset = Subset(MLP, frozenset({"gain", "w1"}))
    vector = numbered(MLP)
    assert [tensor.name for tensor in subset.layout.tensors] == ["w1", "gain"]
    assert subset.take(vector).tolist() == [0, 1, 2, 3, 4, 5, 8]
    changed = subset.replaced(vector, -np.arange(7, dtype=np.float32))
    assert changed.tolist() == [0, -1, -2, -3, -4, -5, 6, 7, -6]
    assert np.array_equal(vector, numbered(MLP))


def test_neighbours_are_one_slice() -> None:
    assert Subset(MLP, frozenset({"b1", "w1"})).slices == (slice(0, 8),)
    assert Subset(MLP, frozenset({"b1", "gain"})).slices == (slice(6, 9),)


def test_a_subset_of_everything_copies_nothing() -> None:
    subset = Subset(MLP, frozenset({"gain", "w1", "b1"}))
    vector, other = numbered(MLP), -numbered(MLP)
    assert subset.take(vector) is vector
    assert subset.replaced(vector, other) is other


@given(shapes, st.data())
def test_what_was_taken_can_be_put_back(sides: list[tuple[int, ...]], data: st.DataObject) -> None:
    layout = Layout(tuple(Tensor(f"t{i}", shape) for i, shape in enumerate(sides)))
    names = [tensor.name for tensor in layout.tensors]
    chosen = data.draw(st.sets(st.sampled_from(names), min_size=1))
    subset = Subset(layout, frozenset(chosen))
    vector = numbered(layout)
    moved = subset.replaced(vector, subset.take(vector) + 1000)
    for name, view in layout.views(moved).items():
        before = layout.views(vector)[name]
        assert np.array_equal(view, before + 1000 if name in chosen else before)
    assert np.array_equal(subset.replaced(moved, subset.take(vector)), vector)


@pytest.mark.parametrize("names", [frozenset(), frozenset({"w1", "w2"})])
def test_no_subset_of_nothing_or_of_strangers(names: frozenset[str]) -> None:
    with pytest.raises(LocalProtocolError):
        Subset(MLP, names)
