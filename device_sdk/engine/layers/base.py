"""What a layer is: shapes and tensors from its keys, and a forward and a backward over a `Frame`.

A layer is a frozen description: its fields are the keys of the model spec. It holds no numbers.
What it reads and writes is in a `Frame`, whose arrays the memory plan has placed.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from device_sdk.engine.arrays import Array, Numbers, Shape
from protocol.errors import ConfigError
from protocol.stream import Stream
from protocol.vectors.layout import Tensor

#: Numbers that a level-2 cache has about room for.
_BLOCK: Final = 1 << 17
_INIT_SCALES: Final = ("he", "glorot")


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory that a layer asks for: ``shape`` for each row of the batch.

    ``most``: for at most so many rows; 0: just once, without an axis of rows.
    """

    shape: Shape
    dtype: str = ""  # empty: that of the params
    most: int | None = None

    def for_rows(self, rows: int) -> Shape:
        """The shape of the array in a batch of so many rows."""
        if self.most == 0:
            return self.shape
        return (rows if self.most is None else min(rows, self.most), *self.shape)


@dataclass(frozen=True, slots=True)
class Buffers:
    """``saved`` is kept from forward to backward; the others live during one of the two only."""

    saved: tuple[Buffer, ...] = ()
    forward: tuple[Buffer, ...] = ()
    backward: tuple[Buffer, ...] = ()


@dataclass(slots=True)
class Frame:
    """One layer's arrays for batches of one size, in `Layer.tensors` order where there are many.

    ``params`` and ``gradients`` are views into flat vectors; a gradient is None where nobody
    trains the tensor. ``x`` is (n, *input shape), ``y`` (n, *output shape). ``saved``, ``forward``
    and ``backward`` are what `Layer.buffers` asked for, undefined until written. ``source`` is the
    other input of a layer with two. ``noise`` is None where nothing may be random. ``training``:
    the pass is one of training, and the layer takes part in it.
    """

    params: tuple[Array, ...]
    gradients: tuple[Array | None, ...]
    x: Array
    y: Array
    saved: tuple[Array, ...] = ()
    forward: tuple[Array, ...] = ()
    backward: tuple[Array, ...] = ()
    source: Array | None = None
    noise: Stream | None = None
    training: bool = False


class Layer(ABC):
    """One layer. Most keep the shape and have no params; those that do not say so."""

    #: `backward` reads ``y``.
    needs_output: ClassVar[bool] = False
    #: ``y`` may be the memory of ``x``, and ``dx`` that of ``dy``.
    in_place: ClassVar[bool] = False
    #: ``y`` is ``x`` in another shape: neither forward nor backward is called.
    is_view: ClassVar[bool] = False
    #: Its input names rows of a table: it must be the first layer.
    looks_up: ClassVar[bool] = False
    #: Tensors that follow the data instead of the gradient.
    statistics: ClassVar[tuple[str, ...]] = ()

    def output_shape(self, input_shape: Shape) -> Shape:
        """Shape of one output. Raises ConfigError for an input that the layer cannot take."""
        return input_shape

    def other_input(self) -> str | None:
        """Name of the layer whose output this one takes as well; None: it takes no other."""
        return None

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:  # noqa: ARG002 - it decides elsewhere
        """The layer's params, named within the layer."""
        return ()

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:  # noqa: B027 - most have none
        """Write first values into ``params``."""

    def buffers(self, input_shape: Shape) -> Buffers:  # noqa: ARG002 - it decides elsewhere
        """What memory the layer needs beside ``x`` and ``y``."""
        return Buffers()

    def needs_input(self, trained: tuple[bool, ...]) -> bool:  # noqa: ARG002 - it decides elsewhere
        """Whether `backward` reads ``x`` when these of its tensors are trained."""
        return False

    def num_entries(self, input_shape: Shape) -> int:  # noqa: ARG002 - it decides elsewhere
        """Entries of the window that it moves over its input; 0: it has none."""
        return 0

    def flops(self, input_shape: Shape) -> int:
        """Floating-point operations of one forward pass of one sample; a multiply-add is two."""
        return math.prod(self.output_shape(input_shape))

    def check_input(self, x: Numbers) -> None:  # noqa: B027 - most take any number
        """Raise TrainingError for samples that this layer, as the first, cannot take."""

    @abstractmethod
    def forward(self, frame: Frame) -> None:
        """Write ``frame.y`` from ``frame.x``."""

    @abstractmethod
    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """Write ``frame.gradients``, and unless ``dx`` is None the derivative by ``frame.x``.

        ``dy`` is the loss's derivative by ``frame.y``; ``frame`` is as `forward` left it. All of
        ``dx`` and the gradients is overwritten; ``dy``, ``y`` and all buffers may be used up.
        """

    def settle(self, frame: Frame) -> None:  # noqa: B027 - most follow the gradient only
        """Let the `statistics` follow the batch that `forward` has seen."""


