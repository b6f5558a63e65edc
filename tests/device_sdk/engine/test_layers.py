"""Every layer's derivative is that of its forward pass, in float64 to 1e-6."""

from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from device_sdk.engine.errors import TrainingError
from device_sdk.engine.layers import (
    GELU,
    GRU,
    LAYERS,
    Add,
    AvgPool,
    BatchNorm,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Embedding,
    Flatten,
    Frame,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    ReLU,
    ReLU6,
    Reshape,
    Sigmoid,
    Tanh,
)
from protocol.errors import ConfigError
from protocol.stream import Stream

Float64 = npt.NDArray[np.float64]
EPSILON = 1e-6
CASES: list[tuple[Layer, tuple[int, ...]]] = [
    (Dense(3), (5,)),
    (Dense(1, init_scale="glorot"), (1,)),
    (Dense(2, bias=False), (3,)),
    (ReLU(), (7,)),
    (ReLU6(), (7,)),
    (LeakyReLU(), (7,)),
    (LeakyReLU(0.3), (2, 2)),
    (Tanh(), (2, 3)),
    (Sigmoid(), (4,)),
    (GELU(), (5,)),
    (Flatten(), (2, 3, 2)),
    (Reshape((4, 3)), (2, 3, 2)),
    (Add("below"), (3, 2)),
    (Dropout(0.4), (5, 3)),
    (Conv2D(3, (3,)), (5, 6, 2)),
    (Conv2D(2, (1,)), (3, 2, 4)),
    (Conv2D(2, (2, 3), stride=(2, 1), padding="same"), (5, 4, 1)),
    (Conv2D(2, (3, 2), bias=False, padding="same"), (3, 3, 2)),
    (Conv1D(3, (3,), stride=(2,)), (8, 2)),
    (Conv1D(2, (4,), padding="same"), (5, 1)),
    (DepthwiseConv2D((3,)), (5, 4, 3)),
    (DepthwiseConv2D((3, 2), stride=(2,), padding="same"), (5, 4, 2)),
    (DepthwiseConv2D((2, 3), bias=False, padding="same"), (3, 4, 2)),
    (MaxPool((2,)), (4, 6, 2)),
    (MaxPool((3, 2), stride=(1,), padding="same"), (4, 3, 2)),
    (MaxPool((2,)), (7, 2)),
    (AvgPool((2,)), (4, 6, 2)),
    (AvgPool((3,), stride=(2,), padding="same"), (4, 5, 2)),
    (AvgPool((3,)), (7, 2)),
    (GlobalAvgPool(), (3, 2, 4)),
    (GlobalAvgPool(), (5, 2)),
    (BatchNorm(), (3,)),
    (BatchNorm(static=True), (2, 3, 2)),
    (LayerNorm(), (5,)),
    (LayerNorm(1e-3), (2, 3)),
    (GRU(3), (4, 2)),
    (GRU(2, return_sequences=True), (5, 3)),
    (Embedding(5, 3), (4,)),
]


def numbers(shape: tuple[int, ...], label: int) -> Float64:
    """Reproducible numbers in [-2, 2), none closer to 0 (ReLU's kink) than 0.01."""
    uniform = Stream(bytes([label]) * 32).uniform(int(np.prod(shape))).reshape(shape)
    spread = uniform.astype(np.float64) * 4 - 2
    return spread + np.where(spread < 0, -0.01, 0.01)


def frame_for(layer: Layer, input_shape: tuple[int, ...], rows: int = 4) -> Frame:
    """Arrays full of garbage where the layer is to write."""
    tensors = layer.tensors(input_shape)
    buffers = layer.buffers(input_shape)
    saved, forward, backward = (
        tuple(np.full(each.for_rows(rows), 7, each.dtype or np.float64) for each in part)
        for part in (buffers.saved, buffers.forward, buffers.backward)
    )
    x = numbers((rows, *input_shape), 1)
    if isinstance(layer, Embedding):
        x = np.floor(np.abs(x) / 2.02 * layer.vocabulary)
    if isinstance(layer, ReLU6):
        x *= 5
    params = tuple(numbers(tensor.shape, 10 + i) for i, tensor in enumerate(tensors))
    if isinstance(layer, BatchNorm):
        np.abs(params[3], out=params[3])
    return Frame(
        params=params,
        gradients=tuple(np.full(tensor.shape, np.nan) for tensor in tensors),
        x=x,
        y=np.full((rows, *layer.output_shape(input_shape)), np.nan),
        saved=saved,
        forward=forward,
        backward=backward,
        source=numbers((rows, *input_shape), 3),
        noise=Stream(bytes(32)),
        training=True,
    )


