"""Evaluation on the operator's held-out data, in a thread of its own, newest version only."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aggregator.strategy import Float32
from device_sdk.engine.data import as_blocks, load_npz
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Model
from device_sdk.engine.statistics import measure_statistics, needs_statistics


class Evaluator:
    """Says how good a version is. ``done`` is called (in its thread) after each evaluation."""

    def __init__(self, model: Model, file: Path, done: Callable[[], None]) -> None:
        """Load ``x`` and ``y``. Raises ConfigError, which says what is wrong with the file."""
        self._model = model
        self._x, self._y = load_npz(file)
        self._blocks = as_blocks((self._x, self._y))
        self._done = done
        self._wanted: tuple[int, Float32] | None = None
        self._report: Mapping[str, Any] = {}
        self._stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="fedbus-evaluation", daemon=True)
        self._thread.start()

    @property
    def report(self) -> Mapping[str, Any]:
        """The newest result: ``evaluated_version``, ``accuracy``, ``loss``, or ``error``."""
        return self._report

    def evaluate(self, version: int, params: Float32) -> None:
        """Evaluate this version next; one that was still waiting is forgotten."""
        with self._changed:
            self._wanted = (version, params)
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(5.0)

    def _run(self) -> None:
        while (wanted := self._next()) is not None:
            self._report = self._evaluated(*wanted)
            self._done()

    def _evaluated(self, version: int, params: Float32) -> Mapping[str, Any]:
        try:
            if needs_statistics(self._model.spec):
                params = measure_statistics(self._model, params, self._blocks)
            metrics = self._model.evaluate(params, self._x, self._y)
        except TrainingError as error:  # the model has diverged, or does not fit the data
            return {"evaluated_version": version, "error": str(error)}
        report: dict[str, Any] = {"evaluated_version": version, "loss": round(metrics.loss, 4)}
        if metrics.accuracy is not None:
            report["accuracy"] = round(metrics.accuracy, 4)
        return report

    def _next(self) -> tuple[int, Float32] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._wanted is not None)
            wanted, self._wanted = self._wanted, None
            return None if self._stopping else wanted
