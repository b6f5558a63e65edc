"""Losses: their values, their derivatives, and the targets they refuse."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine.errors import TrainingError
from device_sdk.engine.losses import LOSSES, Loss, MeanSquaredError, SoftmaxCrossEntropy
from protocol.errors import ConfigError

OUTPUTS = np.array([[1.0, -2.0, 0.5], [0.0, 0.3, 4.0], [-1.0, -1.0, -1.0], [2.0, 1.0, 0.0]])
CASES: list[tuple[Loss, npt.NDArray[np.generic]]] = [
    (SoftmaxCrossEntropy(), np.array([0, 2, 1, 2])),
    (SoftmaxCrossEntropy(), np.array([2, 2, 0, 0], dtype=np.uint8)),
    (MeanSquaredError(), OUTPUTS[::-1] + 0.25),
]


@pytest.mark.parametrize(("loss", "targets"), CASES)
def test_the_derivative_is_that_of_the_value(loss: Loss, targets: npt.NDArray[np.generic]) -> None:
    outputs, gradient, spare = OUTPUTS.copy(), np.empty_like(OUTPUTS), np.empty_like(OUTPUTS)
    loss.value(outputs, targets, gradient)
    expected = np.empty_like(outputs)
    for index in np.ndindex(outputs.shape):
        sides = []
        for shift in (1e-6, -1e-6):
            outputs[index] = OUTPUTS[index] + shift
            sides.append(loss.value(outputs, targets, spare))
        outputs[index] = OUTPUTS[index]
        expected[index] = (sides[0] - sides[1]) / 2e-6
    assert np.linalg.norm(gradient - expected) / np.linalg.norm(expected) < 1e-6


def test_every_loss_of_the_registry_is_checked_here() -> None:
    assert {type(loss) for loss, _ in CASES} == {type(loss) for loss in LOSSES.values()}


def test_equal_logits_cost_the_logarithm_of_the_classes() -> None:
    zeros = np.zeros((5, 10), dtype=np.float32)
    loss = SoftmaxCrossEntropy().value(zeros, np.arange(5), np.empty_like(zeros))
    assert loss == pytest.approx(math.log(10))


def test_huge_logits_give_finite_numbers() -> None:
    logits = np.array([[3e38, 0.0], [-3e38, 0.0]], dtype=np.float32)
    gradient = np.empty_like(logits)
    loss = SoftmaxCrossEntropy().value(logits, np.array([0, 1]), gradient)
    assert loss == 0.0
    assert np.isfinite(gradient).all()


def test_the_mean_squared_error_has_no_half_in_it() -> None:
    outputs = np.array([[1.0], [3.0]], dtype=np.float32)
    targets = np.array([[0], [1]])
    assert MeanSquaredError().value(outputs, targets, np.empty_like(outputs)) == 2.5


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0], [10, 2]])
def test_labels_out_of_range_are_refused_with_the_range(labels: list[int]) -> None:
    with pytest.raises(TrainingError, match=r"labels run from .* classes 0 to 2"):
        SoftmaxCrossEntropy().check_targets(np.array(labels), (3,))


@pytest.mark.parametrize("labels", [np.array([0.0, 1.0]), np.array([[0], [1]]), np.array(["a"])])
def test_labels_that_are_no_whole_numbers_are_refused(labels: npt.NDArray[np.generic]) -> None:
    with pytest.raises(TrainingError, match="one whole number per sample"):
        SoftmaxCrossEntropy().check_targets(labels, (3,))


@pytest.mark.parametrize("targets", [np.zeros((2, 4)), np.zeros(2), np.array([["a", "b", "c"]])])
def test_targets_of_another_shape_are_refused(targets: npt.NDArray[np.generic]) -> None:
    with pytest.raises(TrainingError, match="y must hold numbers"):
        MeanSquaredError().check_targets(targets, (3,))


@pytest.mark.parametrize("shape", [(1,), (2, 3)])
def test_softmax_needs_two_classes_on_one_axis(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="end with a dense layer"):
        SoftmaxCrossEntropy().check_outputs(shape)


def test_the_right_answers_are_counted() -> None:
    assert SoftmaxCrossEntropy().num_correct(OUTPUTS, np.array([0, 2, 1, 2])) == 2


def test_nothing_is_right_or_wrong_in_regression() -> None:
    assert LOSSES["mean_squared_error"].num_correct(OUTPUTS, OUTPUTS) is None
