"""A model at work: bound to one flat params vector, with the arrays of its passes planned."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arena import Place, address, lay_out
from device_sdk.engine.arrays import Array, Targets
from device_sdk.engine.layers import Frame, Layer
from device_sdk.engine.selection import Selection
from device_sdk.engine.spec import ModelSpec
from protocol.stream import Stream


@dataclass(frozen=True, slots=True)
class _Back:
    """One layer's part of the way back. ``dx`` is None where nobody below needs a derivative.

    ``branches`` are the derivatives by outputs that the layer's input was added to; ``totals``
    what its gradients are added to, where they are.
    """

    layer: Layer
    frame: Frame
    dy: Array
    dx: Array | None
    branches: tuple[Array, ...]
    totals: tuple[Array | None, ...]

    def run(self) -> None:
        if not self.layer.is_view or self.dx is None or not _is_same(self.dx, self.dy):
            self.layer.backward(self.frame, self.dy, self.dx)
        for branch in self.branches:
            if self.dx is not None:
                np.add(self.dx, branch, out=self.dx)
        for total, part in zip(self.totals, self.frame.gradients, strict=False):
            if total is not None and part is not None:
                np.add(total, part, out=total)


class Network:
    """Runs one model on batches of up to ``rows`` rows; a step allocates next to nothing.

    ``params`` is flat, in the order of the spec's layout, and used where it lies: whoever changes
    it in place changes the network. ``gradient`` is what `loss_and_gradient` writes: the tensors
    that ``selection`` trains, one after the other. Without a selection the network only predicts.
    With ``accumulates`` gradients are added to what is there, not written over it. ``noise`` is
    what dropout draws from. For one thread; the caller has checked samples and targets.
    """

    def __init__(
        self,
        spec: ModelSpec,
        params: Array,
        rows: int,
        *,
        selection: Selection | None = None,
        gradient: Array | None = None,
        accumulates: bool = False,
        noise: Stream | None = None,
    ) -> None:
        self._spec, self._selection, self._noise = spec, selection, noise
        self._arena = lay_out(spec, rows, params.dtype, selection, accumulates=accumulates)
        self._memory = self._arena.memory()
        self._params = views(spec, params)
        self._gradients = _gradients(self._params, selection, gradient)
        self._accumulates = accumulates
        self._rows = 0
        self._inputs = params[:0]
        self._frames: list[Frame] = []
        self._way_back: list[_Back] = []

    def inputs(self, rows: int) -> Array:
        """Where the samples of the next batch are to be written, (rows, *input shape)."""
        if rows != self._rows:
            self._bind(rows)
        return self._inputs

    def forward(self) -> Array:
        """Outputs for what is in `inputs`, (n, *output shape); valid until the next call.

        `inputs` is used up.
        """
        self._run(self._spec.layers)
        return self._frames[-1].y

    def before(self, layer: int) -> Array:
        """What a layer takes for what is in `inputs`, (n, *its input shape); else as `forward`."""
        self._run(self._spec.layers[:layer])
        return self._frames[layer].x

    def loss_and_gradient(self, y: Targets, count: int | None = None) -> float:
        """Loss of what is in `inputs`; its derivative by the trained params is in ``gradient``.

        The mean; of a part of a batch in which ``count`` samples count, its share of the mean.
        """
        loss = self._spec.loss.value(self.forward(), y, self._way_back[0].dy, count)
        for back in self._way_back:
            back.run()
        return loss

    def settle(self) -> None:
        """Let the selected statistics follow the batch that `loss_and_gradient` has seen."""
        moved = () if self._selection is None else self._selection.moved
        for layer, frame, statistics in zip(self._spec.layers, self._frames, moved, strict=True):
            if any(statistics):
                layer.settle(frame)

    def _run(self, layers: Sequence[Layer]) -> None:
        """The first layers forward."""
        for layer, frame in zip(layers, self._frames, strict=False):
            if not layer.is_view:
                layer.forward(frame)

    def _bind(self, rows: int) -> None:
        """Make the views for so many rows."""
        self._rows = rows
        self._inputs = self._array(self._arena.inputs)
        self._frames = []
        for index, places in enumerate(self._arena.layers):
            x = self._frames[-1].y if self._frames else self._inputs
            y = self._array(places.output)
            gradients = tuple(map(self._maybe, places.gradients))
            source = self._spec.sources[index]
            frame = Frame(
                params=self._params[index],
                gradients=gradients or self._gradients[index],
                x=x,
                y=x if _is_same(x, y) else y,
                saved=tuple(map(self._array, places.saved)),
                forward=tuple(map(self._array, places.forward)),
                backward=tuple(map(self._array, places.backward)),
                source=None if source is None else self._frames[source].y,
                noise=self._noise,
                training=self._selection is not None and self._selection.takes_part(index),
            )
            self._frames.append(frame)
        self._way_back = self._plan_way_back()

    def _plan_way_back(self) -> list[_Back]:
        slopes = [self._maybe(places.slope) for places in self._arena.layers]
        sources = self._spec.sources
        steps = []
        for index in range(len(slopes) - 1, -1, -1):
            dy, dx = slopes[index], slopes[index - 1] if index else None
            if dy is None:
                break
            branches = [slopes[add] for add, source in enumerate(sources) if source == index - 1]
            steps.append(
                _Back(
                    self._spec.layers[index],
                    self._frames[index],
                    dy,
                    dy if dx is not None and _is_same(dx, dy) else dx,
                    tuple(each for each in branches if each is not None) if index else (),
                    self._gradients[index] if self._accumulates else (),
                )
            )
        return steps

    def _array(self, place: Place) -> Array:
        return place.array(self._memory, self._rows)

    def _maybe(self, place: Place | None) -> Array | None:
        return None if place is None else self._array(place)


def views(spec: ModelSpec, flat: Array) -> list[tuple[Array, ...]]:
    """Per layer, its tensors as views into ``flat``."""
    # The layout is written for float32, but cuts any vector; derivatives are checked in float64.
    arrays = iter(spec.layout.views(cast("npt.NDArray[np.float32]", flat)).values())
    return [
        tuple(islice(arrays, len(layer.tensors(shape))))
        for layer, shape in zip(spec.layers, spec.shapes[:-1], strict=True)
    ]


def _gradients(
    params: list[tuple[Array, ...]], selection: Selection | None, gradient: Array | None
) -> list[tuple[Array | None, ...]]:
    """Per layer, the trained tensors' parts of the ``gradient``."""
    if selection is None or gradient is None:
        return [(None,) * len(layer) for layer in params]
    found, start = [], 0
    for layer, trained in zip(params, selection.trained, strict=True):
        parts: list[Array | None] = []
        for tensor, is_trained in zip(layer, trained, strict=True):
            stop = start + tensor.size * is_trained
            parts.append(gradient[start:stop].reshape(tensor.shape) if is_trained else None)
            start = stop
        found.append(tuple(parts))
    return found


def _is_same(one: Array, other: Array) -> bool:
    """Whether two arrays are the same memory, in the same shape."""
    return one.shape == other.shape and address(one) == address(other)
