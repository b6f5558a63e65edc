"""A model at work: bound to one flat params vector, with the arrays of its passes kept."""

from itertools import islice
from typing import cast

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import Array, Shape, Targets
from device_sdk.engine.layers import Frame
from device_sdk.engine.spec import ModelSpec


class Network:
    """Runs one model on batches. Params and gradient are used where they lie, never copied.

    ``params`` is flat, in the order of the spec's layout; whoever changes it in place changes the
    network. ``gradient``, of the same size and dtype, is what `loss_and_gradient` writes; without
    it the network only predicts. Arrays for the largest batch so far are kept, so a step allocates
    next to nothing. For one thread; batches are of the dtype of ``params``, checked by the caller.
    """

    def __init__(self, spec: ModelSpec, params: Array, gradient: Array | None = None) -> None:
        self._layers = spec.layers
        self._shapes = spec.shapes
        self._loss = spec.loss
        self._spec = spec
        self._dtype = params.dtype
        self.params = _views(spec, params)
        self._gradients = _views(spec, gradient) if gradient is not None else None
        # Below the first layer with params nobody needs a derivative.
        self._first = next(index for index, views in enumerate(self.params) if views)
        self._outputs: list[Array] = []
        self._derivatives: list[Array] = []
        self._frames: list[Frame] = []
        self._slopes: list[Array] = []
        self._capacity = 0
        self._rows = 0

    def forward(self, x: Array) -> Array:
        """Outputs for ``x``, (n, *output shape); valid until the next call."""
        if len(x) != self._rows:
            self._resize(len(x))
        self._frames[0].x = x
        for layer, frame in zip(self._layers, self._frames, strict=True):
            layer.forward(frame)
        return self._frames[-1].y

    def loss_and_gradient(self, x: Array, y: Targets) -> float:
        """Mean loss of the batch; its derivative by the params is in ``gradient``."""
        outputs = self.forward(x)
        loss = self._loss.value(outputs, y, self._slopes[-1])
        for index in range(len(self._layers) - 1, self._first - 1, -1):
            below = self._slopes[index - 1] if index > self._first else None
            self._layers[index].backward(self._frames[index], self._slopes[index], below)
        return loss

    def _resize(self, rows: int) -> None:
        """Give every layer arrays of ``rows`` rows: the front of those for the largest batch."""
        if rows > self._capacity:
            self._capacity = rows
            self._outputs = self._allocate(self._shapes[1:])
            trains = self._gradients is not None
            self._derivatives = self._allocate(self._shapes[1:]) if trains else []
        outputs = [array[:rows] for array in self._outputs]
        self._slopes = [array[:rows] for array in self._derivatives]
        gradients = self._gradients or [()] * len(self._layers)
        # The first layer's input is set by every pass.
        inputs = [outputs[0], *outputs[:-1]]
        self._frames = [
            Frame(*arrays) for arrays in zip(self.params, gradients, inputs, outputs, strict=True)
        ]
        for frame, layer, shape in zip(self._frames, self._layers, self._shapes, strict=False):
            buffers = layer.buffers(shape)
            frame.saved, frame.forward, frame.backward = (
                tuple(np.empty((rows, *each.shape), each.dtype or self._dtype) for each in part)
                for part in (buffers.saved, buffers.forward, buffers.backward)
            )
            frame.training = self._gradients is not None
        self._rows = rows

    def _allocate(self, shapes: tuple[Shape, ...]) -> list[Array]:
        return [np.empty((self._capacity, *shape), self._dtype) for shape in shapes]


def _views(spec: ModelSpec, flat: Array) -> list[tuple[Array, ...]]:
    """Per layer, its tensors as views into ``flat``."""
    # The layout is written for float32, but cuts any vector; derivatives are checked in float64.
    views = iter(spec.layout.views(cast("npt.NDArray[np.float32]", flat)).values())
    return [
        tuple(islice(views, len(layer.tensors(shape))))
        for layer, shape in zip(spec.layers, spec.shapes[:-1], strict=True)
    ]
