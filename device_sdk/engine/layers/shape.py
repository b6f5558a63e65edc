"""The same numbers in another shape: no work, and no memory."""

import math
from dataclasses import dataclass
from typing import ClassVar

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import Frame, Layer
from protocol.errors import ConfigError


class _View(Layer):
    """``y`` is ``x``."""

    __slots__ = ()

    is_view: ClassVar[bool] = True

    def flops(self, input_shape: Shape) -> int:  # noqa: ARG002 - none, whatever the shape
        """None."""
        return 0

    def forward(self, frame: Frame) -> None:
        """The same numbers."""
        frame.y[...] = frame.x.reshape(frame.y.shape)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """The same numbers, in the input's shape."""
        if dx is not None:
            dx[...] = dy.reshape(frame.x.shape)


@dataclass(frozen=True, slots=True)
class Flatten(_View):
    """One row of numbers per sample, in row-major order."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """As many numbers, on one axis."""
        return (math.prod(input_shape),)


@dataclass(frozen=True, slots=True)
class Reshape(_View):
    """The numbers of a sample in ``shape``, in row-major order."""

    shape: tuple[int, ...]

    def output_shape(self, input_shape: Shape) -> Shape:
        """``shape``, if it holds as many numbers."""
        if not self.shape or min(self.shape) < 1 or math.prod(self.shape) != math.prod(input_shape):
            raise ConfigError(f"shape {list(self.shape)} does not hold what {input_shape} does")
        return self.shape
