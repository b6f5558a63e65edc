"""SGD by its formula; clipping; settings that are refused."""

import math

import numpy as np
import pytest

from device_sdk.engine.errors import TrainingError
from device_sdk.engine.optimisers import SGD, clip_by_norm
from protocol.errors import ConfigError


def test_plain_sgd_goes_down_the_gradient() -> None:
    params = np.array([1.0, 2.0], dtype=np.float32)
    sgd = SGD(0.5)
    assert sgd.velocity(params) is None
    sgd.step(params, np.array([2.0, -4.0], dtype=np.float32), None)
    assert params.tolist() == [0.0, 4.0]


def test_momentum_and_weight_decay_follow_their_formula() -> None:
    sgd = SGD(0.1, momentum=0.9, weight_decay=0.01)
    params = np.array([1.0, -2.0])
    velocity = sgd.velocity(params)
    gradients = [np.array([0.5, 0.25]), np.array([-1.0, 3.0]), np.array([2.0, 0.0])]
    expected, remembered = params.copy(), np.zeros(2)
    for gradient in gradients:
        remembered = 0.9 * remembered + gradient + 0.01 * expected
        expected = expected - 0.1 * remembered
    for gradient in gradients:
        sgd.step(params, gradient.copy(), velocity)
    assert params == pytest.approx(expected, rel=1e-12)
    assert velocity == pytest.approx(remembered, rel=1e-12)


def test_float32_params_stay_float32() -> None:
    params = np.ones(3, dtype=np.float32)
    sgd = SGD(0.1, momentum=0.5, weight_decay=0.1)
    velocity = sgd.velocity(params)
    assert velocity is not None
    sgd.step(params, np.ones(3, dtype=np.float32), velocity)
    assert params.dtype == velocity.dtype == np.float32


def test_a_long_gradient_is_scaled_to_the_limit() -> None:
    gradient = np.array([3.0, 4.0])
    clip_by_norm(gradient, 1.0)
    assert gradient == pytest.approx([0.6, 0.8])


def test_a_short_gradient_is_left_alone() -> None:
    gradient = np.array([3.0, 4.0])
    clip_by_norm(gradient, 5.0)
    assert gradient.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_clipping_refuses_what_is_not_finite(wrong: float) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        clip_by_norm(np.array([1.0, wrong]), 1.0)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ((0.0, 0.0, 0.0), "learning_rate"),
        ((math.nan, 0.0, 0.0), "learning_rate"),
        ((math.inf, 0.0, 0.0), "learning_rate"),
        ((0.1, 1.0, 0.0), "momentum"),
        ((0.1, -0.1, 0.0), "momentum"),
        ((0.1, 0.0, -1.0), "weight_decay"),
        ((0.1, 0.0, math.nan), "weight_decay"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: tuple[float, float, float], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key} must be"):
        SGD(*settings)
