"""Normalisation: over the batch, or within each sample."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import (
    Buffer,
    Buffers,
    Frame,
    Layer,
    blocks,
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
    ``static``: they do not move, as in HeteroFL (Diao et al. 2021, section 3), where the
    aggregator works them out in the end. Where none of the layer's tensors is trained, and
    outside of training, the running ones are used.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    static: bool = False

    in_place: ClassVar[bool] = True
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
        """The normalised ``x``; a mean and a variance a channel."""
        one = Buffer(input_shape[-1:], most=0)
        return Buffers(saved=(Buffer(input_shape), one, one))

    def flops(self, input_shape: Shape) -> int:
        """Of inference."""
        return 2 * math.prod(input_shape)

    def forward(self, frame: Frame) -> None:
        """Normalise by the batch while training, else by what is remembered."""
        scale, offset, mean, variance = frame.params
        rows, y = lines(frame.x), lines(frame.y)
        if not frame.training:
            factor = scale / np.sqrt(variance + self.epsilon)
            np.multiply(rows, tiled(factor, rows), out=y)
            y += tiled(offset - mean * factor, rows)
            return
        mean, variance = frame.saved[1], frame.saved[2]
        normal = lines(frame.saved[0])
        count = frame.x.size // mean.size
        sum_channels(frame.x, mean)
        mean /= count
        line, squares = tiled(mean, rows), np.zeros(rows.shape[1], rows.dtype)
        for part in blocks(*rows.shape):
            np.subtract(rows[part], line, out=normal[part])
            squares += np.einsum("nk,nk->k", normal[part], normal[part])
        sum_line(squares, variance)
        variance /= count
        inverse = tiled(1 / np.sqrt(variance + self.epsilon), rows)
        scales, offsets = tiled(scale, rows), tiled(offset, rows)
        for part in blocks(*rows.shape):
            np.multiply(normal[part], inverse, out=normal[part])
            np.multiply(normal[part], scales, out=y[part])
            np.add(y[part], offsets, out=y[part])

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """``dx = scale / deviation (dy - mean(dy) - normal mean(dy normal))``."""
        scale = frame.params[0]
        slopes = lines(dy)
        if not frame.training:  # nobody trains it: it only scales
            if dx is not None:
                factor = scale / np.sqrt(frame.params[3] + self.epsilon)
                np.multiply(slopes, tiled(factor, slopes), out=lines(dx))
            return
        normal = lines(frame.saved[0])
        products, sums = np.zeros((2, slopes.shape[1]), dy.dtype)
        for part in blocks(*slopes.shape):
            products += np.einsum("nk,nk->k", slopes[part], normal[part])
            sums += np.add.reduce(slopes[part], axis=0)
        dscale, doffset = np.empty((2, scale.size), dy.dtype)
        sum_line(products, dscale)
        sum_line(sums, doffset)
        for gradient, value in zip(frame.gradients[:2], (dscale, doffset), strict=True):
            if gradient is not None:
                gradient[...] = value
        if dx is None:
            return
        count = dy.size // scale.size
        means, shares = tiled(doffset / count, slopes), tiled(dscale / count, slopes)
        factors = tiled(scale / np.sqrt(frame.saved[2] + self.epsilon), slopes)
        out = lines(dx)
        for part in blocks(*slopes.shape):
            np.multiply(normal[part], shares, out=normal[part])
            np.add(normal[part], means, out=normal[part])
            np.subtract(slopes[part], normal[part], out=out[part])
            np.multiply(out[part], factors, out=out[part])

    def settle(self, frame: Frame) -> None:
        """Move the running mean and variance towards those of the batch."""
        if self.static or not frame.training:
            return
        count = frame.x.size // frame.x.shape[-1]
        batch = (frame.saved[1], frame.saved[2] * (count / max(1, count - 1)))
        for running, value in zip(frame.params[2:], batch, strict=True):
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
