"""How to train: the keys of a plan's ``training`` object."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from device_sdk.engine.optimisers import SGD, Adam, Optimiser
from device_sdk.engine.selection import Selection, select
from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError

_SCHEDULES: Final = ("constant", "step", "cosine")
_OPTIMISERS: Final = ("sgd", "adam")
#: The most passes and steps that a training may be asked for.
_MAX_STEPS: Final = 1_000_000
_BOUNDS: Final[Mapping[str, tuple[int, float]]] = {
    "epochs": (1, _MAX_STEPS),
    "max_steps": (1, _MAX_STEPS),
    "batch_size": (1, math.inf),
    "schedule_steps": (1, _MAX_STEPS),
    "schedule_factor": (0, 1),
    "warmup_steps": (0, _MAX_STEPS),
    "trainable_last": (1, math.inf),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How to train: the keys of a plan's ``training`` object."""

    epochs: int = 1  # passes over the data
    max_steps: int | None = None  # stop after so many batches, wherever in a pass
    batch_size: int = 16  # samples a step; the last of a block may have fewer
    optimiser: str = "sgd"  # or "adam"
    learning_rate: float = 0.1
    momentum: float = 0.0  # of sgd
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = None  # largest Euclidean norm of a step's gradient
    proximal: float = 0.0  # FedProx's mu
    schedule: str = "constant"  # or "step", "cosine"
    schedule_steps: int | None = None  # "step": so many between cuts; "cosine": so many to 0
    schedule_factor: float = 0.1  # "step": what a cut leaves
    warmup_steps: int = 0  # the rate grows linearly at first
    trainable: tuple[str, ...] | None = None  # patterns of tensor names; absent: all
    trainable_last: int | None = None  # instead: the last so many layers that have tensors

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.schedule not in _SCHEDULES:
            raise ConfigError(f"schedule must be {_or(_SCHEDULES)}, not {self.schedule!r}")
        if self.schedule != "constant" and self.schedule_steps is None:
            raise ConfigError(f"schedule {self.schedule!r} needs schedule_steps")
        if self.trainable and self.trainable_last:
            raise ConfigError("set trainable or trainable_last, not both")
        self.new_optimiser()  # checks its own keys

    def _check_numbers(self) -> None:
        for key, (least, most) in _BOUNDS.items():
            value = getattr(self, key)
            if value is not None and value < least:
                words = "0 or more" if least == 0 else f"at least {least}"
                raise ConfigError(f"{key} must be {words}, not {value}")
            if value is not None and value > most:
                raise ConfigError(f"{key} must be at most {most}, not {value}")
        # Written so that NaN is refused too.
        for key in ("learning_rate", "clip_norm", "schedule_factor"):
            if (value := getattr(self, key)) is not None and not 0 < value < math.inf:
                raise ConfigError(f"{key} must be above 0, not {value}")
        for key in ("weight_decay", "proximal"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ConfigError(f"{key} must be 0 or more, not {getattr(self, key)}")

    def new_optimiser(self) -> Optimiser:
        """The optimiser that these settings ask for."""
        if self.optimiser == "adam":
            if self.momentum or self.nesterov:
                raise ConfigError("momentum and nesterov are of sgd, not of adam")
            return Adam()
        if self.optimiser != "sgd":
            raise ConfigError(f"optimiser must be {_or(_OPTIMISERS)}, not {self.optimiser!r}")
        return SGD(self.momentum, self.nesterov)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = self.learning_rate
        if step < self.warmup_steps:
            return rate * (step + 1) / self.warmup_steps
        after, span = step - self.warmup_steps, self.schedule_steps or 1
        if self.schedule == "step":
            rate *= self.schedule_factor ** (after // span)
        elif self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, after / span)))
        return rate

    def for_samples(self, largest: int) -> "TrainingSettings":
        """The same for blocks of at most ``largest`` samples (0: unknown): no batch is larger."""
        if not 0 < largest < self.batch_size:
            return self
        return replace(self, batch_size=largest)

    def selection(self, spec: ModelSpec) -> Selection:
        """Which tensors of a model they train. Raises ConfigError if that is none."""
        return select(spec, self.trainable or (), self.trainable_last)


def _or(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
