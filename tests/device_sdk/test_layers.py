"""Every layer's derivative is that of its forward pass, in float64 to 1e-6."""

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine.layers import LAYERS, Dense, Flatten, Frame, Layer, ReLU, Sigmoid, Tanh
from protocol.errors import ConfigError
from protocol.stream import Stream

Float64 = npt.NDArray[np.float64]
EPSILON = 1e-6
CASES = [
    (Dense(3), (5,)),
    (Dense(1, init_scale="glorot"), (1,)),
    (ReLU(), (7,)),
    (Tanh(), (2, 3)),
    (Sigmoid(), (4,)),
    (Flatten(), (2, 3, 2)),
]


def numbers(shape: tuple[int, ...], label: int) -> Float64:
    """Reproducible numbers in [-2, 2), none closer to 0 (ReLU's kink) than 0.01."""
    uniform = Stream(bytes([label]) * 32).uniform(int(np.prod(shape))).reshape(shape)
    spread = uniform.astype(np.float64) * 4 - 2
    return spread + np.where(spread < 0, -0.01, 0.01)


def frame_for(layer: Layer, input_shape: tuple[int, ...], rows: int = 4) -> Frame:
    tensors = layer.tensors(input_shape)
    return Frame(
        params=tuple(numbers(tensor.shape, 10 + i) for i, tensor in enumerate(tensors)),
        gradients=tuple(np.full(tensor.shape, np.nan) for tensor in tensors),
        x=numbers((rows, *input_shape), 1),
        y=np.full((rows, *layer.output_shape(input_shape)), np.nan),
    )


def slope_by_differences(layer: Layer, frame: Frame, array: Float64, dy: Float64) -> Float64:
    """d(sum(dy * y)) / d(array), one number of ``array`` at a time."""
    slope = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        sides = []
        for shift in (EPSILON, -EPSILON):
            array[index] = kept + shift
            layer.forward(frame)
            sides.append(float(np.vdot(dy, frame.y)))
        array[index] = kept
        slope[index] = (sides[0] - sides[1]) / (2 * EPSILON)
    layer.forward(frame)
    return slope


@pytest.mark.parametrize(("layer", "input_shape"), CASES)
def test_the_derivative_is_that_of_the_forward_pass(
    layer: Layer, input_shape: tuple[int, ...]
) -> None:
    frame = frame_for(layer, input_shape)
    dy = numbers(frame.y.shape, 2)
    dx = np.full_like(frame.x, np.nan)
    layer.forward(frame)
    layer.backward(frame, dy, dx)
    pairs = [(frame.x, dx), *zip(frame.params, frame.gradients, strict=True)]
    for array, derivative in pairs:
        expected = slope_by_differences(layer, frame, np.asarray(array, np.float64), dy)
        error = np.linalg.norm(derivative - expected) / np.linalg.norm(expected)
        assert error < 1e-6


@pytest.mark.parametrize(("layer", "input_shape"), CASES)
def test_without_dx_the_gradients_are_the_same(layer: Layer, input_shape: tuple[int, ...]) -> None:
    asked, unasked = frame_for(layer, input_shape), frame_for(layer, input_shape)
    dy = numbers(asked.y.shape, 2)
    for frame, dx in ((asked, np.empty_like(asked.x)), (unasked, None)):
        layer.forward(frame)
        layer.backward(frame, dy, dx)
    for with_dx, without in zip(asked.gradients, unasked.gradients, strict=True):
        assert np.array_equal(with_dx, without)


def test_every_layer_of_the_registry_is_checked_here() -> None:
    assert {type(layer) for layer, _ in CASES} == set(LAYERS.values())


def test_sigmoid_saturates_without_overflow() -> None:
    x = np.array([[-1e4, -90.0, 0.0, 90.0, 1e4]], dtype=np.float32)
    frame = Frame((), (), x, np.empty_like(x))
    with np.errstate(all="raise", under="ignore"):
        Sigmoid().forward(frame)
    assert frame.y.tolist() == [[0.0, 0.0, 0.5, 1.0, 1.0]]


@pytest.mark.parametrize(("init_scale", "fan"), [("he", 600), ("glorot", 600 + 200)])
def test_dense_starts_uniform_within_its_limit(init_scale: str, fan: int) -> None:
    weight = np.zeros((600, 200), dtype=np.float32)
    bias = np.ones(200, dtype=np.float32)
    Dense(200, init_scale=init_scale).init((weight, bias), Stream(bytes(32)))
    limit = (6 / fan) ** 0.5
    assert np.abs(weight).max() <= np.float32(limit)
    assert abs(float(weight.mean())) < limit / 100
    assert float(weight.std()) == pytest.approx(limit / 3**0.5, rel=0.01)
    assert not bias.any()


def test_dense_refuses_input_that_is_not_flat() -> None:
    with pytest.raises(ConfigError, match="put a flatten layer before it"):
        Dense(3).output_shape((8, 8))
