"""Virtual time: a clock that jumps from one event to the next."""

import heapq
import math
from collections.abc import Callable


class Scheduled:
    """Something that will happen at ``at`` (virtual seconds), unless it is cancelled before."""

    __slots__ = ("_action", "at")

    def __init__(self, at: float, action: Callable[[], None]) -> None:
        self.at = at
        self._action: Callable[[], None] | None = action

    @property
    def waiting(self) -> bool:
        """It has neither happened nor been cancelled."""
        return self._action is not None

    def cancel(self) -> None:
        """Let it not happen; nothing if it has happened already."""
        self._action = None

    def happen(self) -> None:
        """Let it happen, once."""
        action, self._action = self._action, None
        if action is not None:
            action()


class EventQueue:
    """Events in order of time; those of one time in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
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
        while self._heap and not self._heap[0][2].waiting:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def step(self) -> None:
        """Go on to the next event and let it happen; nothing if there is none."""
        if self.next_at() == math.inf:
            return
        self.now, _, scheduled = heapq.heappop(self._heap)
        scheduled.happen()

    def run_until(self, time: float) -> None:
        """Let everything happen up to ``time``, and make that the present."""
        while self.next_at() <= time:
            self.step()
        self.now = max(self.now, time)

    def run_while(self, condition: Callable[[], bool], until: float) -> bool:
        """Go on while ``condition()``; return whether it ended before the time ``until``."""
        while condition():
            if self.next_at() > until:
                self.now = max(self.now, until)
                return False
            self.step()
        return True