def run_forward(layer: Layer, frame: Frame) -> None:
    frame.noise = Stream(bytes(32))  # the same each time
    layer.forward(frame)


def slope_by_differences(layer: Layer, frame: Frame, array: Float64, dy: Float64) -> Float64:
    """d(sum(dy * y)) / d(array), one number of ``array`` at a time."""
    slope = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        sides = []
        for shift in (EPSILON, -EPSILON):
            array[index] = kept + shift
            run_forward(layer, frame)
            sides.append(float(np.vdot(dy, frame.y)))
        array[index] = kept
        slope[index] = (sides[0] - sides[1]) / (2 * EPSILON)
    return slope


def check_derivatives(layer: Layer, frame: Frame) -> None:
    dy = numbers(frame.y.shape, 2)
    dx = np.full_like(frame.x, np.nan)
    run_forward(layer, frame)
    layer.backward(frame, dy.copy(), dx)
    pairs = [
        (array, derivative)
        for array, derivative, tensor in zip(
            frame.params, frame.gradients, layer.tensors(frame.x.shape[1:]), strict=True
        )
        if derivative is not None and tensor.name not in layer.statistics
    ]
    if not isinstance(layer, Embedding):
        pairs.append((frame.x, dx))
    for array, derivative in pairs:
        expected = slope_by_differences(layer, frame, np.asarray(array, np.float64), dy)
        error = np.linalg.norm(derivative - expected)
        assert error < 1e-6 * max(1e-3, float(np.linalg.norm(expected)))


@pytest.mark.parametrize(("layer", "input_shape"), CASES)
def test_the_derivative_is_that_of_the_forward_pass(
    layer: Layer, input_shape: tuple[int, ...]
) -> None:
    check_derivatives(layer, frame_for(layer, input_shape))


def test_every_layer_of_the_registry_is_checked_here() -> None:
    assert {type(layer) for layer, _ in CASES} == set(LAYERS.values())


@pytest.mark.parametrize(("layer", "input_shape"), CASES)
def test_a_derivative_that_nobody_wants_changes_no_other(
    layer: Layer, input_shape: tuple[int, ...]
) -> None:
    wanted = frame_for(layer, input_shape)
    dy = numbers(wanted.y.shape, 2)
    run_forward(layer, wanted)
    layer.backward(wanted, dy.copy(), np.empty_like(wanted.x))
    for missing in range(len(wanted.params) + 1):
        frame = frame_for(layer, input_shape)
        frame.gradients = tuple(
            None if index == missing else each for index, each in enumerate(frame.gradients)
        )
        run_forward(layer, frame)
        dx = np.empty_like(frame.x)
        layer.backward(frame, dy.copy(), None if missing == len(wanted.params) else dx)
        for full, partial in zip(wanted.gradients, frame.gradients, strict=True):
            assert partial is None or full is None or np.array_equal(full, partial, equal_nan=True)


@pytest.mark.parametrize(
    ("layer", "input_shape"), [case for case in CASES if case[0].in_place], ids=str
)
def test_in_place_is_the_same(layer: Layer, input_shape: tuple[int, ...]) -> None:
    apart, together = frame_for(layer, input_shape), frame_for(layer, input_shape)
    together.y = together.x
    slopes = []
    for frame in (apart, together):
        run_forward(layer, frame)
        dy = numbers(apart.y.shape, 2)
        dx = dy if frame is together else np.empty_like(dy)
        outputs = frame.y.copy()
        layer.backward(frame, dy, dx)
        slopes.append((outputs, dx))
    assert np.array_equal(slopes[0][0], slopes[1][0])
    assert np.array_equal(slopes[0][1], slopes[1][1])


@pytest.mark.parametrize(("layer", "input_shape"), CASES)
def test_the_input_survives_the_forward_pass(layer: Layer, input_shape: tuple[int, ...]) -> None:
    frame = frame_for(layer, input_shape)
    before = frame.x.copy()
    run_forward(layer, frame)
    assert np.array_equal(frame.x, before)


