"""Elementwise functions. Their ``y`` lies where ``x`` was, wherever nobody needs that any more."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import Buffer, Buffers, Frame, Layer
from protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ReLU(Layer):
    """``y = max(x, 0)``."""

    needs_output: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def buffers(self, input_shape: Shape) -> Buffers:
        """Where ``y`` is above 0."""
        return Buffers(backward=(Buffer(input_shape, "bool"),))

    def forward(self, frame: Frame) -> None:
        """``y = max(x, 0)``."""
        np.maximum(frame.x, 0, out=frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy where y > 0``, else 0."""
        if dx is not None:
            (above,) = frame.backward
            np.greater(frame.y, 0, out=above)
            np.multiply(dy, above, out=dx)


@dataclass(frozen=True, slots=True)
class ReLU6(Layer):
    """``y = min(max(x, 0), 6)``."""

    needs_output: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def buffers(self, input_shape: Shape) -> Buffers:
        """Where ``y`` is above 0, and where it is below 6."""
        return Buffers(backward=(Buffer(input_shape, "bool"),) * 2)

    def forward(self, frame: Frame) -> None:
        """``y = min(max(x, 0), 6)``."""
        np.maximum(frame.x, 0, out=frame.y)
        np.minimum(frame.y, 6, out=frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy where 0 < y < 6``, else 0."""
        if dx is not None:
            inside, below = frame.backward
            np.greater(frame.y, 0, out=inside)
            np.less(frame.y, 6, out=below)
            np.logical_and(inside, below, out=inside)
            np.multiply(dy, inside, out=dx)


@dataclass(frozen=True, slots=True)
class LeakyReLU(Layer):
    """``y = max(x, slope x)``; ``slope`` is 0 up to, not including, 1."""

    slope: float = 0.01

    needs_output: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.slope < 1:
            raise ConfigError(f"slope must be in [0, 1), not {self.slope}")

    def buffers(self, input_shape: Shape) -> Buffers:
        """The other half."""
        return Buffers(forward=(Buffer(input_shape),))

    def forward(self, frame: Frame) -> None:
        """``y = max(x, slope x)``."""
        (low,) = frame.forward
        np.multiply(frame.x, self.slope, out=low)
        np.maximum(frame.x, low, out=frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy where y > 0``, else ``slope dy``: y turns into 1 or slope."""
        if dx is not None:
            np.sign(frame.y, out=frame.y)
            np.maximum(frame.y, self.slope, out=frame.y)
            np.multiply(dy, frame.y, out=dx)


@dataclass(frozen=True, slots=True)
class Tanh(Layer):
    """``y = tanh(x)``."""

    needs_output: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def forward(self, frame: Frame) -> None:
        """``y = tanh(x)``."""
        np.tanh(frame.x, out=frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy (1 - y^2)``."""
        if dx is not None:
            y = frame.y
            np.multiply(y, y, out=y)
            np.subtract(1, y, out=y)
            np.multiply(dy, y, out=dx)


@dataclass(frozen=True, slots=True)
class Sigmoid(Layer):
    """``y = 1 / (1 + exp(-x))``."""

    needs_output: ClassVar[bool] = True
    in_place: ClassVar[bool] = True

    def forward(self, frame: Frame) -> None:
        """``y = (1 + tanh(x / 2)) / 2``, which cannot overflow."""
        np.multiply(frame.x, 0.5, out=frame.y)
        np.tanh(frame.y, out=frame.y)
        frame.y += 1
        frame.y *= 0.5

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy y (1 - y)``."""
        if dx is not None:
            np.multiply(dy, frame.y, out=dx)
            np.subtract(1, frame.y, out=frame.y)
            np.multiply(dx, frame.y, out=dx)


@dataclass(frozen=True, slots=True)
class GELU(Layer):
    """``y = x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`` (Hendrycks and Gimpel 2016)."""

    def buffers(self, input_shape: Shape) -> Buffers:
        """The tanh; backward, the slope of what is in it."""
        one = (Buffer(input_shape),)
        return Buffers(saved=one, backward=one)

    def needs_input(self, trained: tuple[bool, ...]) -> bool:  # noqa: ARG002 - it has no tensors
        """For the derivative."""
        return True

    def forward(self, frame: Frame) -> None:
        """``y = x (1 + t) / 2``."""
        x, y, (t,) = frame.x, frame.y, frame.saved
        np.multiply(x, x, out=t)
        t *= _GELU_CUBE
        t += 1
        t *= x
        t *= _GELU_SCALE
        np.tanh(t, out=t)
        np.add(t, 1, out=y)
        y *= x
        y *= 0.5

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy (1 + t + x (1 - t^2) u') / 2``, with u what the tanh is of."""
        if dx is None:
            return
        x, (t,), (slope,) = frame.x, frame.saved, frame.backward
        np.multiply(x, x, out=slope)
        slope *= 3 * _GELU_CUBE
        slope += 1
        slope *= x
        slope *= _GELU_SCALE
        # 1 - t^2 = (1 - t)(1 + t), so that t can be used up.
        t += 1
        slope *= t
        np.subtract(2, t, out=dx)
        slope *= dx
        slope += t
        slope *= 0.5
        np.multiply(dy, slope, out=dx)


_GELU_SCALE: Final = math.sqrt(2 / math.pi)
_GELU_CUBE: Final = 0.044715
