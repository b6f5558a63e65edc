"""Pooling: the largest or the mean number of each window, channel by channel."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import Buffer, Buffers, Frame, Layer
from device_sdk.engine.layers.windows import (
    Tap,
    check_window,
    covers,
    output_sides,
    sides_of,
    taps,
)
from protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class _Pool(Layer):
    """A window over (steps, channels) or (height, width, channels); ``stride`` is ``size``."""

    size: tuple[int, ...]
    stride: tuple[int, ...] | None = None
    padding: str = "valid"

    def __post_init__(self) -> None:
        check_window(self.size or (0,), self.stride or (1,), self.padding)

    def window(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """Size and stride, a number for each axis. Raises ConfigError."""
        rank = len(input_shape) - 1
        if rank not in (1, 2):
            raise ConfigError(
                f"takes (steps, channels) or (height, width, channels), not {input_shape}"
            )
        return sides_of("size", self.size, rank), sides_of("stride", self.stride or self.size, rank)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(*sides, channels)."""
        size, stride = self.window(input_shape)
        check_window(size, stride, self.padding)
        return (*output_sides(input_shape[:-1], size, stride, self.padding), input_shape[-1])

    def num_entries(self, input_shape: Shape) -> int:
        """All of the window's."""
        return math.prod(self.window(input_shape)[0])

    def flops(self, input_shape: Shape) -> int:
        """One for each number of each window."""
        return math.prod(self.output_shape(input_shape)) * self.num_entries(input_shape)

    def _taps(self, x: Array) -> tuple[Tap, ...]:
        size, stride = self.window(x.shape[1:])
        return taps(x.shape[1:-1], size, stride, self.padding)


@dataclass(frozen=True, slots=True)
class MaxPool(_Pool):
    """The largest number of the window; the first of them, if several are largest."""

    needs_output: ClassVar[bool] = True

    def needs_input(self, trained: tuple[bool, ...]) -> bool:  # noqa: ARG002 - it has no tensors
        """To know which it was."""
        return True

    def buffers(self, input_shape: Shape) -> Buffers:
        """Which outputs come from one entry of the window, and what goes back to it."""
        shape = self.output_shape(input_shape)
        return Buffers(backward=(Buffer(shape, "bool"), Buffer(shape)))

    def forward(self, frame: Frame) -> None:
        """``y = max(x[window])``."""
        entries, x, y = list(self._taps(frame.x)), frame.x, frame.y
        if len(entries) > 1 and covers(entries, y.shape[1:-1]):
            (_, first), (_, second), *entries = entries
            np.maximum(x[first], x[second], out=y)
        else:
            y.fill(-np.inf)
        for out, into in entries:
            place = y[out]
            np.maximum(place, x[into], out=place)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy`` where ``x`` is the largest; what has found its place is taken off ``dy``."""
        if dx is None:
            return
        size, stride = self.window(frame.x.shape[1:])
        apart = all(step >= width for step, width in zip(stride, size, strict=True))
        dx.fill(0)
        largest, part = frame.backward
        for out, into in self._taps(frame.x):
            here, slope, back, place = largest[out], dy[out], part[out], dx[into]
            np.equal(frame.x[into], frame.y[out], out=here)
            np.multiply(slope, here, out=back)
            np.subtract(slope, back, out=slope)
            if apart:
                np.copyto(place, back)
            else:
                np.add(place, back, out=place)


@dataclass(frozen=True, slots=True)
class AvgPool(_Pool):
    """The mean of the window; what is padded does not count."""

    def forward(self, frame: Frame) -> None:
        """``y = mean(x[window])``."""
        frame.y.fill(0)
        for out, into in self._taps(frame.x):
            y = frame.y[out]
            np.add(y, frame.x[into], out=y)
        np.divide(frame.y, self._counts(frame), out=frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy / count``, in every place of the window."""
        if dx is None:
            return
        dx.fill(0)
        np.divide(dy, self._counts(frame), out=dy)
        for out, into in self._taps(frame.x):
            place = dx[into]
            np.add(place, dy[out], out=place)

    def _counts(self, frame: Frame) -> Array:
        counts = np.zeros((1, *frame.y.shape[1:-1], 1), frame.y.dtype)
        for out, _ in self._taps(frame.x):
            counts[out] += 1
        return counts


@dataclass(frozen=True, slots=True)
class GlobalAvgPool(Layer):
    """The mean of each channel over all axes before the last."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """(channels,)."""
        if len(input_shape) < 2:  # noqa: PLR2004 - an axis, and channels
            raise ConfigError(
                f"takes (steps, channels) or (height, width, channels), not {input_shape}"
            )
        return input_shape[-1:]

    def flops(self, input_shape: Shape) -> int:
        """One for each number."""
        return math.prod(input_shape)

    def forward(self, frame: Frame) -> None:
        """``y = mean(x)``."""
        x = frame.x.reshape(len(frame.x), -1, frame.x.shape[-1])
        np.add.reduce(x, axis=1, out=frame.y)
        frame.y *= 1 / x.shape[1]

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy / places``."""
        if dx is not None:
            dy *= frame.y.size / frame.x.size
            dx.reshape(len(dy), -1, dy.shape[-1])[...] = dy[:, np.newaxis]
