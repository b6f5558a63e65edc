"""Real training that takes as long as it is told to: devices of `benchmarks.fleet_real` name it."""

import json
import os
import time
from pathlib import Path
from typing import Final

import numpy as np

from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer

#: Names a JSON file: ``data`` (.npz with x, y), ``durations_s`` of one training after the other,
#: and ``log``, to which each training adds a line: when it began and ended (monotonic).
ORDERS: Final = "FEDBUS_PACED_ORDERS"


class Paced(Trainer):
    """Trains with the SDK's own engine, then waits until the training's time is over."""

    def __init__(self) -> None:
        orders = json.loads(Path(os.environ[ORDERS]).read_text(encoding="utf-8"))
        with np.load(orders["data"]) as data:
            self._trainer = NumpyTrainer(data=(data["x"], data["y"]))
        self._durations_s = iter(orders["durations_s"])
        self._log = Path(orders["log"])

    def num_samples(self) -> int:
        """Samples at hand."""
        return self._trainer.num_samples()

    def train(self, assignment: Assignment) -> Trained:
        """Train for the next of the durations."""
        begun = time.monotonic()
        trained = self._trainer.train(assignment)
        time.sleep(max(0.0, begun + next(self._durations_s) - time.monotonic()))
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{begun} {time.monotonic()}\n")
        return trained
