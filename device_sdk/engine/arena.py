"""Where every array of a pass lies: one block of memory, shared by what never lives together.

Time is the schedule: layer i runs forward at i, the loss at L (the number of layers), layer i
backward at 2L - i. An array lives from the time that writes it to the last that reads it. Offsets
are found greedily, largest first (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep
Neural Net Inference").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import Array
from device_sdk.engine.layers import Buffer
from device_sdk.engine.selection import Selection
from device_sdk.engine.spec import ModelSpec

Memory = npt.NDArray[np.uint8]

ALIGNMENT: Final = 64  # a cache line, and what vector instructions like


@dataclass(slots=True)
class _Block:
    """Bytes that live from ``first`` to ``last``."""

    num_bytes: int
    first: int
    last: int
    offset: int = 0


@dataclass(slots=True)
class Place:
    """An array in the arena, for as many rows as its ``buffer`` wants."""

    block: _Block
    buffer: Buffer
    dtype: np.dtype[np.generic]

    def array(self, memory: Memory, rows: int) -> Array:
        """The array for ``rows`` rows: the front of that for the most."""
        shape = self.buffer.for_rows(rows)
        stop = self.block.offset + math.prod(shape) * self.dtype.itemsize
        # Masks and indices too: the layer that asked for them knows what they are.
        return cast("Array", memory[self.block.offset : stop].view(self.dtype).reshape(shape))


@dataclass(slots=True)
class LayerPlaces:
    """One layer's places; ``slope`` is where the derivative by its output lies, if any."""

    output: Place
    slope: Place | None = None
    saved: list[Place] = field(default_factory=list)
    forward: list[Place] = field(default_factory=list)
    backward: list[Place] = field(default_factory=list)
    gradients: list[Place | None] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Arena:
    """All places for batches of up to ``rows`` rows, in ``num_bytes``."""

    rows: int
    num_bytes: int
    inputs: Place
    layers: tuple[LayerPlaces, ...]

    def memory(self) -> Memory:
        """New memory, aligned."""
        raw = np.empty(self.num_bytes + ALIGNMENT, np.uint8)
        start = -address(raw) % ALIGNMENT
        return raw[start : start + self.num_bytes]


def address(array: npt.NDArray[np.generic]) -> int:
    """Where the array's memory begins."""
    return int(array.__array_interface__["data"][0])


@lru_cache(maxsize=16)
def lay_out(
    spec: ModelSpec,
    rows: int,
    dtype: np.dtype[np.generic],
    selection: Selection | None = None,
    *,
    accumulates: bool = False,
) -> Arena:
    """Plan the arena for up to ``rows`` rows; without a ``selection``, for inference.

    ``accumulates``: gradients are worked out in the arena, to be added up elsewhere.
    """
    planner = _Planner(spec, rows, dtype, selection)
    planner.place_outputs()
    planner.place_buffers()
    if selection is not None:
        planner.place_slopes()
        if accumulates:
            planner.place_gradients(selection)
    num_bytes = _assign(planner.blocks)
    return Arena(rows, num_bytes, planner.inputs, tuple(planner.layers))


