"""The layers: what each makes of its input and, right below, the derivative of that.

A layer is a frozen description: its fields are the keys of the model spec. It holds no numbers.
What it reads and writes is in a `Frame`, which the network hands to it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from device_sdk.engine.arrays import Array, Shape
from protocol.errors import ConfigError
from protocol.stream import Stream
from protocol.vectors.layout import Tensor


@dataclass(slots=True)
class Frame:
    """One layer's arrays for batches of one size, in `Layer.tensors` order where there are many.

    ``params`` and ``gradients`` are views into flat vectors. ``x`` is (n, *input shape), ``y``
    (n, *output shape). A network that only predicts has no gradients.
    """

    params: tuple[Array, ...]
    gradients: tuple[Array, ...]
    x: Array
    y: Array


class Layer(ABC):
    """One layer. Most keep the shape and have no params; those that do not say so."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one output. Raises ConfigError for an input that the layer cannot take."""
        return input_shape

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:  # noqa: ARG002 - it decides elsewhere
        """The layer's params, named within the layer."""
        return ()

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:  # noqa: B027 - most have none
        """Write first values into ``params``."""

    @abstractmethod
    def forward(self, frame: Frame) -> None:
        """Write ``frame.y`` from ``frame.x``."""

    @abstractmethod
    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """Write ``frame.gradients``, and unless ``dx`` is None the derivative by ``frame.x``.

        ``dy`` is the loss's derivative by ``frame.y``; ``frame`` is as `forward` left it. All of
        ``dx`` and the gradients is overwritten.
        """


@dataclass(frozen=True, slots=True)
class Dense(Layer):
    """``y = x @ weight + bias``; weight is (inputs, units).

    ``init``: weights uniform in +-sqrt(6 / inputs) ("he", He et al. 2015) or
    +-sqrt(6 / (inputs + units)) ("glorot", Glorot and Bengio 2010). The bias starts at 0.
    """

    units: int
    init_scale: str = "he"

    def __post_init__(self) -> None:
        if self.units < 1:
            raise ConfigError(f"units must be at least 1, not {self.units}")
        if self.init_scale not in _INIT_SCALES:
            raise ConfigError(f'init_scale must be "he" or "glorot", not {self.init_scale!r}')

    def output_shape(self, input_shape: Shape) -> Shape:
        """(units,). The input must be flat."""
        if len(input_shape) != 1:
            raise ConfigError(f"takes flat input, not {input_shape}; put a flatten layer before it")
        return (self.units,)

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:
        """Weight and bias."""
        return (Tensor("weight", (input_shape[0], self.units)), Tensor("bias", (self.units,)))

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:
        """Weights from the stream, in steps that every platform rounds alike."""
        weight, bias = params
        inputs, units = weight.shape
        fan = inputs + units if self.init_scale == "glorot" else inputs
        uniform = stream.uniform(weight.size).reshape(weight.shape)
        weight[...] = (uniform * np.float32(2) - np.float32(1)) * np.float32(math.sqrt(6 / fan))
        bias[...] = 0

    def forward(self, frame: Frame) -> None:
        """``y = x @ weight + bias``."""
        weight, bias = frame.params
        np.matmul(frame.x, weight, out=frame.y)
        frame.y += bias

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dweight = x' @ dy``, ``dbias = sum(dy)``, ``dx = dy @ weight'``."""
        dweight, dbias = frame.gradients
        np.matmul(frame.x.T, dy, out=dweight)
        np.add.reduce(dy, axis=0, out=dbias)
        if dx is not None:
            np.matmul(dy, frame.params[0].T, out=dx)


@dataclass(frozen=True, slots=True)
class ReLU(Layer):
    """``y = max(x, 0)``."""

    def forward(self, frame: Frame) -> None:
        """``y = max(x, 0)``."""
        np.maximum(frame.x, 0, out=frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy where y > 0``, else 0."""
        if dx is not None:
            np.multiply(dy, frame.y > 0, out=dx)


@dataclass(frozen=True, slots=True)
class Tanh(Layer):
    """``y = tanh(x)``."""

    def forward(self, frame: Frame) -> None:
        """``y = tanh(x)``."""
        np.tanh(frame.x, out=frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy (1 - y^2)``."""
        if dx is not None:
            np.multiply(dy, 1 - frame.y * frame.y, out=dx)


@dataclass(frozen=True, slots=True)
class Sigmoid(Layer):
    """``y = 1 / (1 + exp(-x))``."""

    def forward(self, frame: Frame) -> None:
        """``y = (1 + tanh(x / 2)) / 2``, which cannot overflow."""
        np.multiply(frame.x, 0.5, out=frame.y)
        np.tanh(frame.y, out=frame.y)
        frame.y += 1
        frame.y *= 0.5

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy y (1 - y)``."""
        if dx is not None:
            np.multiply(dy, frame.y * (1 - frame.y), out=dx)


@dataclass(frozen=True, slots=True)
class Flatten(Layer):
    """One row of numbers per sample, in row-major order."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """As many numbers, on one axis."""
        return (math.prod(input_shape),)

    def forward(self, frame: Frame) -> None:
        """The same numbers."""
        frame.y[...] = frame.x.reshape(frame.y.shape)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """The same numbers, in the input's shape."""
        if dx is not None:
            dx[...] = dy.reshape(frame.x.shape)


_INIT_SCALES: Final = ("he", "glorot")
#: A spec's word for a layer. A new layer is a class above and a line here.
LAYERS: Final[Mapping[str, type[Layer]]] = {
    "dense": Dense,
    "relu": ReLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "flatten": Flatten,
}
