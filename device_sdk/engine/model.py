"""A model: what can be done with a spec and a flat vector of params."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import Array, Targets
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.network import Network, views
from device_sdk.engine.plan import inference_rows
from device_sdk.engine.selection import select, trained_slices
from device_sdk.engine.spec import ModelSpec
from protocol.stream import Stream, derive
from protocol.vectors.layout import Layout


@dataclass(frozen=True, slots=True)
class Metrics:
    """How a model does on some samples: mean loss, and the share it gets right (classes only)."""

    loss: float
    accuracy: float | None
    num_samples: int


class Model:
    """Pure functions of (params, samples) for one spec; safe to share between threads.

    ``params`` is always flat, ``layout.size`` long: float32, or float64 to check derivatives.
    ``x`` is (n, *input shape) of any real numbers, ``y`` what the loss takes. All raise
    TrainingError for params or samples that do not fit the model.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._loss = spec.loss

    @property
    def layout(self) -> Layout:
        """Names and order of the params."""
        return self.spec.layout

    def init(self, seed: bytes) -> npt.NDArray[np.float32]:
        """First params from a 32-byte seed: the same bytes on every platform.

        A layer draws from a stream of its own, so its numbers do not depend on the other layers.
        """
        params = np.zeros(self.layout.size, dtype=np.float32)
        for index, tensors in enumerate(views(self.spec, params)):
            self.spec.layers[index].init(tensors, Stream(derive(seed, "init", index)))
        return params

    def predict(self, params: Array, x: npt.ArrayLike) -> Array:
        """Outputs, (n, *output shape), in the dtype of ``params``."""
        self.check_params(params)
        x = np.asarray(x)
        self.check_inputs(x)
        outputs = np.empty((len(x), *self.spec.shapes[-1]), params.dtype)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for rows, part in self._passes(params, x):
                outputs[rows] = part
        return outputs

    def loss_and_gradient(
        self, params: Array, x: npt.ArrayLike, y: npt.ArrayLike
    ) -> tuple[float, Array]:
        """Mean loss of one batch, and its derivative by ``params`` as a new flat vector.

        As in training, but without dropout; statistics stay, and have no derivative.
        """
        self.check_params(params)
        x, y = np.asarray(x), np.asarray(y)
        self.check_batch(x, y)
        selection = select(self.spec)
        slices = trained_slices(self.spec, selection)
        trained = np.empty(sum(part.stop - part.start for part in slices), params.dtype)
        network = Network(self.spec, params, len(x), selection=selection, gradient=trained)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            network.inputs(len(x))[...] = x
            loss = network.loss_and_gradient(y)
        check_loss(loss)
        gradient, start = np.zeros_like(params), 0
        for part in slices:
            gradient[part] = trained[start : start + part.stop - part.start]
            start += part.stop - part.start
        return loss, gradient

    def evaluate(self, params: Array, x: npt.ArrayLike, y: npt.ArrayLike) -> Metrics:
        """Loss and accuracy over all samples, a bounded number at a time."""
        self.check_params(params)
        x, y = np.asarray(x), np.asarray(y)
        self.check_batch(x, y)
        total, count, num_correct = 0.0, 0, 0
        counts = True
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for rows, outputs in self._passes(params, x):
                counted = self._loss.count(y[rows])
                loss = self._loss.value(outputs, y[rows], np.empty_like(outputs))
                correct = self._loss.num_correct(outputs, y[rows])
                total += loss * counted
                count += counted
                counts = correct is not None
                num_correct += correct or 0
        check_loss(total)
        if not count:
            raise TrainingError("no samples: none of the labels counts")
        return Metrics(total / count, num_correct / count if counts else None, count)

    def check_params(self, params: Array) -> None:
        """Raise TrainingError unless ``params`` is a flat vector of the model's size."""
        if params.shape != (self.layout.size,) or params.dtype.kind != "f":
            raise TrainingError(
                f"the model has {self.layout.size} params, not {params.dtype} {params.shape}; "
                f"were they trained with another model spec?"
            )

    def check_inputs(self, x: npt.NDArray[np.generic]) -> None:
        """Raise TrainingError unless ``x`` holds samples of the model's input shape."""
        expected = self.spec.shapes[0]
        if x.ndim == 0 or x.shape[1:] != expected or x.dtype.kind not in "fiub":
            raise TrainingError(
                f"x must hold numbers of shape {('n', *expected)}, not {x.dtype} {x.shape}"
            )
        self.spec.layers[0].check_input(x)

    def check_batch(self, x: npt.NDArray[np.generic], y: Targets) -> None:
        """Raise TrainingError unless there are samples, with a good target for each."""
        self.check_inputs(x)
        if y.ndim == 0 or len(x) != len(y):
            raise TrainingError(f"{len(x)} samples in x, but y has shape {y.shape}")
        if not len(x):
            raise TrainingError("no samples")
        self._loss.check_targets(y, self.spec.shapes[-1])

    def _passes(self, params: Array, x: npt.NDArray[np.generic]) -> Iterator[tuple[slice, Array]]:
        step = max(1, min(len(x), inference_rows(self.spec)))
        network = Network(self.spec, params, step)
        for start in range(0, len(x), step):
            rows = slice(start, min(start + step, len(x)))
            network.inputs(rows.stop - start)[...] = x[rows]
            yield rows, network.forward()


def check_loss(loss: float) -> None:
    """Raise TrainingError unless ``loss`` is finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss}: lower learning_rate or set clip_norm, and check that the data "
            f"has neither NaN nor infinity and is scaled to about 1"
        )
