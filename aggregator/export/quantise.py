"""A graph of float32 becomes one of int8: TensorFlow Lite's 8-bit quantisation specification.

Weights are symmetric in [-127, 127], with a scale for each output channel; biases are int32 with
scale ``input * weight``; everything else is int8 with one scale and one zero point, from the least
and the largest number that representative data gave it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.export.graph import (
    FLOAT,
    INT8,
    INT32,
    Array,
    Graph,
    Operation,
    Quantisation,
    Value,
)
from aggregator.export.reference import Numbers, run

#: Operations that move numbers, or take the largest: what comes out has the scale of what goes in.
_SAME_SCALE: Final = {
    "AVERAGE_POOL_2D",
    "DYNAMIC_UPDATE_SLICE",
    "GATHER",
    "MAX_POOL_2D",
    "RESHAPE",
    "SPLIT",
    "WHILE",
}
#: Operations whose results have a scale by definition.
_FIXED: Final = {
    "LOGISTIC": Quantisation((1 / 256,), -128),
    "TANH": Quantisation((1 / 128,), 0),
    "L2_NORMALIZATION": Quantisation((1 / 128,), 0),
}
#: The axis of weights along which output channels lie.
_CHANNEL_AXIS: Final = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
_LEAST, _LARGEST = -128, 127
#: A range that is nothing but zero still needs a scale.
_MIN_RANGE: Final = 1e-6
#: A bias is added to sums of int32: half of these are left to the products.
_MAX_BIAS: Final = 1 << 30
_BATCH: Final = 64


def quantise(graph: Graph, samples: Array, *, float_borders: bool) -> None:
    """Change ``graph`` to integers, with ranges from ``samples``, (n, *input shape).

    With ``float_borders`` it still takes and returns float32: QUANTIZE comes first and DEQUANTIZE
    last. Without, both are int8, and the file says their scales. An input of whole numbers (rows
    of an embedding) stays int32 either way.
    """
    scales = _Scales(graph, _ranges(graph, samples))
    for each in (graph, *graph.inner()):
        _quantise_weights(each, scales)
    for each in (graph, *graph.inner()):
        for value in each.values():
            scales.apply(value)
    if float_borders:
        _add_borders(graph)


@dataclass(slots=True)
class _Ranges:
    """Least and largest number of each value so far, by identity."""

    bounds: dict[int, tuple[float, float]] = field(default_factory=dict)

    def see(self, value: Value, array: Numbers) -> None:
        if value.dtype == FLOAT and array.size:
            low, high = float(array.min()), float(array.max())
            old_low, old_high = self.bounds.get(id(value), (low, high))
            self.bounds[id(value)] = min(low, old_low), max(high, old_high)


def _ranges(graph: Graph, samples: Array) -> _Ranges:
    ranges = _Ranges()
    for start in range(0, len(samples), _BATCH):
        run(graph, [samples[start : start + _BATCH].astype(np.float64)], ranges.see)
    for each in (graph, *graph.inner()):
        for value in each.values():
            if value.data is not None:
                ranges.see(value, value.numbers)
    return ranges


class _Scales:
    """The quantisation of every value that is an activation: one for all that must be alike."""

    def __init__(self, graph: Graph, ranges: _Ranges) -> None:
        self._ranges = ranges
        self._leader: dict[int, int] = {}
        self._fixed: dict[int, Quantisation] = {}
        self._bounds: dict[int, tuple[float, float]] = {}
        graphs = (graph, *graph.inner())
        for each in (operation for one in graphs for operation in one.operations):
            for first, second in _alike(each):
                self._join(first, second)
        for one in graphs:
            for value in one.values():
                self._widen(value)
        for each in (operation for one in graphs for operation in one.operations):
            if each.kind in _FIXED:
                self._fixed[self._find(id(each.output))] = _FIXED[each.kind]

    def of(self, value: Value) -> Quantisation:
        """Return what ``value``, of float32, is quantised by."""
        leader = self._find(id(value))
        return self._fixed.get(leader) or _asymmetric(*self._bounds[leader])

    def apply(self, value: Value) -> None:
        """Make ``value`` int8 unless it is of integers, or has been quantised already."""
        if value.dtype != FLOAT:
            return
        value.quantisation = self.of(value)
        value.dtype = INT8
        if value.data is not None:
            value.data = _rounded(value.numbers, value.quantisation)

    def _find(self, each: int) -> int:
        while (leader := self._leader.get(each, each)) != each:
            each = leader
        return each

    def _join(self, first: Value, second: Value) -> None:
        self._leader[self._find(id(first))] = self._find(id(second))

    def _widen(self, value: Value) -> None:
        bounds = self._ranges.bounds.get(id(value))
        if bounds is not None:
            leader = self._find(id(value))
            low, high = self._bounds.get(leader, bounds)
            self._bounds[leader] = min(low, bounds[0]), max(high, bounds[1])


def _alike(operation: Operation) -> Iterator[tuple[Value, Value]]:
    """Yield pairs of values that need the same scale."""
    if operation.kind not in _SAME_SCALE:
        return
    ways = (operation.inputs, *(graph.inputs for graph in operation.graphs))
    if operation.kind == "WHILE":
        _, body = operation.graphs
        for way in (*ways[1:], body.outputs, operation.outputs):
            yield from zip(operation.inputs, way, strict=True)
        return
    moved = [value for value in operation.inputs if value.dtype == FLOAT]
    for value in (*moved[1:], *operation.outputs):
        yield moved[0], value


def _quantise_weights(graph: Graph, scales: _Scales) -> None:
    for each in graph.operations:
        if each.kind in _CHANNEL_AXIS:
            x, weight, bias = each.inputs
            step = scales.of(x).scales[0]
            least = np.abs(bias.numbers) / (step * _MAX_BIAS)
            quantised = _symmetric(weight, _CHANNEL_AXIS[each.kind], least)
            each.inputs = (x, quantised, _bias(bias, step, quantised))


def _symmetric(weight: Value, axis: int, least: npt.NDArray[np.float64]) -> Value:
    """Return int8 weights whose scales are at least ``least``."""
    data = weight.numbers
    largest = np.abs(data).max(axis=tuple(each for each in range(data.ndim) if each != axis))
    scales = np.maximum(np.maximum(largest, _MIN_RANGE).astype(np.float64) / _LARGEST, least)
    quantisation = Quantisation(tuple(scales.tolist()), 0, axis)
    return Value(weight.name, weight.shape, INT8, _rounded(data, quantisation), quantisation)


def _bias(bias: Value, step: float, weight: Value) -> Value:
    if weight.quantisation is None:
        raise ValueError(f"{weight.name} has no scale")
    scales = tuple(step * scale for scale in weight.quantisation.scales)
    data = np.round(bias.numbers / np.array(scales))
    return Value(bias.name, bias.shape, INT32, data.astype(INT32), Quantisation(scales))


def _asymmetric(low: float, high: float) -> Quantisation:
    """Return scale and zero point such that 0 is exact: padding and masks are made of it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, _MIN_RANGE) / (_LARGEST - _LEAST)
    return Quantisation((scale,), int(np.clip(round(_LEAST - low / scale), _LEAST, _LARGEST)))


def _rounded(data: Numbers, quantisation: Quantisation) -> npt.NDArray[np.int8]:
    shape = [1] * data.ndim
    if len(quantisation.scales) > 1:
        shape[quantisation.axis] = len(quantisation.scales)
    scales = np.array(quantisation.scales, np.float64).reshape(shape)
    numbers: Numbers = np.round(data / scales) + quantisation.zero_point
    return numbers.clip(_LEAST, _LARGEST).astype(np.int8)


def _add_borders(graph: Graph) -> None:
    for place, value in enumerate(graph.inputs):
        if value.dtype == INT8:
            outside = Value(f"{value.name}_float", value.shape)
            graph.operations.insert(0, Operation("QUANTIZE", (outside,), (value,)))
            graph.inputs[place] = outside
    for place, value in enumerate(graph.outputs):
        outside = Value(f"{value.name}_float", value.shape)
        graph.operations.append(Operation("DEQUANTIZE", (value,), (outside,)))
        graph.outputs[place] = outside
