"""A forward and a backward pass that also gives the loss's derivative by the samples.

The engine has no use for that derivative and makes it for nobody; attackers move samples by it.
Every array is allocated plainly: this is for a few samples, a thousand times, not for devices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_sdk.engine.arrays import Array, Targets
from device_sdk.engine.layers.base import Buffer, Frame
from device_sdk.engine.network import views
from device_sdk.engine.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Of the mean loss: by all params (flat, as `Layout` has them; statistics 0), and by ``x``."""

    by_params: Array
    by_x: Array


def derivatives(spec: ModelSpec, params: Array, x: Array, y: Targets) -> Derivatives:
    """Differentiate the mean loss of a batch, as in training, without dropout.

    ``params`` and ``x`` (n, *input shape) are of one float type. A first layer that looks rows up
    has no derivative by ``x``: the spec must not begin with one.
    """
    flat = np.zeros_like(params)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        frames = _forward(spec, views(spec, params), views(spec, flat), x)
        slopes: list[Array] = [np.empty_like(x), *(np.empty_like(frame.y) for frame in frames)]
        spec.loss.value(frames[-1].y, y, slopes[-1])
        extra: dict[int, list[Array]] = {}
        for index in range(len(frames) - 1, -1, -1):
            layer, dy, dx = spec.layers[index], slopes[index + 1], slopes[index]
            for branch in extra.pop(index, []):
                dy += branch
            source = spec.sources[index]
            if source is not None:
                extra.setdefault(source, []).append(dy.copy())
            if layer.is_view:
                dx[...] = dy.reshape(dx.shape)
            else:
                layer.backward(frames[index], dy, dx)
    return Derivatives(flat, slopes[0])


def _forward(
    spec: ModelSpec,
    params: Sequence[tuple[Array, ...]],
    gradients: Sequence[tuple[Array, ...]],
    x: Array,
) -> list[Frame]:
    frames: list[Frame] = []
    for index, layer in enumerate(spec.layers):
        shape, taken = spec.shapes[index], frames[-1].y if frames else x
        asked, source = layer.buffers(shape), spec.sources[index]
        given = spec.shapes[index + 1]
        frame = Frame(
            params=params[index],
            gradients=gradients[index],
            x=taken,
            y=taken.reshape(len(x), *given)
            if layer.is_view
            else np.empty((len(x), *given), x.dtype),
            saved=_arrays(asked.saved, x),
            forward=_arrays(asked.forward, x),
            backward=_arrays(asked.backward, x),
            source=None if source is None else frames[source].y,
            training=True,
        )
        if not layer.is_view:
            layer.forward(frame)
        frames.append(frame)
    return frames


def _arrays(buffers: Sequence[Buffer], x: Array) -> tuple[Array, ...]:
    return tuple(np.empty(each.for_rows(len(x)), each.dtype or x.dtype) for each in buffers)
