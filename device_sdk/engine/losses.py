"""The losses: mean over the batch, and the derivative by the model's outputs beside it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

import numpy as np

from device_sdk.engine.arrays import Array, Shape, Targets
from device_sdk.engine.errors import TrainingError
from protocol.errors import ConfigError


class Loss(ABC):
    """How wrong outputs are. Losses hold no numbers."""

    @abstractmethod
    def check_outputs(self, output_shape: Shape) -> None:
        """Raise ConfigError unless a model with such outputs can have this loss."""

    @abstractmethod
    def check_targets(self, targets: Targets, output_shape: Shape) -> None:
        """Raise TrainingError unless ``targets`` (first axis: samples) suit such outputs."""

    @abstractmethod
    def value(self, outputs: Array, targets: Targets, gradient: Array) -> float:
        """Mean loss of a batch; writes its derivative by ``outputs`` into ``gradient``.

        The targets have been checked. ``gradient`` may not be ``outputs``.
        """

    @abstractmethod
    def num_correct(self, outputs: Array, targets: Targets) -> int | None:
        """How many samples are right; None where that means nothing."""


class SoftmaxCrossEntropy(Loss):
    """``-log softmax(outputs)[label]``; outputs are logits (n, classes), targets labels (n,)."""

    def check_outputs(self, output_shape: Shape) -> None:
        """One logit a class, two classes at least."""
        if len(output_shape) != 1 or output_shape[0] < 2:  # noqa: PLR2004 - one class is no choice
            raise ConfigError(
                f"softmax_cross_entropy needs one output for each of 2 or more classes, but the "
                f"last layer gives {output_shape}; end with a dense layer, units = classes"
            )

    def check_targets(self, targets: Targets, output_shape: Shape) -> None:
        """Labels are whole numbers, 0 to classes - 1."""
        if targets.ndim != 1 or targets.dtype.kind not in "iu":
            raise TrainingError(
                f"y must be one whole number per sample (an integer array of shape (n,)), "
                f"not {targets.dtype} {targets.shape}"
            )
        if targets.size and not 0 <= targets.min() <= targets.max() < output_shape[0]:
            raise TrainingError(
                f"labels run from {targets.min()} to {targets.max()}, but the model knows classes "
                f"0 to {output_shape[0] - 1}; renumber them, or give the last layer more units"
            )

    def value(self, outputs: Array, targets: Targets, gradient: Array) -> float:
        """``mean(log sum exp(z) - z[label])``; derivative ``(softmax(z) - onehot) / n``."""
        rows = np.arange(len(outputs))
        # Subtracting the largest logit changes nothing but keeps exp from overflowing.
        np.subtract(outputs, outputs.max(axis=1, keepdims=True), out=gradient)
        chosen = gradient[rows, targets]
        np.exp(gradient, out=gradient)
        total = gradient.sum(axis=1)
        loss = float((np.log(total) - chosen).mean())
        gradient /= (total * len(rows))[:, np.newaxis]
        gradient[rows, targets] -= 1 / len(rows)
        return loss

    def num_correct(self, outputs: Array, targets: Targets) -> int:
        """Samples whose largest logit is that of their label."""
        return int(np.count_nonzero(outputs.argmax(axis=1) == targets))


class MeanSquaredError(Loss):
    """``mean((outputs - targets)^2)`` over samples and outputs."""

    def check_outputs(self, output_shape: Shape) -> None:
        """Any shape will do."""

    def check_targets(self, targets: Targets, output_shape: Shape) -> None:
        """Numbers in the shape of the outputs."""
        if targets.shape[1:] != output_shape or targets.dtype.kind not in "fiu":
            raise TrainingError(
                f"y must hold numbers of shape (n, *{output_shape}), "
                f"not {targets.dtype} {targets.shape}"
            )

    def value(self, outputs: Array, targets: Targets, gradient: Array) -> float:
        """``mean(e^2)`` with ``e = outputs - targets``; derivative ``2 e / size``."""
        np.subtract(outputs, targets, out=gradient, casting="same_kind")
        loss = float(np.vdot(gradient, gradient)) / gradient.size
        gradient *= 2 / gradient.size
        return loss

    def num_correct(self, outputs: Array, targets: Targets) -> None:
        """Nothing is right or wrong here."""


#: A spec's word for a loss. A new loss is a class above and a line here.
LOSSES: Final[Mapping[str, Loss]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy(),
    "mean_squared_error": MeanSquaredError(),
}
