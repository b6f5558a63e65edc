"""Normalisation: over the batch, or within each sample."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import (
    Buffer,
    Buffers,
    Frame,
    Layer,
    block_rows,
    lines,
    sum_channels,
    sum_line,
    tiled,
)
from protocol.errors import ConfigError
from protocol.stream import Stream
from protocol.vectors.layout import Tensor


@dataclass(frozen=True, slots=True)
class BatchNorm(Layer):
    """``y = scale (x - mean) / sqrt(variance + epsilon) + offset``, a channel (last axis) each.

    Ioffe and Szegedy 2015. In training, mean and variance are those of the (micro-)batch, and the
    running ones move by ``momentum`` towards them (variance: the unbiased one, as in PyTorch).
    ``static``: they do not move, as in HeteroFL (Diao et al. 2021, section 3): before such a model
    predicts, they are to be measured (`device_sdk.engine.statistics.measure_statistics`). Where
    none of the layer's tensors is trained, and outside of training, the running ones are used.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    static: bool = False

    statistics: ClassVar[tuple[str, ...]] = ("mean", "variance")

    def __post_init__(self) -> None:
        if not 0 < self.momentum <= 1:
            raise ConfigError(f"momentum must be above 0 and at most 1, not {self.momentum}")
        _check_epsilon(self.epsilon)

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:
        """Scale and offset follow the gradient, mean and variance the data."""
        names = ("scale", "offset", *self.statistics)
        return tuple(Tensor(name, input_shape[-1:]) for name in names)

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:  # noqa: ARG002 - known
        """Scale and variance 1, offset and mean 0."""
        for array, value in zip(params, (1, 0, 0, 1), strict=True):
            array[...] = value

    def buffers(self, input_shape: Shape) -> Buffers:
        """A mean and a variance a channel; room to work in."""
        one = Buffer(input_shape[-1:], most=0)
        few = Buffer(input_shape, most=block_rows(math.prod(input_shape)))
        return Buffers(saved=(one, one), forward=(few,), backward=(few,))

    def needs_input(self, trained: tuple[bool, ...]) -> bool:  # noqa: ARG002 - if it trains at all
        """To normalise it once more, which is cheaper than to keep it."""
        return True

    def flops(self, input_shape: Shape) -> int:
        """Of inference."""
        return 2 * math.prod(input_shape)

    def forward(self, frame: Frame) -> None:
        """Normalise by the batch while training, else by what is remembered."""
        scale, offset, mean, variance = frame.params
        x, y = lines(frame.x), lines(frame.y)
        if frame.training:
            mean, variance = frame.saved
            count = frame.x.size // mean.size
            sum_channels(frame.x, mean)
            mean /= count
            middle, squares = tiled(mean, x), np.zeros(x.shape[1], x.dtype)
            for part, few in _parts(x, frame.forward[0]):
                np.subtract(x[part], middle, out=few)
                squares += np.einsum("nk,nk->k", few, few)
            sum_line(squares, variance)
            variance /= count
        factor = scale / np.sqrt(variance + self.epsilon)
        np.multiply(x, tiled(factor, x), out=y)
        y += tiled(offset - mean * factor, x)

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = scale / deviation (dy - mean(dy) - normal mean(dy normal))``."""
        scale = frame.params[0]
        mean, variance = frame.saved if frame.training else frame.params[2:]
        inverse = 1 / np.sqrt(variance + self.epsilon)
        slopes, x = lines(dy), lines(frame.x)
        if not frame.training:  # nobody trains it: it only scales
            if dx is not None:
                np.multiply(slopes, tiled(scale * inverse, slopes), out=lines(dx))
            return
        middle = tiled(mean, x)
        products, sums = np.zeros((2, x.shape[1]), dy.dtype)
        for part, few in _parts(x, frame.backward[0]):
            np.subtract(x[part], middle, out=few)
            products += np.einsum("nk,nk->k", slopes[part], few)
            sums += np.add.reduce(slopes[part], axis=0)
        dscale, doffset = np.empty((2, scale.size), dy.dtype)
        sum_line(products, dscale)
        sum_line(sums, doffset)
        dscale *= inverse
        for gradient, value in zip(frame.gradients[:2], (dscale, doffset), strict=True):
            if gradient is not None:
                gradient[...] = value
        if dx is None:
            return
        count = dy.size // scale.size
        shares, means = tiled(dscale * inverse / count, x), tiled(doffset / count, x)
        factors, out = tiled(scale * inverse, x), lines(dx)
        for part, few in _parts(x, frame.backward[0]):
            np.subtract(x[part], middle, out=few)
            np.multiply(few, shares, out=few)
            np.add(few, means, out=few)
            np.subtract(slopes[part], few, out=few)
            np.multiply(few, factors, out=out[part])

    def settle(self, frame: Frame) -> None:
        """Move the running mean and variance towards those of the batch."""
        if self.static or not frame.training:
            return
        count = frame.x.size // frame.x.shape[-1]
        batch = (frame.saved[0], frame.saved[1] * (count / max(1, count - 1)))
        for running, value in zip(frame.params[2:], batch, strict=True):
            if np.isfinite(value).all():  # of numbers too large to square it is not
                np.add(running, self.momentum * (value - running), out=running)


@dataclass(frozen=True, slots=True)
class LayerNorm(Layer):
    """The same over the last axis of each sample (Ba et al. 2016), by a scale and offset."""

    epsilon: float = 1e-5

    in_place: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_epsilon(self.epsilon)

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:
        """Scale and offset."""
        return (Tensor("scale", input_shape[-1:]), Tensor("offset", input_shape[-1:]))

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:  # noqa: ARG002 - known
        """Scale 1, offset 0."""
        params[0][...] = 1
        params[1][...] = 0

    def buffers(self, input_shape: Shape) -> Buffers:
        """The normalised ``x``, and 1 / deviation."""
        one = Buffer((*input_shape[:-1], 1))
        return Buffers(saved=(Buffer(input_shape), one), backward=(one,))

    def flops(self, input_shape: Shape) -> int:
        """Mean, variance, and the result."""
        return 7 * math.prod(input_shape)

    def forward(self, frame: Frame) -> None:
        """Normalise each sample's last axis."""
        scale, offset = frame.params
        normal, inverse = frame.saved
        np.add.reduce(frame.x, axis=-1, keepdims=True, out=inverse)
        inverse *= 1 / scale.size
        np.subtract(frame.x, inverse, out=normal)
        np.einsum("...c,...c->...", normal, normal, out=inverse[..., 0])
        inverse *= 1 / scale.size
        inverse += self.epsilon
        np.sqrt(inverse, out=inverse)
        np.divide(1, inverse, out=inverse)
        normal *= inverse
        np.multiply(normal, scale, out=frame.y)
        frame.y += offset

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = (g - mean(g) - normal mean(g normal)) / deviation`` with ``g = dy scale``."""
        dscale, doffset = frame.gradients
        (normal, inverse), (mean,) = frame.saved, frame.backward
        size = frame.params[0].size
        if doffset is not None:
            sum_channels(dy, doffset)
        if dscale is not None:
            np.einsum("nc,nc->c", dy.reshape(-1, size), normal.reshape(-1, size), out=dscale)
        if dx is None:
            return
        np.multiply(dy, frame.params[0], out=dx)
        np.einsum("...c,...c->...", dx, normal, out=mean[..., 0])
        mean *= 1 / size
        normal *= mean
        np.add.reduce(dx, axis=-1, keepdims=True, out=mean)
        mean *= 1 / size
        dx -= mean
        dx -= normal
        dx *= inverse


def _check_epsilon(epsilon: float) -> None:
    if not epsilon > 0:
        raise ConfigError(f"epsilon must be above 0, not {epsilon}")


def _parts(rows: Array, room: Array) -> Iterator[tuple[slice, Array]]:
    """As many rows at a time as there is room for, and the room."""
    flat, width = room.reshape(-1), rows.shape[1]
    step = flat.size // width
    for start in range(0, len(rows), step):
        stop = min(start + step, len(rows))
        yield slice(start, stop), flat[: (stop - start) * width].reshape(-1, width)
