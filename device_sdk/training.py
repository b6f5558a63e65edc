"""The one training thread: assignments in, results out, never on the network loop."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from device_sdk.actions import Train
from device_sdk.trainer import Trained, Trainer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one lease; ``trained`` is None when training failed."""

    lease_id: bytes
    trained: Trained | None


class TrainingThread:
    """Runs a trainer, one assignment at a time; ``done`` is called (there) after each.

    The thread is a daemon: a trainer that never returns must not keep the device from leaving.
    """

    def __init__(self, trainer: Trainer, done: Callable[[], None]) -> None:
        self._trainer = trainer
        self._done = done
        self._todo: SimpleQueue[Train | None] = SimpleQueue()
        self._results: SimpleQueue[Result] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fedbus-training", daemon=True)
        self._thread.start()

    def train(self, train: Train) -> None:
        """Train this next."""
        self._todo.put(train)

    def results(self) -> list[Result]:
        """Return what has been finished since the last call."""
        finished = []
        while True:
            try:
                finished.append(self._results.get_nowait())
            except Empty:
                return finished

    def stop(self, timeout_s: float) -> None:
        """Ask the thread to end; wait for it for a while."""
        self._todo.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (train := self._todo.get()) is not None:
            self._results.put(Result(train.lease_id, self._attempt(train)))
            self._done()

    def _attempt(self, train: Train) -> Trained | None:
        try:
            return _checked(self._trainer.train(train.assignment))
        except Exception:  # noqa: BLE001 - a user's trainer may raise anything; the device must go on
            _log.exception("training of version %d failed", train.assignment.version)
            return None


def _checked(result: object) -> Trained:
    if not isinstance(result, Trained):
        raise TypeError(f"a trainer's train must return a Trained, not {type(result).__name__}")
    return result
