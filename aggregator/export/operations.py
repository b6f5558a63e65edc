"""What each layer of the engine is in TensorFlow Lite's operations.

Functions add operations to a builder's graph and return the value that comes out. Weights come in
the engine's order and are turned into TensorFlow Lite's. ``shape`` is the output's, with its batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.export.graph import BOOL, INT32, Builder, Graph, Option, Shape, Value

Float32 = npt.NDArray[np.float32]
#: Down and along.
Pair = tuple[int, int]

ANY: Final = -1


@dataclass(frozen=True, slots=True)
class Affine:
    """A weight in the engine's order, and a bias for each unit or channel."""

    weight: Float32
    bias: Float32


@dataclass(frozen=True, slots=True)
class Window:
    """What moves over an image: ``size`` is that of a pool, as a kernel has its own."""

    stride: Pair
    padding: str  # "valid" or "same"
    size: Pair = (1, 1)

    def options(self) -> dict[str, Option]:
        """Return the fields that all kinds of windows have."""
        height, width = self.stride
        return {"stride_h": height, "stride_w": width, "padding": self.padding.upper()}


def dense(b: Builder, x: Value, w: Affine, shape: Shape) -> Value:
    """``x @ weight + bias`` over the last axis; weight is (inputs, units)."""
    inputs = [x, b.constant(w.weight.T, "weight"), b.constant(w.bias, "bias")]
    keep = len(shape) > 2  # noqa: PLR2004 - more than a batch of rows
    return b.add("FULLY_CONNECTED", inputs, shape, {"keep_num_dims": keep})


def conv2d(b: Builder, x: Value, w: Affine, window: Window, shape: Shape) -> Value:
    """Cross-correlation; weight is (height, width, channels in, channels out)."""
    kernel = b.constant(w.weight.transpose(3, 0, 1, 2), "weight")
    inputs = [x, kernel, b.constant(w.bias, "bias")]
    return b.add("CONV_2D", inputs, shape, window.options())


def depthwise_conv2d(b: Builder, x: Value, w: Affine, window: Window, shape: Shape) -> Value:
    """Each channel with a kernel of its own; weight is (height, width, channels)."""
    kernel = b.constant(w.weight[np.newaxis], "weight")
    inputs = [x, kernel, b.constant(w.bias, "bias")]
    options = {**window.options(), "depth_multiplier": 1}
    return b.add("DEPTHWISE_CONV_2D", inputs, shape, options)


def pool(b: Builder, x: Value, kind: str, window: Window, shape: Shape) -> Value:
    """``MAX_POOL_2D`` or ``AVERAGE_POOL_2D``; neither counts what is padded."""
    height, width = window.size
    sizes: dict[str, Option] = {"filter_height": height, "filter_width": width}
    return b.add(kind, [x], shape, {**window.options(), **sizes})


def in_two_dimensions(
    b: Builder, x: Value, shape: Shape, apply: Callable[[Value, Shape], Value]
) -> Value:
    """``apply`` something two-dimensional to a series, which becomes an image of height 1."""
    image = reshape(b, x, (x.shape[0], 1, *x.shape[1:]))
    return reshape(b, apply(image, (shape[0], 1, *shape[1:])), shape)


def reshape(b: Builder, x: Value, shape: Shape) -> Value:
    """The same numbers in another shape, of any batch."""
    target = b.constant(np.array((ANY, *shape[1:])), "shape")
    return b.add("RESHAPE", [x, target], shape, dtype=x.dtype)


def mean(b: Builder, x: Value, axes: tuple[int, ...], shape: Shape) -> Value:
    """The mean over ``axes``; they stay, of length 1, if ``shape`` has as many as before."""
    over = b.constant(np.array(axes), "axes")
    return b.add("MEAN", [x, over], shape, {"keep_dims": len(shape) == len(x.shape)})


def embedding(b: Builder, x: Value, weight: Float32, shape: Shape) -> Value:
    """Rows of a table; ``x`` holds their numbers."""
    return b.add("GATHER", [b.constant(weight, "weight"), x], shape, {"axis": 0})


def activation(
    b: Builder, x: Value, kind: str, options: Mapping[str, Option] | None = None
) -> Value:
    """An operation on each number alone."""
    return b.add(kind, [x], x.shape, options)


def both(b: Builder, kind: str, x: Value, y: Value) -> Value:
    """ADD, SUB or MUL, the smaller repeated."""
    return b.add(kind, [x, y], x.shape if len(x.shape) >= len(y.shape) else y.shape, dtype=x.dtype)


def scale_and_shift(b: Builder, x: Value, scale: Float32, offset: Float32) -> Value:
    """``x * scale + offset``, one of each a channel: batch norm, once it is trained."""
    return both(b, "ADD", both(b, "MUL", x, b.constant(scale)), b.constant(offset))


def layer_norm(b: Builder, x: Value, scale: Float32, offset: Float32, epsilon: float) -> Value:
    """To mean 0 and deviation 1 along the last axis, then scale and shift."""
    distance = _from_mean(b, x)
    variance = mean(b, both(b, "MUL", distance, distance), (len(x.shape) - 1,), (*x.shape[:-1], 1))
    inverse = activation(b, both(b, "ADD", variance, b.constant(np.array([epsilon]))), "RSQRT")
    return scale_and_shift(b, both(b, "MUL", distance, inverse), scale, offset)