def check_at_least(key: str, value: int, least: int = 1) -> None:
    """Raise ConfigError for a number below ``least``."""
    if value < least:
        raise ConfigError(f"{key} must be at least {least}, not {value}")


def check_init_scale(scale: str) -> None:
    """Raise ConfigError unless ``scale`` is a way to begin."""
    if scale not in _INIT_SCALES:
        raise ConfigError(f'init_scale must be "he" or "glorot", not {scale!r}')


def init_weight(weight: Array, stream: Stream, scale: str, inputs: int, outputs: int) -> None:
    """Write weights uniform in +-sqrt(6 / inputs) ("he", He et al. 2015).

    Or in +-sqrt(6 / (inputs + outputs)) ("glorot", Glorot and Bengio 2010). ``inputs`` and
    ``outputs`` are how many numbers each output depends on, and each input decides about.
    """
    fan = inputs + outputs if scale == "glorot" else inputs
    init_uniform(weight, stream, math.sqrt(6 / fan))


def init_uniform(weight: Array, stream: Stream, limit: float) -> None:
    """Write numbers uniform in +-``limit``, in steps that every platform rounds alike."""
    uniform = stream.uniform(weight.size).reshape(weight.shape)
    weight[...] = (uniform * np.float32(2) - np.float32(1)) * np.float32(limit)


def weight_and_bias(shape: Shape, *, bias: bool) -> tuple[Tensor, ...]:
    """The tensors of a layer whose bias has a number for each entry of the weight's last axis."""
    weight = Tensor("weight", shape)
    return (weight, Tensor("bias", shape[-1:])) if bias else (weight,)


def add_bias(y: Array, bias: Array) -> None:
    """Add one number a channel (last axis)."""
    rows = lines(y)
    np.add(rows, tiled(bias, rows), out=rows)


def sum_channels(array: Array, out: Array) -> None:
    """Sum over all axes but the last."""
    if array.ndim < 3:  # noqa: PLR2004 - (n, channels)
        np.add.reduce(array, axis=0, out=out)
    else:
        sum_line(np.add.reduce(lines(array), axis=0), out)


def lines(array: Array) -> Array:
    """(..., width, channels) as rows of width * channels: long rows are quick to go through."""
    if array.ndim < 3:  # noqa: PLR2004 - (n, channels)
        return array
    return array.reshape(-1, array.shape[-2] * array.shape[-1])


def tiled(channels: Array, rows: Array) -> Array:
    """One number a channel, for each place of such a row."""
    return np.tile(channels, rows.shape[-1] // channels.size)


def sum_line(line: Array, out: Array) -> None:
    """Sum a row's places, channel by channel."""
    np.add.reduce(line.reshape(-1, out.size), axis=0, out=out)


def block_rows(size: int) -> int:
    """How many rows of ``size`` numbers are worked on at a time, so that they stay in the cache."""
    return max(1, _BLOCK // size)