sides = st.integers(1, 6)
windows = st.tuples(st.integers(1, 4), st.integers(1, 4))
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.sampled_from(["valid", "same"])


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([Conv2D, DepthwiseConv2D, MaxPool, AvgPool]),
    height=sides,
    width=sides,
    channels=st.integers(1, 3),
    window=windows,
    stride=strides,
    padding=paddings,
)
def test_windows_of_any_size_stride_and_padding(
    *,
    kind: type[Layer],
    height: int,
    width: int,
    channels: int,
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: str,
) -> None:
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type] # each is a dataclass
    first = (2,) if "filters" in names else ()
    layer = kind(*first, window, stride, padding)  # type: ignore[call-arg] # all four take these
    try:
        layer.output_shape((height, width, channels))
    except ConfigError:
        assume(False)  # noqa: FBT003 - hypothesis wants it so
    check_derivatives(layer, frame_for(layer, (height, width, channels), rows=2))


@settings(max_examples=25, deadline=None)
@given(
    steps=st.integers(1, 12),
    window=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=paddings,
    channels=st.integers(1, 3),
)
def test_windows_over_steps(
    *, steps: int, window: int, stride: int, padding: str, channels: int
) -> None:
    assume(padding == "same" or window <= steps)
    layers: list[Layer] = [
        Conv1D(2, (window,), (stride,), padding),
        MaxPool((window,), (stride,), padding),
        AvgPool((window,), (stride,), padding),
    ]
    for layer in layers:
        check_derivatives(layer, frame_for(layer, (steps, channels), rows=2))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 3),
    steps=st.integers(1, 6),
    inputs=st.integers(1, 3),
    units=st.integers(1, 3),
    sequences=st.booleans(),
)
def test_gru_of_any_shape(
    *, rows: int, steps: int, inputs: int, units: int, sequences: bool
) -> None:
    layer = GRU(units, return_sequences=sequences)
    check_derivatives(layer, frame_for(layer, (steps, inputs), rows))


def test_a_truncated_gru_forgets_what_was_before() -> None:
    """The derivative is that of the last steps, with the state before them as it was."""
    whole, short = GRU(3, truncate=2), GRU(3)
    frame = frame_for(whole, (5, 2))
    dy = numbers(frame.y.shape, 2)
    dx = np.full_like(frame.x, np.nan)
    run_forward(whole, frame)
    whole.backward(frame, dy.copy(), dx)
    untruncated = frame_for(short, (5, 2))
    full = np.full_like(frame.x, np.nan)
    run_forward(short, untruncated)
    short.backward(untruncated, dy.copy(), full)
    assert not dx[:, :3].any()
    assert np.array_equal(dx[:, 3:], full[:, 3:])
    assert full[:, :3].all()


def test_of_several_largest_the_first_gets_the_derivative() -> None:
    layer = MaxPool((2,))
    frame = frame_for(layer, (2, 2, 1), rows=1)
    frame.x.fill(3.0)
    dx = np.empty_like(frame.x)
    run_forward(layer, frame)
    layer.backward(frame, np.ones_like(frame.y), dx)
    assert dx.reshape(-1).tolist() == [1, 0, 0, 0]


def test_padding_is_that_of_tensorflow() -> None:
    """Of an odd padding, the larger half is at the end: stride 2 over 4 starts at the first."""
    layer = Conv1D(1, (3,), stride=(2,), padding="same", bias=False)
    frame = frame_for(layer, (4, 1), rows=1)
    frame.x[...] = np.array([1, 10, 100, 1000]).reshape(1, 4, 1)
    frame.params[0][...] = 1
    run_forward(layer, frame)
    assert frame.y.reshape(-1).tolist() == [111, 1100]


def test_what_is_padded_does_not_count_in_the_mean() -> None:
    layer = AvgPool((2,), padding="same")
    frame = frame_for(layer, (3, 1), rows=1)
    frame.x[...] = np.array([2, 4, 6]).reshape(1, 3, 1)
    run_forward(layer, frame)
    assert frame.y.reshape(-1).tolist() == [3, 6]