def layer_norm_of_integers(b: Builder, x: Value, scale: Float32, offset: Float32) -> Value:
    """`layer_norm` without an epsilon, as the direction of ``x`` from its mean.

    Eight bits hold neither a variance nor its inverse root well, and a variance that rounds to 0
    ends the runtime's RSQRT with an error. L2_NORMALIZATION keeps both inside, in 32 bits.
    """
    direction = activation(b, _from_mean(b, x), "L2_NORMALIZATION")
    length = np.float32(np.sqrt(x.shape[-1]))
    return scale_and_shift(b, direction, scale * length, offset)


def _from_mean(b: Builder, x: Value) -> Value:
    return both(b, "SUB", x, mean(b, x, (len(x.shape) - 1,), (*x.shape[:-1], 1)))


@dataclass(frozen=True, slots=True)
class GruWeights:
    """A GRU's params as the engine has them: gates r, z, n side by side on the last axis."""

    of_input: Affine  # weight (inputs, 3 units)
    of_state: Affine  # weight (units, 3 units)


def _split(w: Affine) -> tuple[Affine, Affine]:
    """Return what makes both gates, and what makes the new state."""
    at = 2 * (len(w.bias) // 3)
    return Affine(w.weight[:, :at], w.bias[:at]), Affine(w.weight[:, at:], w.bias[at:])


def gru(b: Builder, x: Value, w: GruWeights, *, sequences: bool) -> Value:
    """A GRU over (1, steps, inputs): the last state (1, units), or all (1, steps, units).

    A WHILE, not a copy of its body for each step: 128 steps would be 1,100 operations, hundreds
    of kilobytes for 10 kB of weights. What needs no state is computed for all steps at once.
    The zeros that it starts from have a batch of 1, so the graph has too.
    """
    steps, units = x.shape[1], len(w.of_state.weight)
    b.graph.any_batch = False
    of_gates, of_new = _split(w.of_input)
    gates = dense(b, x, of_gates, (1, steps, 2 * units))
    news = dense(b, x, of_new, (1, steps, units))
    carried = [b.constant(np.int32(0), "step"), b.constant(np.zeros((1, units)), "state")]
    carried += [gates, news]
    if sequences:
        carried.append(b.constant(np.zeros((1, steps, units)), "states"))
    condition, body = _condition(b, carried, steps), _body(b, carried, w.of_state)
    outputs = [b.value("while", each.shape, each.dtype) for each in carried]
    return b.add_many("WHILE", carried, outputs, graphs=(condition, body))[-1 if sequences else 1]


def _condition(outer: Builder, carried: list[Value], steps: int) -> Graph:
    graph = Graph(f"{outer.prefix}condition", any_batch=False)
    b = Builder(graph)
    step, *_ = [b.input(each.shape, each.dtype) for each in carried]
    graph.outputs = [b.add("LESS", [step, b.constant(np.int32(steps))], (), dtype=BOOL)]
    return graph


def _body(outer: Builder, carried: list[Value], w: Affine) -> Graph:
    """One step: ``n = tanh(new + r * (h @ U_n + b_n))``, ``h = n + z * (h - n)``."""
    graph = Graph(f"{outer.prefix}body", any_batch=False)
    b = Builder(graph)
    step, state, gates, news, *states = [b.input(each.shape, each.dtype) for each in carried]
    units = len(w.weight)
    of_gates, of_new = _split(w)
    now = b.add("GATHER", [gates, step], (1, 2 * units), {"axis": 1})
    before = dense(b, state, of_gates, (1, 2 * units))
    both_gates = activation(b, both(b, "ADD", now, before), "LOGISTIC")
    parts = [b.value(name, (1, units)) for name in ("reset", "update")]
    axis = b.constant(np.int32(1), "axis")
    reset, update = b.add_many("SPLIT", [axis, both_gates], parts, {"num_splits": 2})
    past = dense(b, state, of_new, (1, units))
    now = b.add("GATHER", [news, step], (1, units), {"axis": 1})
    new = activation(b, both(b, "ADD", now, both(b, "MUL", reset, past)), "TANH")
    kept = both(b, "MUL", update, both(b, "SUB", state, new))
    state = both(b, "ADD", new, kept)
    after = b.add("ADD", [step, b.constant(np.int32(1))], (), dtype=INT32)
    graph.outputs = [after, state, gates, news]
    if states:
        graph.outputs.append(_with_state(b, states[0], state, step))
    return graph


def _with_state(b: Builder, states: Value, state: Value, step: Value) -> Value:
    zero = b.constant(np.int32(0))
    place = b.add("PACK", [zero, step, zero], (3,), {"values_count": 3, "axis": 0}, dtype=INT32)
    row = b.add(
        "RESHAPE", [state, b.constant(np.array((1, 1, state.shape[1])))], (1, 1, state.shape[1])
    )
    return b.add("DYNAMIC_UPDATE_SLICE", [states, row, place], states.shape)
