"""Virtual time: a clock that jumps from one event to the next."""

import heapq
import math
from collections.abc import Callable


def _nothing() -> None:
    """What is done in place of what was cancelled."""


class Scheduled:
    """Something that will happen at ``at`` (virtual seconds), unless it is cancelled before."""

    __slots__ = ("_action", "at", "waiting")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        #: It has neither happened nor been cancelled.
        self.waiting = True
        self._action = action

    def cancel(self) -> None:
        """Let it not happen; nothing if it has happened already."""
        self.waiting = False
        self._action = _nothing

    def happen(self) -> None:
        """Let it happen, once."""
        action, self._action = self._action, _nothing
        self.waiting = False
        action()


class EventQueue:
    """Events in order of time; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        #: How many have happened.
        self.num_events = 0
        self._heap: list[tuple[float, int, Scheduled]] = []
        self._num_asked = 0

    def at(self, time: float, action: Callable[[], None]) -> Scheduled:
        """Let ``action`` happen at ``time``, or now if that is past already."""
        scheduled = Scheduled(max(time, self.now), action)
        self._num_asked += 1
        heapq.heappush(self._heap, (scheduled.at, self._num_asked, scheduled))
        return scheduled

    def after(self, delay_s: float, action: Callable[[], None]) -> Scheduled:
        """Let ``action`` happen in ``delay_s`` seconds."""
        return self.at(self.now + delay_s, action)

    def next_at(self) -> float:
        """Return when the next event happens; infinity for never."""
        heap = self._heap
        while heap and not heap[0][2].waiting:
            heapq.heappop(heap)
        return heap[0][0] if heap else math.inf

    def step(self) -> None:
        """Go on to the next event and let it happen; nothing if there is none."""
        self._step_until(math.inf)

    def run_until(self, time: float) -> None:
        """Let everything happen up to ``time``, and make that the present."""
        while self._step_until(time):
            pass
        self.now = max(self.now, time)

    def run_while(self, condition: Callable[[], bool], until: float) -> bool:
        """Go on while ``condition()``; return whether it ended before the time ``until``."""
        while condition():
            if not self._step_until(until):
                self.now = max(self.now, until)
                return False
        return True

    def _step_until(self, time: float) -> bool:
        """Let the next event happen if it is not later; return whether there was one."""
        heap = self._heap
        while heap and heap[0][0] <= time:
            at, _, scheduled = heapq.heappop(heap)
            if scheduled.waiting:
                self.now = at
                self.num_events += 1
                scheduled.happen()
                return True
        return False
