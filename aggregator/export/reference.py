"""What each operation of a graph computes, in NumPy and float64: slow, and sure.

A quantised file needs the range of every value, also of those inside what is one layer to the
engine; so the graph itself is run on representative data. Tests compare with engine and runtimes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.export.graph import Graph, Operation, Value

Numbers = npt.NDArray[np.float64]
#: Called with every value that is computed, each time it is.
Watch = Callable[[Value, Numbers], None]


def run(graph: Graph, inputs: Sequence[Numbers], watch: Watch) -> list[Numbers]:
    """Return the graph's outputs for ``inputs``, a batch of any size each."""
    known = {id(value): value.numbers for value in graph.values() if value.data is not None}

    def learn(value: Value, array: Numbers) -> None:
        known[id(value)] = array
        watch(value, array)

    for value, array in zip(graph.inputs, inputs, strict=True):
        learn(value, array)
    for each in graph.operations:
        operands = [known[id(value)] for value in each.inputs]
        for value, array in zip(each.outputs, _run_operation(each, operands, watch), strict=True):
            learn(value, array)
    return [known[id(value)] for value in graph.outputs]


def _run_operation(
    operation: Operation, operands: list[Numbers], watch: Watch
) -> Sequence[Numbers]:
    if operation.kind == "WHILE":
        return _while(operation.graphs, operands, watch)
    if operation.kind == "SPLIT":
        axis, x = operands
        return np.split(x, len(operation.outputs), axis=int(axis))
    result = _RULES[operation.kind](operation, operands)
    fused = operation.options.get("fused_activation_function")
    return [result if fused is None else _RULES[str(fused)](operation, [result])]


def _while(graphs: tuple[Graph, ...], carried: list[Numbers], watch: Watch) -> list[Numbers]:
    condition, body = graphs
    while bool(run(condition, carried, watch)[0]):
        carried = run(body, carried, watch)
    return carried


def _windows(operation: Operation, x: Numbers, size: tuple[int, int], fill: float) -> Numbers:
    """Return (n, rows, columns, channels, height, width): what each place of a window sees."""
    options = operation.options
    strides = int(options["stride_h"]), int(options["stride_w"])
    if options["padding"] == "SAME":
        pads = [_same(side, *pair) for side, *pair in zip(x.shape[1:3], size, strides, strict=True)]
        x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
    return windows[:, :: strides[0], :: strides[1]]


def _same(side: int, size: int, stride: int) -> tuple[int, int]:
    missing = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
    return missing // 2, missing - missing // 2


def _conv(operation: Operation, operands: list[Numbers]) -> Numbers:
    x, kernel, bias = operands
    windows = _windows(operation, x, (kernel.shape[1], kernel.shape[2]), 0.0)
    return np.tensordot(windows, kernel, axes=((4, 5, 3), (1, 2, 3))) + bias


def _depthwise(operation: Operation, operands: list[Numbers]) -> Numbers:
    x, kernel, bias = operands
    windows = _windows(operation, x, (kernel.shape[1], kernel.shape[2]), 0.0)
    return np.asarray(np.einsum("nxychw,hwc->nxyc", windows, kernel[0])) + bias


def _pool(reduce: Callable[..., Numbers]) -> "Rule":
    def rule(operation: Operation, operands: list[Numbers]) -> Numbers:
        size = int(operation.options["filter_height"]), int(operation.options["filter_width"])
        # NaN marks what is padded, which neither the largest nor the mean counts.
        return reduce(_windows(operation, operands[0], size, np.nan), axis=(-2, -1))

    return rule


def _mean(operation: Operation, operands: list[Numbers]) -> Numbers:
    x, axes = operands
    over = tuple(int(axis) for axis in axes)
    return np.asarray(x.mean(axis=over, keepdims=bool(operation.options["keep_dims"])))


def _gather(operation: Operation, operands: list[Numbers]) -> Numbers:
    table, rows = operands
    return np.take(table, rows.astype(np.intp), axis=int(operation.options["axis"]))


def _reshape(operation: Operation, operands: list[Numbers]) -> Numbers:
    x, _ = operands
    return x.reshape(len(x), *operation.output.shape[1:])


def _put(_: Operation, operands: list[Numbers]) -> Numbers:
    target, rows, place = operands
    out = np.broadcast_to(target, (len(rows), *target.shape[1:])).copy()
    out[:, int(place[1])] = rows[:, 0]
    return out


def _gelu(_: Operation, operands: list[Numbers]) -> Numbers:
    x = operands[0]
    bend: Numbers = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1 + bend)


def _leaky(operation: Operation, operands: list[Numbers]) -> Numbers:
    x = operands[0]
    return np.where(x < 0, x * float(operation.options["alpha"]), x)


Rule = Callable[[Operation, list[Numbers]], Numbers]


def _plain(function: Callable[..., Numbers]) -> Rule:
    return lambda _, operands: function(*operands)


_RULES: Final[Mapping[str, Rule]] = {
    "ADD": _plain(np.add),
    "AVERAGE_POOL_2D": _pool(np.nanmean),
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DYNAMIC_UPDATE_SLICE": _put,
    "FULLY_CONNECTED": _plain(lambda x, weight, bias: x @ weight.T + bias),
    "GATHER": _gather,
    "GELU": _gelu,
    "L2_NORMALIZATION": _plain(
        lambda x: x / np.maximum(np.sqrt((x * x).sum(axis=-1, keepdims=True)), 1e-6)
    ),
    "LEAKY_RELU": _leaky,
    "LESS": _plain(np.less),
    "LOGISTIC": _plain(lambda x: 0.5 + 0.5 * np.tanh(0.5 * x)),
    "MAX_POOL_2D": _pool(np.nanmax),
    "MEAN": _mean,
    "MUL": _plain(np.multiply),
    "PACK": _plain(lambda *parts: np.stack(parts)),
    "RELU": _plain(lambda x: np.maximum(x, 0)),
    "RELU6": _plain(lambda x: np.clip(x, 0, 6)),
    "RESHAPE": _reshape,
    "RSQRT": _plain(lambda x: 1 / np.sqrt(x)),
    "SUB": _plain(np.subtract),
    "TANH": _plain(np.tanh),
}
