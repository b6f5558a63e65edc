"""The one training thread: assignments in, results out, never on the network loop."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from device_sdk.actions import Train
from device_sdk.pacing import Abandoned, Pace
from device_sdk.trainer import Trained, Trainer, TrainingError
from protocol.errors import ConfigError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one lease; ``trained`` is None when training failed, or was ``abandoned``."""

    lease_id: bytes
    trained: Trained | None
    abandoned: str = ""  # why
    failed: str = ""  # why
    is_plan_unfit: bool = False  # the same plan would fail again


class TrainingThread:
    """Runs a trainer, one assignment at a time; ``done`` is called (there) after each.

    The thread is a daemon: a trainer that never returns must not keep the device from leaving.
    ``pace`` decides when each step may begin; assignments name the memory budget.
    """

    def __init__(
        self,
        trainer: Trainer,
        done: Callable[[], None],
        pace: Pace | None = None,
        *,
        memory_budget_bytes: int | None = None,
    ) -> None:
        self._trainer = trainer
        self._done = done
        self._pace = pace or Pace()
        self._memory_budget_bytes = memory_budget_bytes
        self._num_open = 0
        self._todo: SimpleQueue[Train | None] = SimpleQueue()
        self._results: SimpleQueue[Result] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fedbus-training", daemon=True)
        self._thread.start()

    def train(self, train: Train) -> None:
        """Train this next."""
        self._num_open += 1
        self._todo.put(train)

    @property
    def is_busy(self) -> bool:
        """Whether there is something to train, or a result to take."""
        return self._num_open > 0

    def hold(self, reason: str) -> None:
        """Let steps wait from now on, for this reason; empty: let them go on."""
        self._pace.hold(reason)

    def results(self) -> list[Result]:
        """Return what has been finished since the last call."""
        finished = []
        while True:
            try:
                finished.append(self._results.get_nowait())
            except Empty:
                self._num_open -= len(finished)
                return finished

    def stop(self, timeout_s: float) -> None:
        """Ask the thread to end, at the next step; wait for it for a while."""
        self._pace.stop()
        self._todo.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (train := self._todo.get()) is not None:
            self._results.put(self._attempt(train))
            self._done()

    def _attempt(self, train: Train) -> Result:
        self._pace.begin(train.ends_at)
        try:
            self._pace.pause()
            assignment = replace(
                train.assignment,
                pause=self._pace.pause,
                memory_budget_bytes=self._memory_budget_bytes,
            )
            return Result(train.lease_id, _checked(self._trainer.train(assignment)))
        except Abandoned as end:
            _log.warning("training of version %d abandoned: %s", train.assignment.version, end)
            return Result(train.lease_id, None, abandoned=str(end))
        except ConfigError as error:
            _log.error("training of version %d refused: %s", train.assignment.version, error)
            return Result(train.lease_id, None, failed=str(error), is_plan_unfit=True)
        except Exception as error:  # noqa: BLE001 - a user's trainer may raise anything; the device must go on
            _log.exception("training of version %d failed", train.assignment.version)
            return Result(train.lease_id, None, failed=_reason(error))


def _reason(error: Exception) -> str:
    """Return what may leave the device: the text of other errors may hold samples."""
    return str(error) if isinstance(error, TrainingError) else type(error).__name__


def _checked(result: object) -> Trained:
    if not isinstance(result, Trained):
        raise TypeError(f"a trainer's train must return a Trained, not {type(result).__name__}")
    return result
