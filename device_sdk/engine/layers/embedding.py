"""Embedding: a row of numbers for each word, category or id."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import Array, Numbers, Shape
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.layers.base import (
    Buffer,
    Buffers,
    Frame,
    Layer,
    check_at_least,
    init_uniform,
)
from protocol.errors import ConfigError
from protocol.stream import Stream
from protocol.vectors.layout import Tensor

#: Numbers that are checked at a time.
_CHECKED: Final = 1 << 12


@dataclass(frozen=True, slots=True)
class Embedding(Layer):
    """Input (steps,) of whole numbers below ``vocabulary``; output (steps, dim).

    It must be the first layer. The rows start with a norm of about 1.
    """

    vocabulary: int
    dim: int

    looks_up: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_at_least("vocabulary", self.vocabulary)
        check_at_least("dim", self.dim)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(steps, dim)."""
        if len(input_shape) != 1:
            raise ConfigError(f"takes (steps,) of whole numbers, not {input_shape}")
        return (*input_shape, self.dim)

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:  # noqa: ARG002 - any steps
        """The table of rows."""
        return (Tensor("weight", (self.vocabulary, self.dim)),)

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:
        """Rows from the stream."""
        init_uniform(params[0], stream, math.sqrt(3 / self.dim))

    def buffers(self, input_shape: Shape) -> Buffers:
        """The rows' numbers."""
        return Buffers(saved=(Buffer(input_shape, "intp"),))

    def flops(self, input_shape: Shape) -> int:  # noqa: ARG002 - none, whatever the shape
        """None: it only copies."""
        return 0

    def check_input(self, x: Numbers) -> None:
        """Whole numbers from 0 to vocabulary - 1."""
        rows = max(1, _CHECKED // math.prod(x.shape[1:]))
        for start in range(0, len(x), rows):  # it may be mapped, and larger than memory
            part = x[start : start + rows]
            low, high = part.min(), part.max()
            if not 0 <= low <= high < self.vocabulary:  # NaN fails too
                raise TrainingError(
                    f"x runs from {low} to {high}, not within 0 to {self.vocabulary - 1}"
                )
            if part.dtype.kind == "f" and (part != np.floor(part)).any():
                raise TrainingError("x must hold whole numbers: they are looked up")

    def forward(self, frame: Frame) -> None:
        """``y = weight[x]``."""
        rows = self._rows(frame)
        np.copyto(rows, frame.x, casting="unsafe")
        np.take(frame.params[0], rows, axis=0, out=frame.y, mode="clip")

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dweight[x] += dy``; there is no derivative by a place in a table."""
        (dweight,) = frame.gradients
        if dweight is not None:
            dweight.fill(0)
            np.add.at(dweight, self._rows(frame).reshape(-1), dy.reshape(-1, self.dim))
        if dx is not None:
            dx.fill(0)

    def _rows(self, frame: Frame) -> npt.NDArray[np.intp]:
        return frame.saved[0].view(np.intp)  # it is: `buffers` asks for it
