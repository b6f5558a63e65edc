"""A model of the engine becomes a graph: each layer's operations, one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.export import operations as ops
from aggregator.export.graph import FLOAT, INT32, Builder, Graph, Shape, Value
from device_sdk.engine.layers import (
    GELU,
    GRU,
    Add,
    AvgPool,
    BatchNorm,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    ReLU,
    ReLU6,
    Reshape,
    Sigmoid,
    Tanh,
)
from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError

Float32 = npt.NDArray[np.float32]

_ACTIVATIONS: Final[Mapping[type[Layer], str]] = {
    ReLU: "RELU",
    ReLU6: "RELU6",
    Tanh: "TANH",
    Sigmoid: "LOGISTIC",
}
#: Axes of a batch of (steps, channels).
_SERIES: Final = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer goes: the graph, the shape that comes out, and what the layer reads."""

    b: Builder
    shape: Shape
    arrays: Mapping[str, Float32]
    source: Value | None  # the other input of a layer with two
    for_integers: bool

    @property
    def affine(self) -> ops.Affine:
        """Weight and bias; the bias is 0 where the layer has none."""
        bias = self.arrays.get("bias", np.zeros(self.shape[-1], np.float32))
        return ops.Affine(self.arrays["weight"], bias)


def lower(spec: ModelSpec, params: Float32, *, for_integers: bool) -> Graph:
    """Return the graph that predicts as ``spec`` does with ``params``.

    ``for_integers``: `quantise` will follow, so operations are chosen that eight bits do no harm.
    Raises ConfigError for a layer that has no form in TensorFlow Lite.
    """
    graph = Graph("main")
    b = Builder(graph)
    is_text = isinstance(spec.layers[0], Embedding)
    x = b.input((1, *spec.input), INT32 if is_text else FLOAT)
    arrays = _arrays(spec, params)
    outputs: list[Value] = []
    for index, layer in enumerate(spec.layers):
        b.prefix = f"{index}.{spec.words[index]}/"
        shape, source = (1, *spec.shapes[index + 1]), spec.sources[index]
        other = None if source is None else outputs[source]
        x = _lower(layer, Place(b, shape, arrays[index], other, for_integers), x)
        outputs.append(x)
    graph.outputs = [x]
    return graph


def _arrays(spec: ModelSpec, params: Float32) -> list[dict[str, Float32]]:
    """Return each layer's tensors by their names within the layer."""
    arrays: list[dict[str, Float32]] = [{} for _ in spec.layers]
    for name, view in spec.layout.views(params).items():
        index, _, tensor = name.split(".")
        arrays[int(index)][tensor] = view
    return arrays


@singledispatch
def _lower(layer: Layer, at: Place, x: Value) -> Value:
    """Return what a layer makes of ``x``: here, a layer that computes each number by itself."""
    if type(layer) not in _ACTIVATIONS:
        raise ConfigError(f"{at.b.prefix[:-1]}: a {type(layer).__name__} cannot be exported")
    return ops.activation(at.b, x, _ACTIVATIONS[type(layer)])


@_lower.register
def _(layer: LeakyReLU, at: Place, x: Value) -> Value:
    return ops.activation(at.b, x, "LEAKY_RELU", {"alpha": layer.slope})


@_lower.register
def _(_layer: GELU, at: Place, x: Value) -> Value:
    return ops.activation(at.b, x, "GELU", {"approximate": True})


@_lower.register
def _(_layer: Dropout, _at: Place, x: Value) -> Value:
    return x


@_lower.register
def _(_layer: Flatten | Reshape, at: Place, x: Value) -> Value:
    return ops.reshape(at.b, x, at.shape)


@_lower.register
def _(_layer: Dense, at: Place, x: Value) -> Value:
    return ops.dense(at.b, x, at.affine, at.shape)


@_lower.register
def _(layer: Conv2D, at: Place, x: Value) -> Value:
    window = ops.Window(_pair(layer.stride), layer.padding)
    return ops.conv2d(at.b, x, at.affine, window, at.shape)


@_lower.register
def _(layer: DepthwiseConv2D, at: Place, x: Value) -> Value:
    window = ops.Window(_pair(layer.stride), layer.padding)
    return ops.depthwise_conv2d(at.b, x, at.affine, window, at.shape)


@_lower.register
def _(layer: Conv1D, at: Place, x: Value) -> Value:
    window = ops.Window(_pair(layer.stride), layer.padding)
    weights = ops.Affine(at.affine.weight[np.newaxis], at.affine.bias)
    return ops.in_two_dimensions(
        at.b, x, at.shape, lambda image, shape: ops.conv2d(at.b, image, weights, window, shape)
    )


@_lower.register
def _(layer: MaxPool | AvgPool, at: Place, x: Value) -> Value:
    kind = "MAX_POOL_2D" if isinstance(layer, MaxPool) else "AVERAGE_POOL_2D"
    size, stride = (_pair(sides) for sides in layer.window(x.shape[1:]))
    window = ops.Window(stride, layer.padding, size)
    if len(x.shape) > _SERIES:
        return ops.pool(at.b, x, kind, window, at.shape)
    return ops.in_two_dimensions(
        at.b, x, at.shape, lambda image, shape: ops.pool(at.b, image, kind, window, shape)
    )


@_lower.register
def _(_layer: GlobalAvgPool, at: Place, x: Value) -> Value:
    return ops.mean(at.b, x, tuple(range(1, len(x.shape) - 1)), at.shape)


@_lower.register
def _(layer: BatchNorm, at: Place, x: Value) -> Value:
    w = at.arrays
    scale = w["scale"] / np.sqrt(w["variance"] + np.float32(layer.epsilon))
    return ops.scale_and_shift(at.b, x, scale, w["offset"] - w["mean"] * scale)


@_lower.register
def _(layer: LayerNorm, at: Place, x: Value) -> Value:
    scale, offset = at.arrays["scale"], at.arrays["offset"]
    if at.for_integers:
        return ops.layer_norm_of_integers(at.b, x, scale, offset)
    return ops.layer_norm(at.b, x, scale, offset, layer.epsilon)


@_lower.register
def _(_layer: Embedding, at: Place, x: Value) -> Value:
    return ops.embedding(at.b, x, at.arrays["weight"], at.shape)


@_lower.register
def _(layer: GRU, at: Place, x: Value) -> Value:
    w = at.arrays
    of_state = ops.Affine(w["recurrent"], w["recurrent_bias"])
    weights = ops.GruWeights(ops.Affine(w["weight"], w["bias"]), of_state)
    return ops.gru(at.b, x, weights, sequences=layer.return_sequences)


@_lower.register
def _(_layer: Add, at: Place, x: Value) -> Value:
    if at.source is None:
        raise ConfigError(f"{at.b.prefix[:-1]}: what is added is missing")
    return ops.both(at.b, "ADD", x, at.source)


def _pair(sides: Sequence[int]) -> ops.Pair:
    """Return down and along; a series has no down."""
    return (1, sides[0]) if len(sides) == 1 else (sides[0], sides[1])
