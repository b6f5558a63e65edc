"""Evaluation on the operator's held-out data, in a thread of its own, newest version only."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aggregator.robust.group_testing import harm
from aggregator.robust.group_watch import Candidates, Trial
from aggregator.strategy import Float32
from device_sdk.engine.data import as_blocks, load_npz
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Metrics, Model
from device_sdk.engine.statistics import measure_statistics, needs_statistics

#: Losses of groups are compared between these: their logarithms must be numbers.
LEAST_LOSS: Final = 1e-9
MOST_LOSS: Final = 1e9


class Evaluator:
    """Says how good a version is. ``done`` is called (in its thread) after each evaluation."""

    def __init__(self, model: Model, file: Path, done: Callable[[], None]) -> None:
        """Load ``x`` and ``y``. Raises ConfigError, which says what is wrong with the file."""
        self._model = model
        self._x, self._y = load_npz(file)
        self._blocks = as_blocks((self._x, self._y))
        self._done = done
        self._wanted: tuple[int, Float32] | None = None
        self._candidates: Candidates | None = None
        self._untrained: float | None = None  # the loss that there is something to learn from
        self._trials: deque[list[Trial]] = deque()
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

    def try_groups(self, candidates: Candidates) -> None:
        """Say how good each group of a step is; the groups of one that still waits are forgotten.

        `trials` has the result, after a call of ``done``.
        """
        with self._changed:
            self._candidates = candidates
            self._changed.notify()

    def trials(self) -> list[list[Trial]]:
        """Take what has come out since."""
        done = list(self._trials)
        for _ in done:
            self._trials.popleft()
        return done

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(5.0)

    def _run(self) -> None:
        while (wanted := self._next()) is not None:
            if isinstance(wanted, Candidates):
                self._trials.append(self._tried(wanted))
            else:
                self._report = self._evaluated(*wanted)
            self._done()

    def _evaluated(self, version: int, params: Float32) -> Mapping[str, Any]:
        try:
            metrics = self._metrics(params)
        except TrainingError as error:  # the model has diverged, or does not fit the data
            return {"evaluated_version": version, "error": str(error)}
        report: dict[str, Any] = {"evaluated_version": version, "loss": round(metrics.loss, 4)}
        if metrics.accuracy is not None:
            report["accuracy"] = round(metrics.accuracy, 4)
        return report

    def _tried(self, candidates: Candidates) -> list[Trial]:
        before = self._loss(candidates.params)
        if self._untrained is None:
            self._untrained = self._loss(self._model.init(bytes(32)))
        return [
            Trial(devices, harm(self._loss(params), before, self._untrained))
            for devices, params in candidates.groups
        ]

    def _loss(self, params: Float32) -> float:
        """Return the loss, or the largest that counts: a group may have no loss at all."""
        try:
            return min(max(self._metrics(params).loss, LEAST_LOSS), MOST_LOSS)
        except TrainingError:
            return MOST_LOSS

    def _metrics(self, params: Float32) -> Metrics:
        if needs_statistics(self._model.spec):
            params = measure_statistics(self._model, params, self._blocks)
        return self._model.evaluate(params, self._x, self._y)

    def _next(self) -> tuple[int, Float32] | Candidates | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._is_wanted)
            if self._stopping:
                return None
            if self._wanted is not None:
                wanted, self._wanted = self._wanted, None
                return wanted
            candidates, self._candidates = self._candidates, None
            return candidates

    @property
    def _is_wanted(self) -> bool:
        return self._wanted is not None or self._candidates is not None
