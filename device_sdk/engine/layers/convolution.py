"""Convolutions, channels last. The patches of a batch meet the weights in one BLAS product."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import as_strided

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import (
    Buffer,
    Buffers,
    Frame,
    Layer,
    add_bias,
    check_at_least,
    check_init_scale,
    init_weight,
    sum_channels,
    weight_and_bias,
)
from device_sdk.engine.layers.windows import (
    Tap,
    check_window,
    covers,
    output_sides,
    sides_before_channels,
    sides_of,
    taps,
)
from protocol.stream import Stream
from protocol.vectors.layout import Tensor


@dataclass(frozen=True, slots=True)
class _Convolution(Layer):
    """A window with weights of its own for each of ``filters``."""

    rank: ClassVar[int]  # axes that the window moves over

    filters: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = (1,)
    padding: str = "valid"
    bias: bool = True
    init_scale: str = "he"

    def __post_init__(self) -> None:
        check_at_least("filters", self.filters)
        for key in ("kernel", "stride"):
            object.__setattr__(self, key, sides_of(key, getattr(self, key), self.rank))
        check_window(self.kernel, self.stride, self.padding)
        check_init_scale(self.init_scale)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(*sides, filters)."""
        sides = sides_before_channels(input_shape, self.rank)
        return (*output_sides(sides, self.kernel, self.stride, self.padding), self.filters)

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:
        """Weight (*kernel, channels, filters) and bias."""
        shape = (*self.kernel, input_shape[-1], self.filters)
        return weight_and_bias(shape, bias=self.bias)

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:
        """Weights from the stream."""
        window, channels = math.prod(self.kernel), params[0].shape[-2]
        outputs = window * self.filters
        init_weight(params[0], stream, self.init_scale, window * channels, outputs)

    @property
    def _is_pointwise(self) -> bool:
        return max(*self.kernel, *self.stride) == 1

    def buffers(self, input_shape: Shape) -> Buffers:
        """The patches; backward, what one entry of the window gives back."""
        if self._is_pointwise:
            return Buffers()
        outs = self.output_shape(input_shape)[:-1]
        patches = Buffer((*outs, math.prod(self.kernel), input_shape[-1]))
        return Buffers(saved=(patches,), backward=(Buffer((*outs, input_shape[-1])),))

    def needs_input(self, trained: tuple[bool, ...]) -> bool:
        """Where the input is the patches."""
        return self._is_pointwise and trained[0]

    def num_entries(self, input_shape: Shape) -> int:  # noqa: ARG002 - any input
        """All of the window's."""
        return math.prod(self.kernel)

    def flops(self, input_shape: Shape) -> int:
        """A multiply-add for each weight and place."""
        window = 2 * math.prod(self.kernel) * input_shape[-1] + self.bias
        return math.prod(self.output_shape(input_shape)) * window

    def forward(self, frame: Frame) -> None:
        """``y = patches @ weight + bias``."""
        rows = self._patches(frame, fill=True)
        weight = frame.params[0].reshape(-1, self.filters)
        np.matmul(rows, weight, out=frame.y.reshape(-1, self.filters))
        if self.bias:
            add_bias(frame.y, frame.params[1])

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dweight = patches' @ dy``; ``dx``: each entry's ``dy @ weight'`` back to its place."""
        dweight, dbias = (*frame.gradients, None)[:2]
        rows = dy.reshape(-1, self.filters)
        if dweight is not None:
            patches = self._patches(frame, fill=False)
            np.matmul(patches.T, rows, out=dweight.reshape(-1, self.filters))
        if dbias is not None:
            sum_channels(dy, dbias)
        if dx is None:
            return
        channels = dx.shape[-1]
        weights = frame.params[0].reshape(-1, channels, self.filters)
        if self._is_pointwise:
            np.matmul(rows, weights[0].T, out=dx.reshape(-1, channels))
            return
        dx.fill(0)
        (part,) = frame.backward
        for weight, (out, into) in zip(weights, self._taps(frame), strict=True):
            np.matmul(rows, weight.T, out=part.reshape(-1, channels))
            place = dx[into]
            np.add(place, part[out], out=place)

    def _taps(self, frame: Frame) -> tuple[Tap, ...]:
        return taps(frame.x.shape[1:-1], self.kernel, self.stride, self.padding)

    def _patches(self, frame: Frame, *, fill: bool) -> Array:
        """What each output reads, a row each: (n * outputs, window * channels)."""
        if self._is_pointwise:
            return frame.x.reshape(-1, frame.x.shape[-1])
        (patches,) = frame.saved
        if fill:
            self._fill(frame.x, patches, self._taps(frame))
        return patches.reshape(-1, patches.shape[-2] * patches.shape[-1])

    def _fill(
        self,
        x: Array,
        patches: Array,
        entries: tuple[Tap, ...],
    ) -> None:
        if not covers(entries, patches.shape[1:-2]):
            patches.fill(0)
        elif x.shape[-1] > 1:
            self._fill_by_rows(x, patches, entries)
            return
        for index, (out, into) in enumerate(entries):
            patches[(*out, slice(None), slice(None))][..., index, :] = x[into]

    def _fill_by_rows(
        self,
        x: Array,
        patches: Array,
        entries: tuple[Tap, ...],
    ) -> None:
        """As many neighbours at once as lie side by side in memory."""
        width, channels = self.kernel[-1], x.shape[-1]
        rows = patches.reshape(*patches.shape[:-2], -1, width * channels)
        for row, (_, into) in enumerate(entries[::width]):
            first = x[into]
            shape = (*rows.shape[:-2], width * channels)
            strides = (*first.strides[:-1], x.itemsize)
            rows[..., row, :] = as_strided(first, shape, strides, writeable=False)


@dataclass(frozen=True, slots=True)
class Conv2D(_Convolution):
    """Input (height, width, channels); weight (kh, kw, channels, filters)."""

    rank: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Conv1D(_Convolution):
    """Input (steps, channels); weight (k, channels, filters)."""

    rank: ClassVar[int] = 1
