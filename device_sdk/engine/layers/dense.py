"""The fully connected layer."""

from dataclasses import dataclass

import numpy as np

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import (
    Frame,
    Layer,
    check_at_least,
    check_init_scale,
    init_weight,
    weight_and_bias,
)
from protocol.errors import ConfigError
from protocol.stream import Stream
from protocol.vectors.layout import Tensor


@dataclass(frozen=True, slots=True)
class Dense(Layer):
    """``y = x @ weight + bias``; weight is (inputs, units). The bias starts at 0."""

    units: int
    init_scale: str = "he"
    bias: bool = True

    def __post_init__(self) -> None:
        check_at_least("units", self.units)
        check_init_scale(self.init_scale)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(units,). The input must be flat."""
        if len(input_shape) != 1:
            raise ConfigError(f"takes flat input, not {input_shape}; put a flatten layer before it")
        return (self.units,)

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:
        """Weight and bias."""
        return weight_and_bias((input_shape[0], self.units), bias=self.bias)

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:
        """Weights from the stream."""
        inputs, units = params[0].shape
        init_weight(params[0], stream, self.init_scale, inputs, units)

    def needs_input(self, trained: tuple[bool, ...]) -> bool:
        """For the weight's gradient."""
        return trained[0]

    def flops(self, input_shape: Shape) -> int:
        """A multiply-add for each weight."""
        return 2 * input_shape[0] * self.units + self.bias * self.units

    def forward(self, frame: Frame) -> None:
        """``y = x @ weight + bias``."""
        np.matmul(frame.x, frame.params[0], out=frame.y)
        if self.bias:
            frame.y += frame.params[1]

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dweight = x' @ dy``, ``dbias = sum(dy)``, ``dx = dy @ weight'``."""
        dweight, dbias = (*frame.gradients, None)[:2]
        if dweight is not None:
            np.matmul(frame.x.T, dy, out=dweight)
        if dbias is not None:
            np.add.reduce(dy, axis=0, out=dbias)
        if dx is not None:
            np.matmul(dy, frame.params[0].T, out=dx)
