"""A model as a ``.tflite`` that trains: ``train``, ``infer``, ``save`` and ``restore``.

The signatures are those of TensorFlow's on-device training guide, but for ``save`` and
``restore``, which give and take the params themselves, not the path of a file: `tensor_key` names
them. The derivative is written out in TensorFlow Lite's own operations, so any runtime will do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Final

import numpy as np

from aggregator.export import operations as ops
from aggregator.export import schema
from aggregator.export.graph import FLOAT, INT32, RESOURCE, Builder, Graph, Option, Shape, Value
from aggregator.export.writer import Signature, write_all
from device_sdk.adapters.signatures import tensor_key
from device_sdk.engine.layers import Dense, Flatten, Layer, ReLU, Reshape, Sigmoid, Tanh
from device_sdk.engine.losses import Loss, MeanSquaredError, SoftmaxCrossEntropy
from device_sdk.engine.model import Model
from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError
from protocol.vectors.layout import Tensor

_ACTIVATIONS: Final[Mapping[type[Layer], str]] = {
    ReLU: "RELU",
    Tanh: "TANH",
    Sigmoid: "LOGISTIC",
}


def export_training(model: Model, *, description: str = "") -> bytes:
    """Return a ``.tflite`` whose signatures train ``model`` by plain SGD, batches of any size.

    ``train(x, y, learning_rate)`` takes a step and returns the ``loss`` before it, ``infer(x)``
    returns ``y``; ``save()`` and ``restore(...)`` return and set all params, which are not there
    before the first ``restore``. Layers may be dense, flatten, reshape, relu, tanh and sigmoid,
    losses softmax_cross_entropy and mean_squared_error. Raises ConfigError for others.
    """
    spec = model.spec
    return write_all([_infer(spec), _train(spec), _save(spec), _restore(spec)], description)


@dataclass(frozen=True, slots=True)
class _Variable:
    """One tensor of the layout: its handle and what it is before the step."""

    handle: Value
    value: Value


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one layer has read and written; ``tensors`` by their names within the layer."""

    b: Builder
    tensors: Mapping[str, _Variable]
    x: Value
    y: Value


@dataclass(frozen=True, slots=True)
class _Back:
    """Derivatives by a layer's input, and by its tensors."""

    dx: Value
    gradients: Mapping[str, Value]


def _infer(spec: ModelSpec) -> Signature:
    graph = Graph("infer")
    b = Builder(graph)
    x = b.input((1, *spec.input))
    graph.outputs = [_forward(b, spec, x)[-1].y]
    return Signature("infer", graph, {"x": x}, {"y": graph.outputs[0]})


def _train(spec: ModelSpec) -> Signature:
    graph = Graph("train")
    b = Builder(graph)
    x = b.input((1, *spec.input))
    y = b.input(*_targets(spec))
    rate = b.input(())
    passes = _forward(b, spec, x)
    b.prefix = "loss/"
    loss, slope = _loss(spec.loss, b, passes[-1].y, y)
    changes: list[tuple[_Variable, Value]] = []
    for index in range(len(spec.layers) - 1, -1, -1):
        b.prefix = f"{index}.{spec.words[index]}/back/"
        back = _backward(spec.layers[index], passes[index], slope)
        slope = back.dx
        changes += ((passes[index].tensors[key], each) for key, each in back.gradients.items())
    b.prefix = "step/"
    for variable, gradient in changes:
        after = ops.both(b, "SUB", variable.value, ops.both(b, "MUL", gradient, rate))
        b.add_many("ASSIGN_VARIABLE", [variable.handle, after], [])
    graph.outputs = [loss]
    _drop_unread(graph)
    return Signature("train", graph, {"x": x, "y": y, "learning_rate": rate}, {"loss": loss})


def _drop_unread(graph: Graph) -> None:
    """Without what nobody reads: above all, the derivative by the samples."""
    read = {id(value) for value in graph.outputs}
    kept = []
    for each in reversed(graph.operations):
        if not each.outputs or any(id(value) in read for value in each.outputs):
            kept.append(each)
            read |= {id(value) for value in each.inputs}
    graph.operations = kept[::-1]


def _save(spec: ModelSpec) -> Signature:
    graph = Graph("save", any_batch=False)
    b = Builder(graph)
    outputs = {tensor_key(each.name): _read(b, each).value for each in spec.layout.tensors}
    graph.outputs = list(outputs.values())
    return Signature("save", graph, {}, outputs)


def _restore(spec: ModelSpec) -> Signature:
    graph = Graph("restore", any_batch=False)
    b = Builder(graph)
    inputs = {tensor_key(each.name): b.input(each.shape) for each in spec.layout.tensors}
    for tensor, value in zip(spec.layout.tensors, inputs.values(), strict=True):
        b.add_many("ASSIGN_VARIABLE", [_handle(b, tensor), value], [])
    return Signature("restore", graph, inputs)


def _handle(b: Builder, tensor: Tensor) -> Value:
    return b.add("VAR_HANDLE", [], (), {"shared_name": tensor.name}, dtype=RESOURCE)


def _read(b: Builder, tensor: Tensor) -> _Variable:
    handle = _handle(b, tensor)
    return _Variable(handle, b.add("READ_VARIABLE", [handle], tensor.shape))


def _forward(b: Builder, spec: ModelSpec, x: Value) -> list[_Pass]:
    tensors = iter(spec.layout.tensors)
    passes: list[_Pass] = []
    for index, layer in enumerate(spec.layers):
        b.prefix = f"{index}.{spec.words[index]}/"
        own = layer.tensors(spec.shapes[index])
        variables = {each.name: _read(b, next(tensors)) for each in own}
        y = _apply(layer, b, variables, x, (1, *spec.shapes[index + 1]))
        passes.append(_Pass(b, variables, x, y))
        x = y
    return passes


