"""One call from a spec and params to a file's bytes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.export.lower import lower
from aggregator.export.quantise import quantise
from aggregator.export.simplify import simplify
from aggregator.export.writer import write
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Model


@dataclass(frozen=True, slots=True)
class Calibration:
    """Representative samples for int8, (n, *input shape): a hundred or more, of all kinds.

    With ``float_borders`` the file still takes and returns float32, rounding inside; without,
    it takes and returns int8, as microcontrollers and accelerators want it.
    """

    samples: npt.NDArray[np.generic]
    float_borders: bool = True


def export(
    model: Model,
    params: npt.NDArray[np.float32],
    *,
    calibration: Calibration | None = None,
    description: str = "",
) -> bytes:
    """Return a ``.tflite`` that predicts as ``model`` does with ``params``: logits, no softmax.

    float32, or full-integer int8 with ``calibration``. Raises TrainingError for params or samples
    that do not fit the model.
    """
    model.check_params(params)
    graph = lower(model.spec, params, for_integers=calibration is not None)
    simplify(graph)
    if calibration is not None:
        _check_samples(model, calibration.samples)
        quantise(graph, calibration.samples, float_borders=calibration.float_borders)
    return write(graph, description)


def _check_samples(model: Model, samples: npt.NDArray[np.generic]) -> None:
    model.check_inputs(samples)
    if not len(samples):
        raise TrainingError("no samples for the calibration")
    if not np.isfinite(samples.astype(np.float64)).all():
        raise TrainingError("the calibration's samples must be finite numbers")
