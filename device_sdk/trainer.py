"""The one interface a user implements: where the data comes from, and how to train on it.

Either a class of your own::

    class Vibration(Trainer):
        def num_samples(self) -> int: ...
        def train(self, assignment: Assignment) -> Trained: ...

or the engine that comes with the SDK, which needs the data only::

    NumpyTrainer(data=(x, y))
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import is_finite
from device_sdk.engine.errors import TrainingError
from protocol.messages import MIN_SAMPLES
from protocol.settings import build

if TYPE_CHECKING:
    from device_sdk.engine.data import Data

__all__ = ["Assignment", "NumpyTrainer", "Trained", "Trainer", "TrainingError"]


def _go_on() -> None:
    """Nothing stands between two steps."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a lease asks for: train these params, on this device's data, like this.

    ``pause`` is to be called before every step: it keeps the device's limits (``cpu_limit``,
    ``[conditions]``) by returning when training may go on, or raising a TrainingError if it no
    longer may. A trainer that never calls it is limited in nothing once it has begun.
    """

    params: npt.NDArray[np.float32]  # flat; not to be changed: the delta is counted from them
    version: int
    model: Mapping[str, object]  # the plan's model spec; device_sdk.engine.spec shows one
    training: Mapping[str, object]  # the plan's settings; keys as in engine.TrainingSettings
    seed: bytes  # 32 bytes; whatever is random in training comes from them
    pause: Callable[[], None] = _go_on
    memory_budget_bytes: int | None = None  # `memory_budget` of device.toml; None: no limit


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out. Raises TrainingError for params or a count that must not leave the device."""

    params: npt.NDArray[np.float32]  # flat, in the order of the assignment's
    num_samples: int  # how many different samples it was trained on: not batches, not passes
    metrics: Mapping[str, float]  # `skipped_steps`, if it is there, is counted in telemetry

    @property
    def num_skipped(self) -> int:
        """Steps that were left out since some number in them was not finite."""
        return int(self.metrics.get("skipped_steps", 0))

    def __post_init__(self) -> None:
        if self.params.ndim != 1 or self.params.dtype != np.float32:
            raise TrainingError(
                f"params must be a flat float32 vector, not {self.params.dtype} {self.params.shape}"
            )
        if not is_finite(self.params):
            raise TrainingError("params hold NaN or infinity")
        if not isinstance(self.num_samples, int):  # NumPy's integers are none
            object.__setattr__(self, "num_samples", operator.index(self.num_samples))
        if self.num_samples < 1:
            raise TrainingError(f"num_samples must be at least 1, not {self.num_samples}")
        if self.num_skipped < 0:
            raise TrainingError(f"skipped_steps must be 0 or more, not {self.num_skipped}")


class Trainer(ABC):
    """Trains on the data that only this device has."""

    @abstractmethod
    def num_samples(self) -> int:
        """How many samples are at hand now; 0 if training makes no sense yet.

        Called from the network's thread, also while `train` runs, so it must be quick.
        """

    @abstractmethod
    def train(self, assignment: Assignment) -> Trained:
        """Train, for as long as it takes: it runs in a thread of its own.

        Raise TrainingError if there can be no result, ConfigError if this plan can have none here:
        then it is not tried again. The device's telemetry has the text of either.
        """


class NumpyTrainer(Trainer):
    """Trains the plan's model with the SDK's own engine.

    ``data`` is a pair of arrays (x, y), memory-mapped if they are large; or something that gives
    such pairs, block by block, each time it is iterated over; or a function that returns such a
    thing. Only one block is in memory at a time. ``model_spec`` replaces the plan's model; its
    params must have the same layout. ``num_samples`` says how much there is where ``data`` cannot:
    else it counts as just enough (`MIN_SAMPLES`) until a training has passed over it.
    ``memory_budget_bytes`` bounds what the engine holds (`device_sdk.engine.plan`): it then takes
    batches in parts. None: the assignment's budget, which comes from device.toml.
    Raises ConfigError for a wrong spec.
    """

    def __init__(
        self,
        model_spec: Mapping[str, object] | None = None,
        *,
        data: "Data",
        num_samples: int | None = None,
        memory_budget_bytes: int | None = None,
    ) -> None:
        # A device whose trainer is its own loads no engine.
        from device_sdk.engine import Model, parse_spec  # noqa: PLC0415
        from device_sdk.engine.data import as_blocks  # noqa: PLC0415

        self._model = None if model_spec is None else Model(parse_spec(model_spec))
        self._blocks = as_blocks(data)
        self._told = num_samples
        self._seen = MIN_SAMPLES
        self._budget_bytes = memory_budget_bytes

    def num_samples(self) -> int:
        """Samples at hand, as far as that is known."""
        known = self._blocks.num_samples if self._told is None else self._told
        return self._seen if known is None else known

    def train(self, assignment: Assignment) -> Trained:
        """Train from the assignment's params.

        Metrics: ``loss`` (mean over the last pass), ``num_steps``, and ``skipped_steps``, in which
        some number was not finite. Raises ConfigError for a plan
        that does not hold a good model spec and settings or does not fit into the memory budget,
        TrainingError as `fit` does.
        """
        from device_sdk.engine import Model, TrainingSettings, fit, parse_spec  # noqa: PLC0415

        settings = build(TrainingSettings, assignment.training, "training")
        model = self._model or Model(parse_spec(assignment.model))
        params = assignment.params.copy()
        own_budget = self._budget_bytes
        fitted = fit(
            model,
            params,
            self._blocks,
            settings,
            assignment.seed,
            base=assignment.params,
            budget_bytes=assignment.memory_budget_bytes if own_budget is None else own_budget,
            pause=assignment.pause,
        )
        self._seen = fitted.num_samples
        metrics = {
            "loss": fitted.loss,
            "num_steps": float(fitted.num_steps),
            "skipped_steps": float(fitted.num_skipped),
        }
        return Trained(params, fitted.num_samples, metrics)
