"""The gated recurrent unit (Cho et al. 2014), in the form that PyTorch and cuDNN use."""

import math
from dataclasses import dataclass

import numpy as np

from device_sdk.engine.arrays import Array, Shape
from device_sdk.engine.layers.base import (
    Buffer,
    Buffers,
    Frame,
    Layer,
    check_at_least,
    init_uniform,
    sum_channels,
)
from protocol.errors import ConfigError
from protocol.stream import Stream
from protocol.vectors.layout import Tensor


@dataclass(frozen=True, slots=True)
class GRU(Layer):
    """Over (steps, inputs), from a state of 0; its gates are side by side in the order r, z, n.

        r, z = sigmoid(x @ weight + bias + h @ recurrent + recurrent_bias)
        n    = tanh(x @ weight + bias + r (h @ recurrent + recurrent_bias))
        h    = n + z (h - n)

    The output is the last state, or all of them (``return_sequences``). ``truncate``: derivatives
    flow back through the last so many steps only (Williams and Peng 1990).
    """

    units: int
    return_sequences: bool = False
    truncate: int | None = None

    def __post_init__(self) -> None:
        check_at_least("units", self.units)
        if self.truncate is not None:
            check_at_least("truncate", self.truncate)

    def output_shape(self, input_shape: Shape) -> Shape:
        """(units,), or (steps, units)."""
        if len(input_shape) != 2:  # noqa: PLR2004 - steps and inputs
            raise ConfigError(f"takes (steps, inputs), not {input_shape}; put a reshape before it")
        return (input_shape[0], self.units) if self.return_sequences else (self.units,)

    def tensors(self, input_shape: Shape) -> tuple[Tensor, ...]:
        """Of the three gates side by side: from the input, from the state, and their biases."""
        return (
            Tensor("weight", (input_shape[-1], 3 * self.units)),
            Tensor("recurrent", (self.units, 3 * self.units)),
            Tensor("bias", (3 * self.units,)),
            Tensor("recurrent_bias", (3 * self.units,)),
        )

    def init(self, params: tuple[Array, ...], stream: Stream) -> None:
        """Weights uniform in +-1 / sqrt(units), biases 0."""
        for weight in params[:2]:
            init_uniform(weight, stream, 1 / math.sqrt(self.units))

    def buffers(self, input_shape: Shape) -> Buffers:
        """Step-major: the input, the gates, all states, and what the reset gate multiplies."""
        steps = input_shape[0]
        line, gates = Buffer((steps, self.units)), Buffer((steps, 3 * self.units))
        states = Buffer((steps + 1, self.units))
        one = Buffer((self.units,))
        weights = Buffer((max(input_shape[1], self.units), 3 * self.units), most=0)
        return Buffers(
            saved=(Buffer(input_shape), gates, states, line),
            forward=(Buffer((3 * self.units,)), one, weights),
            backward=(gates, line, one, one),
        )

    def flops(self, input_shape: Shape) -> int:
        """A multiply-add for each weight and step, and the gates."""
        steps, inputs = input_shape
        return steps * self.units * (6 * (inputs + self.units) + 20)

    def forward(self, frame: Frame) -> None:
        """One product for all steps' input, then step by step."""
        rows, steps, inputs = frame.x.shape
        xs, gates, states, hidden = self._saved(frame)
        products = frame.forward[0].reshape(3, rows, self.units)
        product = frame.forward[1]
        weight, recurrent, bias, hidden_bias = map(self._by_gate, frame.params)
        # sigmoid(a) = (1 + tanh(a / 2)) / 2: the weights of r and z take the half, once for all.
        half = np.array([0.5, 0.5, 1], frame.y.dtype)[:, np.newaxis, np.newaxis]
        weight = np.multiply(weight, half, out=self._by_gate(frame.forward[2][:inputs]))
        np.copyto(xs, frame.x.transpose(1, 0, 2))
        flat = xs.reshape(steps * rows, inputs)
        np.matmul(flat, weight, out=gates.reshape(3, -1, self.units))
        bias = bias * half
        bias[:2] += 0.5 * hidden_bias[:2]
        np.copyto(products, bias)  # one long line is quick to add to all steps
        lines = gates.reshape(3, steps, rows * self.units)
        np.add(lines, products.reshape(3, 1, -1), out=lines)
        hidden_bias = hidden_bias[2]
        recurrent = np.multiply(recurrent, half, out=self._by_gate(frame.forward[2][: self.units]))
        states[0] = 0
        r, z, n = gates
        rz = gates[:2].transpose(1, 0, 2, 3)
        steps_of = zip(rz, r, z, n, hidden, states, states[1:], strict=False)
        for rz_t, r_t, z_t, n_t, hidden_t, before, after in steps_of:
            np.matmul(before, recurrent, out=products)
            np.add(rz_t, products[:2], out=rz_t)
            np.tanh(rz_t, out=rz_t)
            np.multiply(rz_t, 0.5, out=rz_t)
            np.add(rz_t, 0.5, out=rz_t)
            np.add(products[2], hidden_bias, out=hidden_t)
            np.multiply(r_t, hidden_t, out=product)
            np.add(n_t, product, out=n_t)
            np.tanh(n_t, out=n_t)
            np.subtract(before, n_t, out=after)
            np.multiply(after, z_t, out=after)
            np.add(after, n_t, out=after)
        if self.return_sequences:
            np.copyto(frame.y, states[1:].transpose(1, 0, 2))
        else:
            np.copyto(frame.y, states[-1])

    def backward(self, frame: Frame, dy: Array, dx: Array | None) -> None:
        """Through time. What does not depend on ``dh`` is worked out for all steps at once.

        With h the state before, and hidden = h @ recurrent + recurrent_bias of n::

            da_z = dh (h - n) z (1 - z)     da_n = dh (1 - z) (1 - n^2)
            da_r = da_n hidden r (1 - r)    dhidden = da_n r
            dh before = dh z + (da_r, da_z, dhidden) @ recurrent'
        """
        rows, steps, inputs = frame.x.shape
        units = self.units
        xs, (r, z, n), states, hidden = self._saved(frame)
        slopes = frame.backward[0].reshape(steps, rows, 3 * units)
        by_z = frame.backward[1].reshape(steps, rows, units)
        dh, product = frame.backward[2:]
        rest = frame.backward[0].reshape(-1)[: by_z.size].reshape(by_z.shape)  # not yet in use
        np.subtract(states[:-1], n, out=by_z)
        by_z *= z
        np.subtract(1, z, out=rest)
        by_z *= rest
        np.multiply(n, n, out=n)
        np.subtract(1, n, out=n)
        n *= rest
        hidden *= r
        np.subtract(1, r, out=rest)
        hidden *= rest
        recurrent = frame.params[1].T
        stretch = self.truncate or steps
        dh.fill(0)
        if not self.return_sequences:
            dh[...] = dy
        for t in range(steps - 1, -1, -1):
            age = steps - 1 - t
            if age and age % stretch == 0:
                dh.fill(0)
            if self.return_sequences:
                dh += dy[:, t]
            slope, da_n = slopes[t], n[t]
            np.multiply(dh, by_z[t], out=slope[:, units : 2 * units])
            np.multiply(dh, da_n, out=da_n)
            np.multiply(da_n, hidden[t], out=slope[:, :units])
            np.multiply(da_n, r[t], out=slope[:, 2 * units :])
            np.multiply(dh, z[t], out=dh)
            np.matmul(slope, recurrent, out=product)
            np.add(dh, product, out=dh)
        dweight, drecurrent, dbias, dhidden_bias = frame.gradients
        flat = slopes.reshape(-1, 3 * units)
        if drecurrent is not None:
            np.matmul(states[:-1].reshape(-1, units).T, flat, out=drecurrent)
        if dhidden_bias is not None:
            sum_channels(flat, dhidden_bias)
        slopes[:, :, 2 * units :] = n
        if dweight is not None:
            np.matmul(xs.reshape(-1, inputs).T, flat, out=dweight)
        if dbias is not None:
            sum_channels(flat, dbias)
        if dx is not None:
            np.matmul(flat, frame.params[0].T, out=xs.reshape(-1, inputs))
            np.copyto(dx, xs.transpose(1, 0, 2))

    def _saved(self, frame: Frame) -> tuple[Array, Array, Array, Array]:
        """Input (steps, n, inputs), gates (3, steps, n, units), states and hidden parts alike."""
        rows, steps, inputs = frame.x.shape
        xs, gates, states, hidden = frame.saved
        return (
            xs.reshape(steps, rows, inputs),
            gates.reshape(3, steps, rows, self.units),
            states.reshape(steps + 1, rows, self.units),
            hidden.reshape(steps, rows, self.units),
        )

    def _by_gate(self, array: Array) -> Array:
        """(inputs, 3 units) as (3, inputs, units); a bias has one row."""
        return array.reshape(-1, 3, self.units).transpose(1, 0, 2)
