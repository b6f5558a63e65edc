"""What `Device.predict` answers with: a ``.tflite`` of the operator's, or the newest model.

`fedbus export` writes such a file, at best once a version has proven itself. A device that has one,
and a TensorFlow Lite that works, predicts by it. Any other predicts with the engine it trains with,
by the params that came with its last lease.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_sdk.engine import Model, parse_spec
from device_sdk.features import FeatureTrainer
from device_sdk.runtimes import RuntimeMissingError, TfliteModel, find_runtime
from device_sdk.trainer import Assignment, Trainer

Float32 = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)


class NoModelError(Exception):
    """There is nothing to predict with yet."""


@dataclass(frozen=True, slots=True)
class _Newest:
    model: Model
    spec: Mapping[str, object]
    params: Float32

    def predict(self, x: npt.ArrayLike) -> Float32:
        return self.model.predict(self.params, x).astype(np.float32, copy=False)


class Inference:
    """Predicts for one device; `adopt` and `predict` may be called from different threads.

    ``trainer`` tells what stands before the model, as a feature extractor. ``file``, if any, is
    the ``.tflite``: of the whole way from samples to outputs, or, below an extractor, of the head.
    Raises ConfigError for a file that cannot be used; without a runtime, says so in the log.
    """

    def __init__(self, trainer: Trainer, file: Path | None = None) -> None:
        self._extractor = trainer if isinstance(trainer, FeatureTrainer) else None
        self._file = None if file is None else _load(file)
        self._newest: _Newest | None = None

    def adopt(self, assignment: Assignment) -> None:
        """Predict with these params from now on, where the engine does."""
        newest = self._newest
        if newest is None or newest.spec != assignment.model:
            model = Model(parse_spec(assignment.model))
        else:
            model = newest.model
        self._newest = _Newest(model, assignment.model, assignment.params)

    def predict(self, x: npt.ArrayLike) -> Float32:
        """Return the model's outputs (logits, before any softmax) for samples ``x``, (n, ...).

        Raises NoModelError before the first lease, TrainingError for samples that do not fit.
        """
        predictor = self._file or self._newest
        if predictor is None:
            raise NoModelError("no model yet: the first comes with a lease")
        return predictor.predict(x if self._extractor is None else self._extractor.prepare(x))


def _load(file: Path) -> TfliteModel | None:
    try:
        return find_runtime().load(file)
    except RuntimeMissingError as error:
        _log.warning("%s is not used, the engine predicts instead: %s", file, error)
        return None
