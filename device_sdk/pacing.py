"""What stands between two steps of training: a limit on CPU time, and a reason to wait."""

import threading
import time
from collections.abc import Callable
from typing import Final

from device_sdk.trainer import TrainingError

#: The longest wait at a time; then the clock is looked at again.
_LONGEST_S: Final = 60.0


class Abandoned(TrainingError):  # noqa: N818 - no error: it was decided so
    """Training must not go on: the device is leaving, or its lease ran out while it waited."""


class Pace:
    """Lets a training thread go on with its next step when it may.

    ``cpu_limit`` is how much CPU time the process may use while it trains, as a share of the time
    that passes: 0.5 is half of one core; 0: all it gets. After a step that took c seconds of CPU
    time (of all threads) the next one begins no sooner than c / ``cpu_limit`` after the last one
    did, so that over any number of whole steps the limit holds. Nothing is saved up by resting.
    `pause` is the training thread's, the rest is anybody's.
    """

    def __init__(
        self,
        cpu_limit: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.process_time,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self._cpu_limit = cpu_limit
        self._clock = clock
        self._cpu = cpu
        self._wait = wait
        self._gate = threading.Condition()
        self._reason = ""
        self._ends_at = 0.0
        self._is_over = False
        self._began = clock()
        self._spent = cpu()

    def begin(self, ends_at: float) -> None:
        """Another training begins, whose lease runs out at ``ends_at``."""
        with self._gate:
            self._ends_at = ends_at

    def hold(self, reason: str) -> None:
        """From now on steps wait, for this reason; empty: they go on."""
        with self._gate:
            self._reason = reason
            self._gate.notify_all()

    def stop(self) -> None:
        """End all training at its next step."""
        with self._gate:
            self._is_over = True
            self._gate.notify_all()

    def pause(self) -> None:
        """Return when the next step may begin.

        Raises Abandoned with the reason: after `stop`, or if the lease ran out during a `hold`.
        A lease that runs out otherwise ends nothing: its update may still be taken.
        """
        spent = self._cpu()
        rest_until = self._began
        if self._cpu_limit:
            rest_until += (spent - self._spent) / self._cpu_limit
        self._spent = spent
        with self._gate:
            while (until := self._next_look(rest_until)) > (now := self._clock()):
                self._wait(self._gate, min(until - now, _LONGEST_S))
            self._began = now

    def _next_look(self, rest_until: float) -> float:
        if self._is_over:
            raise Abandoned("leaving")
        if not self._reason:
            return rest_until
        if self._clock() >= self._ends_at:
            raise Abandoned(self._reason)
        return self._ends_at
