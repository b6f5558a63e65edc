"""Depthwise convolution, channels last: a window of its own for every channel."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import (
    Buffer,
    Buffers,
    Frame,
    Layer,
    add_bias,
    block_rows,
    check_init_scale,
    init_weight,
    sum_channels,
    weight_and_bias,
)
from device_sdk.engine.layers.windows import (
    check_window,
    output_sides,
    padding_before,
    sides_before_channels,
    sides_of,
    taps,
)
from protocol.stream import Stream
from protocol.vectors.layout import Tensor


@dataclass(frozen=True, slots=True)
class DepthwiseConv2D(Layer):
    """Every channel has a window of its own; weight (kh, kw, channels)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = (1,)
    padding: str = "valid"
    bias: bool = True
    init_scale: str = "he"

    def __post_init__(self) -> None:
        for key in ("kernel", "stride"):
            object.__setattr__(self, key, sides_of(key, getattr(self, key), 2))
        check_window(self.kernel, self.stride, self.padding)
        check_init_scale(self.init_scale)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(*sides, channels)."""
        sides = sides_before_channels(input_shape, 2)
        return (*output_sides(sides, self.kernel, self.stride, self.padding), input_shape[-1])

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:
        """Weight and bias."""
        return weight_and_bias((*self.kernel, input_shape[-1]), bias=self.bias)

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:
        """Weights from the stream."""
        window = math.prod(self.kernel)
        init_weight(params[0], stream, self.init_scale, window, window)

    def buffers(self, input_shape: Shape) -> Buffers:
        """A few rows with their padding, and the weights once for each place of a line."""
        padded, spread = self._padded_shape(input_shape), self._spread_shape(input_shape)
        lines = tuple(
            Buffer((*self.kernel, width * input_shape[-1]), most=0)
            for width in (self.output_shape(input_shape)[1], input_shape[1])
        )
        few = Buffer(padded, most=block_rows(math.prod(padded)))
        few_spread = Buffer(spread, most=block_rows(math.prod(spread)))
        return Buffers(forward=(few, lines[0]), backward=(few_spread, lines[1]))

    def needs_input(self, trained: tuple[bool, ...]) -> bool:
        """For the weight's gradient."""
        return trained[0]

    def num_entries(self, input_shape: Shape) -> int:  # noqa: ARG002 - any input
        """All of the window's."""
        return math.prod(self.kernel)

    def flops(self, input_shape: Shape) -> int:
        """A multiply-add for each entry of the window and place."""
        return math.prod(self.output_shape(input_shape)) * (2 * math.prod(self.kernel) + self.bias)

    def forward(self, frame: Frame) -> None:
        """``y = sum of x[shifted] * weight[entry]``."""
        padded, line = frame.forward
        padded.fill(0)
        weight = frame.params[0]
        for rows in _parts(len(frame.y), padded):
            x = self._pad(frame.x[rows], padded)
            if self.stride[1] > 1:
                windows = sliding_window_view(x, self.kernel, axis=(1, 2))
                every = windows[:, :: self.stride[0], :: self.stride[1]]
                np.einsum("nhwcij,ijc->nhwc", every, weight, out=frame.y[rows])
            else:
                _correlate(x, weight, line, self.stride[0], frame.y[rows])
        if self.bias:
            add_bias(frame.y, frame.params[1])

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dweight[entry] = sum of x[shifted] * dy``; ``dx``: dy, spread out, over the window."""
        dweight, dbias = (*frame.gradients, None)[:2]
        spread, line = frame.backward
        if dbias is not None:
            sum_channels(dy, dbias)
        if dweight is not None:
            self._sum_products(frame.x, dy, dweight)
        if dx is None:
            return
        spread.fill(0)
        places = tuple(
            slice(width - 1 - before, None, step)
            for width, before, step in zip(
                self.kernel, self._before(dx.shape[1:]), self.stride, strict=True
            )
        )
        flipped = frame.params[0][::-1, ::-1]
        for rows in _parts(len(dy), spread):
            slopes = dy[rows]
            part = spread[: len(slopes)]
            part[:, places[0], places[1]][:, : slopes.shape[1], : slopes.shape[2]] = slopes
            _correlate(part, flipped, line, 1, dx[rows])

    def _sum_products(self, x: Array, dy: Array, dweight: Array) -> None:
        """Write ``x[shifted] * dy``, summed up, to each entry of ``dweight``."""
        channels = dy.shape[-1]
        entries = taps(x.shape[1:-1], self.kernel, self.stride, self.padding)
        for place, (out, into) in zip(dweight.reshape(-1, channels), entries, strict=True):
            if self.stride[1] > 1:
                np.einsum("nhwc,nhwc->c", x[into], dy[out], out=place)
                continue
            seen, slopes = _rows(x)[_line(into, channels)], _rows(dy)[_line(out, channels)]
            line = np.einsum("nhk,nhk->k", seen, slopes)
            np.add.reduce(line.reshape(-1, channels), axis=0, out=place)

    def _before(self, input_shape: Shape) -> Shape:
        return padding_before(input_shape[:-1], self.kernel, self.stride, self.padding)

    def _padded_shape(self, input_shape: Shape) -> Shape:
        """What all windows together see."""
        outs = self.output_shape(input_shape)[:-1]
        sides = zip(outs, self.stride, self.kernel, strict=True)
        return (*((out - 1) * step + width for out, step, width in sides), input_shape[-1])

    def _spread_shape(self, input_shape: Shape) -> Shape:
        """The derivative by the outputs, so far apart and padded that a window sees its own."""
        sides = zip(input_shape, self.kernel, strict=False)
        return (*(side + width - 1 for side, width in sides), input_shape[-1])

    def _pad(self, x: Array, padded: Array) -> Array:
        """Some rows in the middle of zeros."""
        part = padded[: len(x)]
        top, left = self._before(x.shape[1:])
        inside = part[:, top : top + x.shape[1], left : left + x.shape[2]]
        inside[...] = x[:, : inside.shape[1], : inside.shape[2]]
        return part


def _parts(count: int, few: Array) -> Iterator[slice]:
    """Parts of the batch that ``few`` has room for."""
    for start in range(0, count, len(few)):
        yield slice(start, min(start + len(few), count))


def _line(index: tuple[slice, ...], channels: int) -> tuple[slice, ...]:
    """The same places where a line of (width, channels) is one axis."""
    rows, down, right = index
    return rows, down, slice(right.start * channels, right.stop * channels)


def _rows(array: Array) -> Array:
    """(n, height, width * channels)."""
    n, height, width, channels = array.shape
    return as_strided(array, (n, height, width * channels), (*array.strides[:2], array.itemsize))


def _correlate(x: Array, weight: Array, line: Array, down: int, out: Array) -> None:
    """Every channel's window over ``x``, one to the right at a time: a whole line of places."""
    height, width, channels = out.shape[1:]
    line.reshape(*weight.shape[:2], width, channels)[...] = weight[:, :, np.newaxis]
    n, row, column, number = x.strides
    windows = as_strided(
        x,
        (len(x), height, *weight.shape[:2], width * channels),
        (n, down * row, row, column, number),
        writeable=False,
    )
    np.einsum("nhijk,ijk->nhk", windows, line, out=_rows(out))