class _Planner:
    def __init__(
        self,
        spec: ModelSpec,
        rows: int,
        dtype: np.dtype[np.generic],
        selection: Selection | None,
    ) -> None:
        self.spec, self.rows, self.dtype, self.selection = spec, rows, dtype, selection
        self.num_layers = len(spec.layers)
        #: The first layer that runs backward.
        self.first = self.num_layers if selection is None else selection.first
        self.blocks: list[_Block] = []
        self.inputs = self._place(Buffer(spec.shapes[0]), 0, 0)
        self.layers: list[LayerPlaces] = []

    def place_outputs(self) -> None:
        """Give each layer's output its place; where it can, that of its input."""
        previous = self.inputs
        previous.block.last = self._last_read(0)
        for index, layer in enumerate(self.spec.layers):
            shape, last = self.spec.shapes[index + 1], self._last_read(index + 1)
            free = previous.block.last <= index
            if layer.is_view or (layer.in_place and free):
                previous.block.last = max(previous.block.last, last)
                place = Place(previous.block, Buffer(shape), self.dtype)
            else:
                place = self._place(Buffer(shape), index, last)
            self.layers.append(LayerPlaces(place))
            previous = place

    def place_buffers(self) -> None:
        """What the layers ask for."""
        for index, (layer, places) in enumerate(zip(self.spec.layers, self.layers, strict=True)):
            buffers = layer.buffers(self.spec.shapes[index])
            back = self._backward(index) if index >= self.first else index
            places.saved = [self._place(each, index, back) for each in buffers.saved]
            places.forward = [self._place(each, index, index) for each in buffers.forward]
            if index >= self.first:
                places.backward = [self._place(each, back, back) for each in buffers.backward]

    def place_slopes(self) -> None:
        """From the last layer down: where it can, a slope lies where that above it did."""
        above: Place | None = None
        for index in range(self.num_layers - 1, self.first - 1, -1):
            written = self._backward(index + 1) if above else self.num_layers
            last = self._last_slope_read(index)
            shape = self.spec.shapes[index + 1]
            layer = self.spec.layers[index + 1] if above else None
            if (
                above is not None
                and layer is not None
                and (layer.in_place or layer.is_view)
                and above.block.last <= written
            ):
                above.block.last = last
                above = Place(above.block, Buffer(shape), self.dtype)
            else:
                above = self._place(Buffer(shape), written, last)
            self.layers[index].slope = above

    def place_gradients(self, selection: Selection) -> None:
        """One layer's gradients at a time."""
        for index in range(self.first, self.num_layers):
            time = self._backward(index)
            tensors = self.spec.layers[index].tensors(self.spec.shapes[index])
            for tensor, trained in zip(tensors, selection.trained[index], strict=True):
                buffer = Buffer(tensor.shape, most=0)
                place = self._place(buffer, time, time) if trained else None
                self.layers[index].gradients.append(place)

    def _backward(self, index: int) -> int:
        return 2 * self.num_layers - index

    def _last_read(self, index: int) -> int:
        """When the input of layer ``index`` (the output of that before it) is read last."""
        times = [index]  # by the layer, or by the loss
        times += [each for each, source in enumerate(self.spec.sources) if source == index - 1]
        runs_backward = self.selection is not None and self.first <= index < self.num_layers
        trained = self.selection.trained[index] if self.selection and runs_backward else ()
        if runs_backward and self.spec.layers[index].needs_input(trained):
            times.append(self._backward(index))
        if index > self.first and self.spec.layers[index - 1].needs_output:
            times.append(self._backward(index - 1))
        return max(times)

    def _last_slope_read(self, index: int) -> int:
        """When the derivative by the output of layer ``index`` is read last."""
        source = self.spec.sources[index]
        if source is None or source < self.first:
            return self._backward(index)
        return self._backward(source + 1)  # there it is added to that of the source's output

    def _place(self, buffer: Buffer, first: int, last: int) -> Place:
        dtype = np.dtype(buffer.dtype or self.dtype)
        num_bytes = math.prod(buffer.for_rows(self.rows)) * dtype.itemsize
        block = _Block(-(-num_bytes // ALIGNMENT) * ALIGNMENT, first, last)
        self.blocks.append(block)
        return Place(block, buffer, dtype)


def _assign(blocks: Sequence[_Block]) -> int:
    """Give each block the lowest gap among those that live with it; return what all take."""
    placed: list[_Block] = []
    for block in sorted(blocks, key=lambda each: -each.num_bytes):
        offset = 0
        for other in placed:  # by offset
            if other.last < block.first or block.last < other.first:
                continue
            if other.offset - offset >= block.num_bytes:
                break
            offset = max(offset, other.offset + other.num_bytes)
        block.offset = offset
        placed.append(block)
        placed.sort(key=lambda each: each.offset)
    return max((each.offset + each.num_bytes for each in blocks), default=0)
