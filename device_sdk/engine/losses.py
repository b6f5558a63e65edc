"""The losses: mean over the samples, and the derivative by the model's outputs beside it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from device_sdk.engine.arrays import Array, Shape, Targets
from device_sdk.engine.errors import TrainingError
from protocol.errors import ConfigError

#: The label of a sample that does not count.
MASKED: Final = -1
#: Outputs that losses work on at a time, so that what they need beside stays small.
_CHUNK: Final = 1 << 12


class Loss(ABC):
    """How wrong outputs are. A frozen description like a layer: losses hold no numbers."""

    #: Targets may say that a sample does not count.
    masks: ClassVar[bool] = False
    #: Targets have a number for each output, not one for each sample.
    dense_targets: ClassVar[bool] = True

    @abstractmethod
    def check_outputs(self, output_shape: Shape) -> None:
        """Raise ConfigError unless a model with such outputs can have this loss."""

    @abstractmethod
    def check_targets(self, targets: Targets, output_shape: Shape) -> None:
        """Raise TrainingError unless ``targets`` (first axis: samples) suit such outputs."""

    def count(self, targets: Targets) -> int:
        """How many samples count: all, unless their targets say otherwise."""
        return len(targets)

    @abstractmethod
    def value(
        self, outputs: Array, targets: Targets, gradient: Array, count: int | None = None
    ) -> float:
        """Mean loss of a batch; writes its derivative by ``outputs`` into ``gradient``.

        The targets have been checked. ``gradient`` may not be ``outputs``, which stay.
        ``count``: divide by this number of samples; for a part of a batch, that of the whole.
        """

    def num_correct(self, outputs: Array, targets: Targets) -> int | None:  # noqa: ARG002
        """How many samples are right; None where that means nothing."""
        return None


@dataclass(frozen=True, slots=True)
class SoftmaxCrossEntropy(Loss):
    """``-log softmax(outputs)[label]``; outputs are logits (n, classes), targets labels (n,).

    A sample whose label is `MASKED` does not count.
    """

    masks: ClassVar[bool] = True
    dense_targets: ClassVar[bool] = False

    def check_outputs(self, output_shape: Shape) -> None:
        """One logit a class, two classes at least."""
        if len(output_shape) != 1 or output_shape[0] < 2:  # noqa: PLR2004 - one class is no choice
            raise ConfigError(
                f"softmax_cross_entropy needs one output for each of 2 or more classes, but the "
                f"last layer gives {output_shape}; end with a dense layer, units = classes"
            )

    def check_targets(self, targets: Targets, output_shape: Shape) -> None:
        """Labels are whole numbers, 0 to classes - 1, or `MASKED`."""
        if targets.ndim != 1 or targets.dtype.kind not in "iu":
            raise TrainingError(
                f"y must be one whole number per sample (an integer array of shape (n,)), "
                f"not {targets.dtype} {targets.shape}"
            )
        if targets.size and not MASKED <= targets.min() <= targets.max() < output_shape[0]:
            raise TrainingError(
                f"labels run from {targets.min()} to {targets.max()}, but the model knows classes "
                f"0 to {output_shape[0] - 1} (and {MASKED}: ignore this sample); renumber them, "
                f"or give the last layer more units"
            )

    def count(self, targets: Targets) -> int:
        """Samples with a label."""
        return int(np.count_nonzero(targets != MASKED))

    def value(
        self, outputs: Array, targets: Targets, gradient: Array, count: int | None = None
    ) -> float:
        """``mean(log sum exp(z) - z[label])``; derivative ``(softmax(z) - onehot) / n``."""
        count = self.count(targets) if count is None else count
        rows = np.arange(len(outputs))
        # Subtracting the largest logit changes nothing but keeps exp from overflowing.
        np.subtract(outputs, outputs.max(axis=1, keepdims=True), out=gradient)
        chosen = gradient[rows, targets]
        np.exp(gradient, out=gradient)
        total = gradient.sum(axis=1)
        losses = np.log(total) - chosen
        gradient /= (total * max(1, count))[:, np.newaxis]
        gradient[rows, targets] -= 1 / max(1, count)
        masked = targets == MASKED
        if masked.any():
            gradient[masked] = 0
            losses[masked] = 0
        return float(losses.sum() / max(1, count))

    def num_correct(self, outputs: Array, targets: Targets) -> int:
        """Samples whose largest logit is that of their label."""
        return int(np.count_nonzero(outputs.argmax(axis=1) == targets))


class _Regression(Loss):
    """Losses whose targets are numbers in the shape of the outputs."""

    __slots__ = ()

    def check_outputs(self, output_shape: Shape) -> None:
        """Any shape will do."""

    def check_targets(self, targets: Targets, output_shape: Shape) -> None:
        """Numbers in the shape of the outputs."""
        if targets.shape[1:] != output_shape or targets.dtype.kind not in "fiu":
            raise TrainingError(
                f"y must hold numbers of shape (n, *{output_shape}), "
                f"not {targets.dtype} {targets.shape}"
            )


class _OneByOne(_Regression):
    """Losses of each output by itself: mean over samples and outputs."""

    __slots__ = ()

    @abstractmethod
    def total(self, outputs: Array, targets: Array, slope: Array) -> float:
        """Sum over some outputs and their targets, all flat; writes the derivative."""

    def value(
        self, outputs: Array, targets: Targets, gradient: Array, count: int | None = None
    ) -> float:
        """The mean; targets are brought to the outputs' number type a few at a time."""
        size = outputs.size if count is None else count * math.prod(outputs.shape[1:])
        z, t, slope = outputs.reshape(-1), targets.reshape(-1), gradient.reshape(-1)
        total = 0.0
        for part in _parts(z.size, _CHUNK):
            total += self.total(z[part], t[part].astype(z.dtype, copy=False), slope[part])
        slope *= 1 / size
        return total / size


