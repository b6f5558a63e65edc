"""Optimisers: pure settings; what they remember between steps is a value that the caller holds."""

import math
from dataclasses import dataclass

import numpy as np

from device_sdk.engine.arrays import Array
from device_sdk.engine.errors import TrainingError
from protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent with momentum (Sutskever et al. 2013, in PyTorch's form).

    ``g = gradient + weight_decay * params``; ``velocity = momentum * velocity + g``;
    ``params -= learning_rate * velocity``.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        # Written so that NaN is refused too.
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be above 0, not {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), not {self.momentum}")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be 0 or more, not {self.weight_decay}")

    def velocity(self, params: Array) -> Array | None:
        """What `step` remembers, before the first one; None where there is nothing to remember."""
        return np.zeros_like(params) if self.momentum else None

    def step(self, params: Array, gradient: Array, velocity: Array | None) -> None:
        """Move ``params`` and ``velocity`` in place. ``gradient`` is used up."""
        if self.weight_decay:
            gradient += self.weight_decay * params
        if velocity is not None:
            velocity *= self.momentum
            velocity += gradient
            gradient[...] = velocity
        gradient *= self.learning_rate
        params -= gradient


def clip_by_norm(gradient: Array, limit: float) -> None:
    """Scale ``gradient`` in place so that its Euclidean norm is at most ``limit`` (> 0).

    Raises TrainingError if the norm is not finite: nothing sensible is left to scale.
    """
    norm = math.sqrt(float(np.vdot(gradient, gradient)))
    if not math.isfinite(norm):
        raise TrainingError("the gradient is not finite; lower learning_rate, or check the data")
    if norm > limit:
        gradient *= limit / norm