@singledispatch
def _apply(
    layer: Layer, b: Builder, _tensors: Mapping[str, _Variable], x: Value, shape: Shape
) -> Value:
    """Return what a layer makes of ``x``: here, one without tensors."""
    if isinstance(layer, Flatten | Reshape):
        return ops.reshape(b, x, shape)
    if type(layer) not in _ACTIVATIONS:
        raise ConfigError(f"{b.prefix[:-1]}: a {type(layer).__name__} cannot train in a .tflite")
    return ops.activation(b, x, _ACTIVATIONS[type(layer)])


@_apply.register
def _(_layer: Dense, b: Builder, tensors: Mapping[str, _Variable], x: Value, shape: Shape) -> Value:
    # Not FULLY_CONNECTED, which wants the weight the other way round.
    y = _product(b, x, tensors["weight"].value, shape)
    return ops.both(b, "ADD", y, tensors["bias"].value) if "bias" in tensors else y


@singledispatch
def _backward(_layer: Layer, at: _Pass, dy: Value) -> _Back:
    """Return derivatives, from that by the layer's output: here, of one that only reshapes."""
    return _Back(ops.reshape(at.b, dy, at.x.shape), {})


@_backward.register
def _(_layer: Dense, at: _Pass, dy: Value) -> _Back:
    b, weight = at.b, at.tensors["weight"].value
    gradients = {"weight": _product(b, at.x, dy, weight.shape, "adj_x")}
    if "bias" in at.tensors:
        gradients["bias"] = _sum(b, dy, (0,), dy.shape[1:])
    return _Back(_product(b, dy, weight, at.x.shape, "adj_y"), gradients)


@_backward.register
def _(_layer: ReLU, at: _Pass, dy: Value) -> _Back:
    b = at.b
    above = b.add("GREATER", [at.y, b.constant(0.0)], dy.shape, dtype=np.dtype(np.bool_))
    return _Back(ops.both(b, "MUL", dy, b.add("CAST", [above], dy.shape)), {})


@_backward.register
def _(_layer: Tanh, at: _Pass, dy: Value) -> _Back:
    b = at.b
    slope = ops.both(b, "SUB", b.constant(1.0), ops.both(b, "MUL", at.y, at.y))
    return _Back(ops.both(b, "MUL", dy, slope), {})


@_backward.register
def _(_layer: Sigmoid, at: _Pass, dy: Value) -> _Back:
    b = at.b
    slope = ops.both(b, "MUL", at.y, ops.both(b, "SUB", b.constant(1.0), at.y))
    return _Back(ops.both(b, "MUL", dy, slope), {})


def _targets(spec: ModelSpec) -> tuple[Shape, np.dtype[np.generic]]:
    if spec.loss.dense_targets:
        return (1, *spec.shapes[-1]), FLOAT
    return (1,), INT32


@singledispatch
def _loss(loss: Loss, _b: Builder, _outputs: Value, _targets: Value) -> tuple[Value, Value]:
    """Return the mean loss, and its derivative by the outputs."""
    raise ConfigError(f"loss: a {type(loss).__name__} cannot train in a .tflite")


@_loss.register
def _(_loss: SoftmaxCrossEntropy, b: Builder, z: Value, labels: Value) -> tuple[Value, Value]:
    """The row of a masked label, -1, is all 0, and so is what is multiplied by its sum."""
    numbers = [b.constant(np.int32(z.shape[1])), b.constant(1.0), b.constant(0.0)]
    chosen = b.add("ONE_HOT", [labels, *numbers], z.shape, {"axis": -1})
    counts = _sum(b, chosen, (1,), (1, 1))
    count = ops.both(b, "MAXIMUM", _sum(b, counts, (0, 1), ()), b.constant(1.0))
    log = b.add("LOG_SOFTMAX", [z], z.shape)
    total = b.add("NEG", [_sum(b, ops.both(b, "MUL", chosen, log), (0, 1), ())], ())
    guess = ops.both(b, "MUL", b.add("SOFTMAX", [z], z.shape, {"beta": 1.0}), counts)
    slope = ops.both(b, "DIV", ops.both(b, "SUB", guess, chosen), count)
    return ops.both(b, "DIV", total, count), slope


@_loss.register
def _(_loss: MeanSquaredError, b: Builder, z: Value, targets: Value) -> tuple[Value, Value]:
    error = ops.both(b, "SUB", z, targets)
    axes = tuple(range(len(z.shape)))
    loss = ops.mean(b, ops.both(b, "MUL", error, error), axes, ())
    whole: dict[str, Option] = {"out_type": schema.tensor_type("INT32")}
    sides = b.add("SHAPE", [error], (len(axes),), whole, dtype=INT32)
    sides = b.add("CAST", [sides], (len(axes),))
    over = b.constant(np.array([0]), "axes")
    size = b.add("REDUCE_PROD", [sides, over], (), {"keep_dims": False})
    slope = ops.both(b, "DIV", ops.both(b, "MUL", error, b.constant(2.0)), size)
    return loss, slope


def _product(b: Builder, x: Value, y: Value, shape: Shape, turned: str = "") -> Value:
    """``x @ y``; ``adj_x`` or ``adj_y`` turns one of them."""
    return b.add("BATCH_MATMUL", [x, y], shape, {turned: True} if turned else {})


def _sum(b: Builder, x: Value, axes: Sequence[int], shape: Shape) -> Value:
    """The sum over ``axes``; they stay, of length 1, if ``shape`` has as many as before."""
    over = b.constant(np.array(axes), "axes")
    return b.add("SUM", [x, over], shape, {"keep_dims": len(shape) == len(x.shape)})
