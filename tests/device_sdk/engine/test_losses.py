"""Losses: their values, their derivatives, and the targets they refuse."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine.errors import TrainingError
from device_sdk.engine.losses import (
    LOSSES,
    MASKED,
    BinaryCrossEntropy,
    Distillation,
    Huber,
    Loss,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from protocol.errors import ConfigError

OUTPUTS = np.array([[1.0, -2.0, 0.5], [0.0, 0.3, 4.0], [-1.0, -1.0, -1.0], [2.0, 1.0, 0.0]])
CASES: list[tuple[Loss, npt.NDArray[np.generic]]] = [
    (SoftmaxCrossEntropy(), np.array([0, 2, 1, 2])),
    (SoftmaxCrossEntropy(), np.array([2, 2, 0, 0], dtype=np.uint8)),
    (SoftmaxCrossEntropy(), np.array([2, MASKED, 0, MASKED])),
    (MeanSquaredError(), OUTPUTS[::-1] + 0.25),
    (Huber(), OUTPUTS[::-1] + 0.25),
    (Huber(0.3), OUTPUTS[::-1] + 0.25),
    (BinaryCrossEntropy(), np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])),
    (BinaryCrossEntropy(), np.full((4, 3), 0.3)),
    (Distillation(), OUTPUTS[::-1] + 0.25),
    (Distillation(1.0), OUTPUTS[::-1] + 0.25),
]


@pytest.mark.parametrize(("loss", "targets"), CASES)
def test_the_derivative_is_that_of_the_value(loss: Loss, targets: npt.NDArray[np.generic]) -> None:
    gradient, spare = np.empty_like(OUTPUTS), np.empty_like(OUTPUTS)
    loss.check_targets(targets, OUTPUTS.shape[1:])
    loss.value(OUTPUTS.copy(), targets, gradient)
    expected = np.empty_like(OUTPUTS)
    for index in np.ndindex(OUTPUTS.shape):
        sides = []
        for shift in (1e-6, -1e-6):
            outputs = OUTPUTS.copy()
            outputs[index] += shift
            sides.append(loss.value(outputs, targets, spare))
        expected[index] = (sides[0] - sides[1]) / 2e-6
    assert np.linalg.norm(gradient - expected) / np.linalg.norm(expected) < 1e-6


@pytest.mark.parametrize(("loss", "targets"), CASES)
def test_parts_of_a_batch_add_up_to_the_whole(loss: Loss, targets: npt.NDArray[np.generic]) -> None:
    whole, parts = np.empty_like(OUTPUTS), np.empty_like(OUTPUTS)
    value = loss.value(OUTPUTS.copy(), targets, whole)
    count = loss.count(targets)
    added = sum(
        loss.value(OUTPUTS[rows].copy(), targets[rows], parts[rows], count)
        for rows in (slice(0, 3), slice(3, 4))
    )
    assert added == pytest.approx(value)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_every_loss_of_the_registry_is_checked_here() -> None:
    assert {type(loss) for loss, _ in CASES} == set(LOSSES.values())


def test_a_masked_sample_is_as_if_it_were_not_there() -> None:
    labels = np.array([0, MASKED, 1, 2], np.int8)
    kept = [0, 2, 3]
    with_mask, without = np.empty_like(OUTPUTS), np.empty((3, 3))
    loss = SoftmaxCrossEntropy()
    masked = loss.value(OUTPUTS.copy(), labels, with_mask)
    assert masked == pytest.approx(loss.value(OUTPUTS[kept], labels[kept], without))
    np.testing.assert_allclose(with_mask[kept], without)
    assert not with_mask[1].any()
    assert loss.num_correct(OUTPUTS, labels) == loss.num_correct(OUTPUTS[kept], labels[kept])


def test_a_batch_in_which_nothing_counts_has_no_slope() -> None:
    gradient = np.empty_like(OUTPUTS)
    assert SoftmaxCrossEntropy().value(OUTPUTS.copy(), np.full(4, MASKED), gradient) == 0
    assert not gradient.any()


def test_a_teacher_who_agrees_teaches_nothing() -> None:
    gradient = np.empty_like(OUTPUTS)
    assert Distillation(3.0).value(OUTPUTS.copy(), OUTPUTS + 5, gradient) == pytest.approx(0)
    assert np.abs(gradient).max() < 1e-12


def test_a_huber_loss_is_half_the_square_near_zero_and_straight_far_away() -> None:
    outputs, targets = np.array([[0.5], [10.0]]), np.zeros((2, 1))
    assert Huber(2.0).value(outputs, targets, np.empty((2, 1))) == (0.125 + 2 * (10 - 1)) / 2


def test_one_output_takes_labels_without_an_axis() -> None:
    loss = BinaryCrossEntropy()
    logits, labels = np.array([[2.0], [-2.0], [40.0]]), np.array([1, 1, 0])
    loss.check_targets(labels, (1,))
    loss.check_targets(labels == 1, (1,))
    value = loss.value(logits.copy(), labels, np.empty((3, 1)))
    assert value == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(2)) + 40) / 3)
    assert loss.num_correct(logits, labels) == 1


def test_targets_of_binary_cross_entropy_are_from_zero_to_one() -> None:
    with pytest.raises(TrainingError, match=r"y runs from 0 to 2"):
        BinaryCrossEntropy().check_targets(np.array([0, 2]), (1,))


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan])
def test_a_loss_refuses_keys_out_of_range(wrong: float) -> None:
    with pytest.raises(ConfigError, match="delta must be above 0"):
        Huber(wrong)
    with pytest.raises(ConfigError, match="temperature must be above 0"):
        Distillation(wrong)


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


@pytest.mark.parametrize("labels", [[0, 3], [-2, 0], [10, 2]])
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
    assert MeanSquaredError().num_correct(OUTPUTS, OUTPUTS) is None
