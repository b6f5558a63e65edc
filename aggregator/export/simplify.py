"""A smaller graph that computes the same: what TensorFlow Lite's own converter would do.

A batch norm goes into the weights before it, an activation into the operation before it, and
reshapes between one-dimensional layers cancel. Fewer roundings too, once there are eight bits.
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.export.graph import Graph, Operation, Shape, Value

_WEIGHTED: Final = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
_FUSING: Final = _WEIGHTED | {"ADD", "SUB", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
_FUSED: Final = {"RELU", "RELU6"}
_PER_NUMBER: Final = {"RELU", "RELU6", "TANH", "LOGISTIC", "GELU", "LEAKY_RELU"}


def simplify(graph: Graph) -> None:
    """Change ``graph`` and the graphs within it, until no rule applies."""
    for each in (graph, *graph.inner()):
        while any(rule(each) for rule in _RULES):
            pass


def _pairs(graph: Graph) -> Iterator[tuple[Operation, Operation]]:
    """Yield (first, second) where the first's only output is read by the second and nobody else."""
    kept = {id(value) for value in graph.outputs}
    for first in graph.operations:
        if len(first.outputs) == 1 and id(first.output) not in kept:
            users = graph.users(first.output)
            if len(users) == 1:
                yield first, users[0]


def _drop_reshapes(graph: Graph) -> bool:
    """Of two reshapes in a row the second will do; of one that changes nothing, none."""
    for first, second in _pairs(graph):
        if first.kind == second.kind == "RESHAPE":
            second.inputs = (first.inputs[0], second.inputs[1])
            graph.operations.remove(first)
            return True
    for each in graph.operations:
        if each.kind == "RESHAPE" and each.inputs[0].shape == each.output.shape:
            _replace(graph, each.output, each.inputs[0])
            graph.operations.remove(each)
            return True
    return False


def _sink_reshape(graph: Graph) -> bool:
    """Put off a reshape that keeps the channels until after what treats numbers one by one."""
    for first, second in _pairs(graph):
        if first.kind != "RESHAPE" or not _is_per_channel(second, first.output):
            continue
        before, output = first.inputs[0], second.output
        if before.shape[-1] != output.shape[-1]:
            continue
        middle = Value(f"{output.name}_flat", before.shape, output.dtype)
        second.inputs = tuple(before if each is first.output else each for each in second.inputs)
        second.outputs = (middle,)
        first.inputs, first.outputs = (middle, first.inputs[1]), (output,)
        graph.operations.remove(first)
        graph.operations.insert(graph.operations.index(second) + 1, first)
        return True
    return False


def _fold(graph: Graph) -> bool:
    """Put a factor or a summand for each channel into the weights and the bias before it."""
    for first, second in _pairs(graph):
        channels = first.output.shape[-1:]
        operand = _constant_operand(second, first.output)
        if first.kind not in _WEIGHTED or "fused_activation_function" in first.options:
            continue
        if operand is None or operand.shape != channels or second.kind not in {"ADD", "MUL"}:
            continue
        x, weight, bias = first.inputs
        weights, biases = weight.numbers, bias.numbers
        if second.kind == "ADD":
            biases += operand.numbers
        else:
            biases *= operand.numbers
            weights *= operand.numbers.reshape(_beside(first.kind, weight.shape))
        first.inputs = (x, _with(weight, weights), _with(bias, biases))
        _merge(graph, first, second)
        return True
    return False


def _fuse(graph: Graph) -> bool:
    """Let an operation clip its own result."""
    for first, second in _pairs(graph):
        fits = first.kind in _FUSING and second.kind in _FUSED
        if fits and "fused_activation_function" not in first.options:
            first.options = {**first.options, "fused_activation_function": second.kind}
            _merge(graph, first, second)
            return True
    return False


_RULES: Final[tuple[Callable[[Graph], bool], ...]] = (_drop_reshapes, _sink_reshape, _fold, _fuse)


def _is_per_channel(operation: Operation, x: Value) -> bool:
    if operation.kind in _PER_NUMBER:
        return True
    operand = _constant_operand(operation, x)
    return operation.kind in {"ADD", "MUL"} and operand is not None and len(operand.shape) == 1


def _constant_operand(operation: Operation, x: Value) -> Value | None:
    """Return the other operand of a sum or a product with ``x``, if it is known."""
    others = [each for each in operation.inputs if each is not x]
    return others[0] if len(others) == 1 and others[0].data is not None else None


def _merge(graph: Graph, first: Operation, second: Operation) -> None:
    first.outputs = second.outputs
    graph.operations.remove(second)


def _replace(graph: Graph, old: Value, new: Value) -> None:
    for each in graph.operations:
        each.inputs = tuple(new if value is old else value for value in each.inputs)
    graph.outputs = [new if value is old else value for value in graph.outputs]


def _beside(kind: str, shape: Shape) -> Shape:
    """Return the shape in which a number for each channel meets the weights."""
    return shape[-1:] if kind == "DEPTHWISE_CONV_2D" else (-1, *(1 for _ in shape[1:]))


def _with(value: Value, data: npt.NDArray[np.float64]) -> Value:
    return Value(value.name, value.shape, value.dtype, data.astype(np.float32))
