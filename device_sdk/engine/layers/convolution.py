"""Convolutions, channels last. The patches of a batch meet the weights in one BLAS product."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

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
    padding_before,
    sides_of,
    taps,
)
from protocol.errors import ConfigError
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
        _check_kernel(self, self.rank)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(*sides, filters)."""
        sides = _sides(input_shape, self.rank)
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


@dataclass(frozen=True, slots=True)
class DepthwiseConv2D(Layer):
    """Every channel has a window of its own; weight (kh, kw, channels)."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = (1,)
    padding: str = "valid"
    bias: bool = True
    init_scale: str = "he"

    def __post_init__(self) -> None:
        _check_kernel(self, 2)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(*sides, channels)."""
        sides = _sides(input_shape, 2)
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
        return Buffers(forward=(few, lines[0]), backward=(few, few_spread, lines[1]))

    def needs_input(self, trained: tuple[bool, ...]) -> bool:
        """For the weight's gradient."""
        return trained[0]

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
        padded, spread, line = frame.backward
        if dbias is not None:
            sum_channels(dy, dbias)
        if dweight is not None:
            dweight.fill(0)
            padded.fill(0)
            for rows in _parts(len(dy), padded):
                self._add_products(self._pad(frame.x[rows], padded), dy[rows], dweight)
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

    def _add_products(self, x: Array, dy: Array, dweight: Array) -> None:
        """Add ``x[shifted] * dy``, summed up, to each entry of ``dweight``."""
        height, width, channels = dy.shape[1:]
        down, right = self.stride
        for i, j in np.ndindex(*self.kernel):
            seen = x[:, i : i + (height - 1) * down + 1 : down]
            if right > 1:
                seen = seen[:, :, j : j + (width - 1) * right + 1 : right]
                dweight[i, j] += np.einsum("nhwc,nhwc->c", seen, dy)
                continue
            row = seen.reshape(*seen.shape[:2], -1) if seen.flags.c_contiguous else _rows(seen)
            row = row[..., j * channels : (j + width) * channels]
            line = np.einsum("nhk,nhk->k", row, _rows(dy))
            dweight[i, j] += np.add.reduce(line.reshape(width, channels), axis=0)

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


def _sides(input_shape: Shape, rank: int) -> Shape:
    if len(input_shape) != rank + 1:
        axes = "(height, width, channels)" if rank == 2 else "(steps, channels)"  # noqa: PLR2004
        raise ConfigError(f"takes {axes}, not {input_shape}; put a reshape layer before it")
    return input_shape[:-1]


def _check_kernel(layer: "_Convolution | DepthwiseConv2D", rank: int) -> None:
    """Check the keys that all convolutions have, and give every axis its number."""
    for key in ("kernel", "stride"):
        object.__setattr__(layer, key, sides_of(key, getattr(layer, key), rank))
    check_window(layer.kernel, layer.stride, layer.padding)
    check_init_scale(layer.init_scale)
