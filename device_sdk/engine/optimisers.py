"""Optimisers: pure settings; what they remember between steps is a value that the caller holds."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from device_sdk.engine.arrays import Array
from protocol.errors import ConfigError

#: Numbers that a step works on at a time: they stay in the cache, and scratch memory is small.
CHUNK: Final = 1 << 14


class Optimiser(ABC):
    """How a gradient moves params."""

    @property
    @abstractmethod
    def num_states(self) -> int:
        """Vectors as long as the params that it remembers; at first they are 0."""

    @abstractmethod
    def step(
        self,
        params: Array,
        gradient: Array,
        states: Sequence[Array],
        scratch: Array,
        *,
        rate: float,
        number: int,
    ) -> None:
        """Move ``params`` and ``states`` in place; ``gradient`` and ``scratch`` are used up.

        ``rate`` is the learning rate of this step, ``number`` counts steps from 1.
        """


@dataclass(frozen=True, slots=True)
class SGD(Optimiser):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013, in PyTorch's form).

    ``velocity = momentum * velocity + gradient``; ``params -= rate * velocity``, or with
    ``nesterov`` ``params -= rate * (gradient + momentum * velocity)``.
    """

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        # Written so that NaN is refused too.
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must be in [0, 1), not {self.momentum}")
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov needs a momentum above 0")

    @property
    def num_states(self) -> int:
        """The velocity, where there is a momentum."""
        return 1 if self.momentum else 0

    def step(
        self,
        params: Array,
        gradient: Array,
        states: Sequence[Array],
        scratch: Array,
        *,
        rate: float,
        number: int,  # noqa: ARG002 - every step is alike
    ) -> None:
        """Down the velocity."""
        for velocity in states:
            velocity *= self.momentum  # noqa: PLW2901 - in place
            velocity += gradient  # noqa: PLW2901 - in place
            if self.nesterov:
                np.multiply(velocity, self.momentum, out=scratch)
                gradient += scratch
            else:
                gradient[...] = velocity
        gradient *= rate
        params -= gradient


@dataclass(frozen=True, slots=True)
class Adam(Optimiser):
    """Adam (Kingma and Ba 2015), with both bias corrections."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        for key, value in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= value < 1:
                raise ConfigError(f"{key} must be in [0, 1), not {value}")
        if not 0 < self.epsilon < math.inf:
            raise ConfigError(f"epsilon must be above 0, not {self.epsilon}")

    @property
    def num_states(self) -> int:
        """Running means of the gradient and of its square."""
        return 2

    def step(
        self,
        params: Array,
        gradient: Array,
        states: Sequence[Array],
        scratch: Array,
        *,
        rate: float,
        number: int,
    ) -> None:
        """``params -= rate * mean / (sqrt(square) + epsilon)``, both without their bias."""
        mean, square = states
        mean *= self.beta1
        np.multiply(gradient, 1 - self.beta1, out=scratch)
        mean += scratch
        np.multiply(gradient, gradient, out=gradient)
        gradient *= 1 - self.beta2
        square *= self.beta2
        square += gradient
        np.sqrt(square, out=gradient)
        gradient *= 1 / math.sqrt(1 - self.beta2**number)
        gradient += self.epsilon
        np.divide(mean, gradient, out=gradient)
        gradient *= rate / (1 - self.beta1**number)
        params -= gradient


class Descent:
    """Moves the trained parts of a flat vector, a chunk at a time.

    ``slices`` are those parts, which lie one after the other in the gradient. ``weight_decay`` is
    an L2 penalty. ``proximal`` is FedProx's mu (Li et al. 2020): it pulls towards ``base``.
    """

    def __init__(
        self,
        optimiser: Optimiser,
        params: Array,
        gradient: Array,
        slices: Sequence[slice],
        *,
        weight_decay: float = 0.0,
        proximal: float = 0.0,
        base: Array | None = None,
    ) -> None:
        self._optimiser, self._weight_decay, self._proximal = optimiser, weight_decay, proximal
        self._scratch = np.empty(min(CHUNK, gradient.size), params.dtype)
        self._number = 0
        states = [np.zeros_like(gradient) for _ in range(optimiser.num_states)]
        self._chunks = [
            (
                params[here],
                gradient[there],
                params[:0] if base is None else base[here],
                [state[there] for state in states],
            )
            for here, there in _chunks(slices)
        ]

    def step(self, rate: float) -> None:
        """Move the params by what is in the gradient, which is used up."""
        self._number += 1
        for params, gradient, base, states in self._chunks:
            scratch = self._scratch[: params.size]
            if self._weight_decay:
                np.multiply(params, self._weight_decay, out=scratch)
                np.add(gradient, scratch, out=gradient)
            if self._proximal:
                np.subtract(params, base, out=scratch)
                np.multiply(scratch, self._proximal, out=scratch)
                np.add(gradient, scratch, out=gradient)
            self._optimiser.step(params, gradient, states, scratch, rate=rate, number=self._number)


def clip_by_norm(gradient: Array, limit: float, norm: float) -> None:
    """Scale ``gradient``, whose Euclidean norm is ``norm``, in place to at most ``limit``."""
    if norm > limit:
        gradient *= limit / norm


def norm_of(gradient: Array) -> float:
    """Euclidean norm; not finite if some number is not, or too large to square."""
    return math.sqrt(float(np.vdot(gradient, gradient)))


def _chunks(slices: Sequence[slice]) -> Iterator[tuple[slice, slice]]:
    """Where each chunk lies, in the flat vector and in the gradient."""
    offset = 0
    for part in slices:
        for start in range(part.start, part.stop, CHUNK):
            stop = min(start + CHUNK, part.stop)
            yield slice(start, stop), slice(offset, offset + stop - start)
            offset += stop - start