def test_batch_norm_remembers_what_it_saw_unless_it_is_static() -> None:
    for static in (False, True):
        layer = BatchNorm(momentum=0.25, static=static)
        frame = frame_for(layer, (2,), rows=8)
        before = [each.copy() for each in frame.params]
        run_forward(layer, frame)
        layer.settle(frame)
        mean, variance = frame.x.mean(axis=0), frame.x.var(axis=0, ddof=1)
        share = 0 if static else 0.25
        assert frame.params[2] == pytest.approx((1 - share) * before[2] + share * mean)
        assert frame.params[3] == pytest.approx((1 - share) * before[3] + share * variance)


def test_batch_norm_that_does_not_train_uses_what_it_remembers() -> None:
    layer = BatchNorm()
    frame = frame_for(layer, (2,))
    frame.training = False
    kept = [each.copy() for each in frame.params]
    run_forward(layer, frame)
    scale, offset, mean, variance = frame.params
    assert frame.y == pytest.approx(
        (frame.x - mean) / np.sqrt(variance + layer.epsilon) * scale + offset
    )
    layer.settle(frame)
    frame.gradients = (None,) * 4  # or it would have to train
    assert all(np.array_equal(*pair) for pair in zip(kept, frame.params, strict=True))
    check_derivatives(layer, frame)


def test_dropout_keeps_the_mean_and_does_nothing_without_noise() -> None:
    layer = Dropout(0.25)
    frame = frame_for(layer, (100,), rows=100)
    frame.x.fill(1.0)
    run_forward(layer, frame)
    assert set(np.unique(frame.y)) == {0, 1 / 0.75}
    assert frame.y.mean() == pytest.approx(1, abs=0.02)
    frame.noise = None
    layer.forward(frame)
    assert np.array_equal(frame.x, frame.y)


def test_sigmoid_saturates_without_overflow() -> None:
    x = np.array([[-1e4, -90.0, 0.0, 90.0, 1e4]], dtype=np.float32)
    frame = Frame((), (), x, np.empty_like(x))
    with np.errstate(all="raise", under="ignore"):
        Sigmoid().forward(frame)
    assert frame.y.tolist() == [[0.0, 0.0, 0.5, 1.0, 1.0]]


@pytest.mark.parametrize(("init_scale", "fan"), [("he", 600), ("glorot", 600 + 200)])
def test_dense_starts_uniform_within_its_limit(init_scale: str, fan: int) -> None:
    weight = np.zeros((600, 200), dtype=np.float32)
    bias = np.zeros(200, dtype=np.float32)
    Dense(200, init_scale=init_scale).init((weight, bias), Stream(bytes(32)))
    limit = (6 / fan) ** 0.5
    assert np.abs(weight).max() <= np.float32(limit)
    assert abs(float(weight.mean())) < limit / 100
    assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.01)
    assert not bias.any()


@pytest.mark.parametrize(
    ("layer", "input_shape", "message"),
    [
        (Dense(3), (8, 8), "put a flatten layer before it"),
        (Conv2D(3, (3,)), (8, 8), "put a reshape layer before it"),
        (Conv2D(3, (9,)), (8, 8, 1), 'does not fit into .*padding = "same"'),
        (Conv1D(3, (3,)), (8, 8, 1), r"takes \(steps, channels\)"),
        (MaxPool((2,)), (8,), r"takes \(steps, channels\) or"),
        (MaxPool((2, 2)), (8, 1), "size must be a number or 1 of them"),
        (GlobalAvgPool(), (8,), r"takes \(steps, channels\) or"),
        (GRU(3), (8,), "put a reshape before it"),
        (Embedding(3, 2), (8, 2), "whole numbers"),
        (Reshape((3, 3)), (8,), "does not hold what"),
    ],
)
def test_input_of_the_wrong_shape_is_refused(
    layer: Layer, input_shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        layer.output_shape(input_shape)


@pytest.mark.parametrize(
    "x", [[[-1.0]], [[5.0]], [[np.nan]], [[1.5]]], ids=["below", "above", "nan", "fraction"]
)
def test_what_is_not_in_the_vocabulary_is_refused(x: list[list[float]]) -> None:
    with pytest.raises(TrainingError):
        Embedding(5, 2).check_input(np.array(x))
