"""Whether a scenario's model, data and drift suit each other: of all rows, so for every seed."""

import numpy as np

from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Model
from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError
from simulator.data import Dataset
from simulator.drift import drifted
from simulator.scenario_parts import Drift


def check_rows(spec: ModelSpec, data: Dataset) -> None:
    """Check every row and every label against the model. Raises ConfigError."""
    row, shape = data.x.shape[1:], spec.input
    if row != shape and int(np.prod(row)) != int(np.prod(shape)):
        raise ConfigError(f"task.model.input: {shape}, but a row of x is {row}")
    try:
        Model(spec).check_batch(data.x.reshape(len(data.x), *shape), data.y)
    except TrainingError as error:
        raise ConfigError(f"task.model: does not fit the data: {error}") from None


def check_drift(drift: Drift, data: Dataset) -> None:
    """Refuse labels that turn where there are none, or are new and in no row or in all of them.

    Raises ConfigError, also for images to be mirrored where there are none.
    """
    try:
        num_labels = 1 if drift.kind == "mirrored" else int(data.labels.max()) + 1
        drifted(drift, data.x[:1], data.y[:1], num_labels, has_begun=True)
    except ConfigError as error:
        raise ConfigError(f"drift.kind: {error}") from None
    if drift.kind != "new_labels":
        return
    there = set(np.unique(data.labels).tolist())
    for at, label in enumerate(drift.labels):
        if label not in there:
            raise ConfigError(f"drift.labels[{at}]: no row of the data has label {label}")
    if there <= set(drift.labels):
        raise ConfigError("drift.labels: before them there would be no row; leave some labels out")