@dataclass(frozen=True, slots=True)
class MeanSquaredError(_OneByOne):
    """``mean((outputs - targets)^2)`` over samples and outputs."""

    def total(self, outputs: Array, targets: Array, slope: Array) -> float:
        """``e^2`` with ``e = outputs - targets``; derivative ``2 e``."""
        np.subtract(outputs, targets, out=slope)
        total = float(np.vdot(slope, slope))
        slope *= 2
        return total


@dataclass(frozen=True, slots=True)
class Huber(_OneByOne):
    """Squared near 0, straight beyond ``delta`` (Huber 1964), as PyTorch's HuberLoss.

    ``e^2 / 2`` where ``|e| <= delta``, else ``delta (|e| - delta / 2)``.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ConfigError(f"delta must be above 0, not {self.delta}")

    def total(self, outputs: Array, targets: Array, slope: Array) -> float:
        """With ``c`` the error cut off at +-delta, the loss is ``c (e - c / 2)``, the slope c."""
        error = outputs - targets
        np.clip(error, -self.delta, self.delta, out=slope)
        return float(np.vdot(slope, error)) - 0.5 * float(np.vdot(slope, slope))


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy(_OneByOne):
    """``log(1 + exp(z)) - t z`` of logits z; targets t, of the outputs' shape, are 0 to 1."""

    def check_targets(self, targets: Targets, output_shape: Shape) -> None:
        """From 0 to 1, in the shape of the outputs; for one output, (n,) will do."""
        if targets.dtype.kind == "b":
            targets = targets.view(np.uint8)
        if output_shape == (1,) and targets.ndim == 1:
            targets = targets[:, np.newaxis]
        _Regression.check_targets(self, targets, output_shape)
        if targets.size and not 0 <= targets.min() <= targets.max() <= 1:
            raise TrainingError(f"y runs from {targets.min()} to {targets.max()}, not in 0..1")

    def total(self, outputs: Array, targets: Array, slope: Array) -> float:
        """``max(z, 0) - t z + log(1 + exp(-|z|))``; derivative ``sigmoid(z) - t``."""
        np.abs(outputs, out=slope)
        np.negative(slope, out=slope)
        np.exp(slope, out=slope)
        np.log1p(slope, out=slope)
        total = float(slope.sum())
        np.maximum(outputs, 0, out=slope)
        total += float(slope.sum()) - float(np.vdot(outputs, targets))
        np.multiply(outputs, 0.5, out=slope)
        np.tanh(slope, out=slope)
        slope += 1
        slope *= 0.5
        slope -= targets
        return total

    def num_correct(self, outputs: Array, targets: Targets) -> int:
        """Samples all of whose outputs are on the right side of 0."""
        right = (outputs > 0) == (targets.reshape(outputs.shape).astype(outputs.dtype) > 0.5)  # noqa: PLR2004 - half
        return int(np.count_nonzero(right.reshape(len(right), -1).all(axis=1)))


@dataclass(frozen=True, slots=True)
class Distillation(_Regression):
    """``T^2 KL(softmax(targets / T) || softmax(outputs / T))``; targets are a teacher's logits.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
    """

    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be above 0, not {self.temperature}")

    def check_outputs(self, output_shape: Shape) -> None:
        """One logit a class, two classes at least."""
        if len(output_shape) != 1 or output_shape[0] < 2:  # noqa: PLR2004 - one class is no choice
            raise ConfigError(f"distillation needs logits of 2 or more classes, not {output_shape}")

    def value(
        self, outputs: Array, targets: Targets, gradient: Array, count: int | None = None
    ) -> float:
        """Mean over samples; derivative ``T (softmax(z / T) - softmax(t / T)) / n``."""
        count = len(outputs) if count is None else count
        total = 0.0
        for part in _parts(len(outputs), max(1, _CHUNK // outputs.shape[1])):
            total += self._total(outputs[part], targets[part], gradient[part])
        gradient *= self.temperature / count
        return total * self.temperature**2 / count

    def _total(self, outputs: Array, targets: Targets, slope: Array) -> float:
        """KL of some samples; writes the difference of the two softmaxes."""
        np.divide(targets, self.temperature, out=slope, casting="same_kind")
        _log_softmax(slope)
        student = outputs / self.temperature
        _log_softmax(student)
        teacher = np.exp(slope)
        slope -= student
        total = float(np.vdot(teacher, slope))
        np.exp(student, out=slope)
        slope -= teacher
        return total

    def num_correct(self, outputs: Array, targets: Targets) -> int:
        """Samples on whose class teacher and model agree."""
        return int(np.count_nonzero(outputs.argmax(axis=1) == targets.argmax(axis=1)))


def _parts(count: int, step: int) -> Iterator[slice]:
    """Slices of ``step``, one after the other."""
    for start in range(0, count, step):
        yield slice(start, start + step)


def _log_softmax(logits: Array) -> None:
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))


#: A spec's word for a loss. A new loss is a class above and a line here.
LOSSES: Final[Mapping[str, type[Loss]]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "mean_squared_error": MeanSquaredError,
    "binary_cross_entropy": BinaryCrossEntropy,
    "huber": Huber,
    "distillation": Distillation,
}
