"""Dropout (Srivastava et al. 2014)."""

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import Buffer, Buffers, Frame, Layer
from protocol.errors import ConfigError

_CHUNK: Final = 1024  # numbers drawn at a time


@dataclass(frozen=True, slots=True)
class Dropout(Layer):
    """While it trains, each number is 0 with probability ``rate``, else ``x / (1 - rate)``."""

    rate: float

    in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ConfigError(f"rate must be in [0, 1), not {self.rate}")

    def buffers(self, input_shape: Shape) -> Buffers:
        """What stays."""
        return Buffers(saved=(Buffer(input_shape, "bool"),))

    def forward(self, frame: Frame) -> None:
        """``y = x * stays / (1 - rate)``; without noise ``y = x``."""
        if frame.noise is None or not frame.training:
            if frame.y is not frame.x:
                frame.y[...] = frame.x
            return
        stays = frame.saved[0].reshape(-1)
        for start in range(0, stays.size, _CHUNK):
            part = stays[start : start + _CHUNK]
            np.greater_equal(frame.noise.uniform(part.size), self.rate, out=part)
        self._scale(frame.x, frame, frame.y)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = dy * stays / (1 - rate)``."""
        if dx is None:
            return
        if frame.noise is None or not frame.training:
            if dx is not dy:
                dx[...] = dy
            return
        self._scale(dy, frame, dx)

    def _scale(self, numbers: Array, frame: Frame, out: Array) -> None:
        np.multiply(numbers, frame.saved[0], out=out)
        np.multiply(out, 1 / (1 - self.rate), out=out)
