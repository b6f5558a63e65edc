"""A model: what can be done with a spec and a flat vector of params."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import EVAL_ROWS, Array, Targets
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.network import Network
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
        network = Network(self.spec, params)
        for index, layer in enumerate(self.spec.layers):
            layer.init(network.params[index], Stream(derive(seed, "init", index)))
        return params

    def predict(self, params: Array, x: npt.ArrayLike) -> Array:
        """Outputs, (n, *output shape), in the dtype of ``params``."""
        self.check_params(params)
        x = np.asarray(x)
        self.check_inputs(x)
        outputs = np.empty((len(x), *self.spec.shapes[-1]), params.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for rows, part in self._passes(params, x):
                outputs[rows] = part
        return outputs

    def loss_and_gradient(
        self, params: Array, x: npt.ArrayLike, y: npt.ArrayLike
    ) -> tuple[float, Array]:
        """Mean loss of one batch, and its derivative by ``params`` as a new flat vector."""
        self.check_params(params)
        x, y = np.asarray(x), np.asarray(y)
        self.check_batch(x, y)
        gradient = np.empty_like(params)
        network = Network(self.spec, params, gradient)
        with np.errstate(over="ignore", invalid="ignore"):
            loss = network.loss_and_gradient(np.asarray(x, params.dtype), y)
        check_loss(loss)
        return loss, gradient

    def evaluate(self, params: Array, x: npt.ArrayLike, y: npt.ArrayLike) -> Metrics:
        """Loss and accuracy over all samples, a bounded number at a time."""
        self.check_params(params)
        x, y = np.asarray(x), np.asarray(y)
        self.check_batch(x, y)
        total, num_correct = 0.0, 0
        counts = True
        with np.errstate(over="ignore", invalid="ignore"):
            for rows, outputs in self._passes(params, x):
                loss = self._loss.value(outputs, y[rows], np.empty_like(outputs))
                correct = self._loss.num_correct(outputs, y[rows])
                total += loss * len(outputs)
                counts = correct is not None
                num_correct += correct or 0
        check_loss(total)
        return Metrics(total / len(x), num_correct / len(x) if counts else None, len(x))

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

    def check_batch(self, x: npt.NDArray[np.generic], y: Targets) -> None:
        """Raise TrainingError unless there are samples, with a good target for each."""
        self.check_inputs(x)
        if y.ndim == 0 or len(x) != len(y):
            raise TrainingError(f"{len(x)} samples in x, but y has shape {y.shape}")
        if not len(x):
            raise TrainingError("no samples")
        self._loss.check_targets(y, self.spec.shapes[-1])

    def _passes(self, params: Array, x: npt.NDArray[np.generic]) -> Iterator[tuple[slice, Array]]:
        network = Network(self.spec, params)
        for start in range(0, len(x), EVAL_ROWS):
            rows = slice(start, start + EVAL_ROWS)
            yield rows, network.forward(np.asarray(x[rows], params.dtype))


def check_loss(loss: float) -> None:
    """Raise TrainingError unless ``loss`` is finite."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss}: lower learning_rate or set clip_norm, and check that the data "
            f"has neither NaN nor infinity and is scaled to about 1"
        )
