"""Masked updates before their sum is asked for: those that wait, and the open buffers.

An update waits until enough holders hold the shares of its mask, and until there is a buffer that
can take it: of its cohort, its epoch and its support, and held by those that hold all the others.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

from aggregator.buffers import Fill, Outcome
from aggregator.cohorts import Cohort
from aggregator.masked_buffer import MaskedBuffer, Waiting
from aggregator.supports import Supports
from protocol import refusals


class OpenBuffers:
    """What is given up here is put among ``done``."""

    def __init__(self, supports: Supports, done: deque[Outcome]) -> None:
        self._supports = supports
        self._done = done
        self._buffers: list[MaskedBuffer] = []
        self._waiting: list[Waiting] = []
        self._opened_at: float | None = None

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(buffer.ids) for buffer in self._buffers)

    @property
    def buffers(self) -> Sequence[MaskedBuffer]:
        """Those that have something in them."""
        return self._buffers

    @property
    def fills(self) -> Sequence[Fill]:
        """Every open buffer; without one, that which the next update would go to."""
        return [buffer.fill for buffer in self._buffers] or [Fill(0, 0, self._opened_at)]

    @property
    def num_waiting(self) -> int:
        """How many updates wait for shares, or for a buffer that can take them."""
        return len(self._waiting)

    def holds_of(self, cohort: Cohort) -> bool:
        """Whether anything here is of this cohort."""
        is_in_buffer = any(buffer.cohort is cohort for buffer in self._buffers)
        return is_in_buffer or any(waiting.cohort is cohort for waiting in self._waiting)

    # --- in ------------------------------------------------------------------------------------

    def open(self, now: float) -> None:
        """Begin, before the first update."""
        if self._opened_at is None:
            self._opened_at = now

    def add(self, waiting: Waiting, now: float) -> None:
        """Take an update, into a buffer as soon as one can hold it."""
        self._waiting.append(waiting)
        self.fill(now)

    def fill(self, now: float) -> None:
        """Move into buffers what they can take, in the order of arrival."""
        for first, second in combinations(self._buffers, 2):
            if first in self._buffers and second in self._buffers and first.can_join(second):
                first.join(second)
                self._buffers.remove(second)
        self._waiting = [each for each in self._waiting if not self._enter(each, now)]

    def _enter(self, waiting: Waiting, now: float) -> bool:
        """Add an update to its buffer, if so many hold all its masks as must answer."""
        cohort, update = waiting.cohort, waiting.update
        holders = cohort.book.holders(waiting.dealer, update.counter)
        if len(holders) < cohort.roster.parameters.num_answers:
            return False
        buffers = [each for each in self._buffers if each.is_for(waiting)]
        buffer = next((each for each in buffers if each.takes(waiting, holders)), None)
        if buffer is None:
            if not all(each.has_room(waiting) for each in buffers):
                return False
            # Others hold what is in those: updates of which too few hold all must not mix.
            opened_at = now if self._opened_at is None else self._opened_at
            buffer = MaskedBuffer(cohort, update.support, opened_at)
            self._buffers.append(buffer)
        buffer.add(waiting)
        return True

    # --- out -----------------------------------------------------------------------------------

    def due(self, is_due: Callable[[Fill], bool], now: float) -> list[MaskedBuffer]:
        """Return those that are full, or whose epoch is so near its end that they get no fuller."""
        return [
            each
            for each in self._buffers
            if each.has_enough and (is_due(each.fill) or now >= each.cohort.closes_at)
        ]

    def next_close(self) -> list[float]:
        """Return when buffers that have enough close at the latest, for the end of their epochs."""
        return [each.cohort.closes_at for each in self._buffers if each.has_enough]

    def take(self, buffer: MaskedBuffer) -> None:
        """Take a buffer out: its sum is asked for."""
        self._buffers.remove(buffer)
        self._opened_at = None

    def named(self, cohort: Cohort, masks: Mapping[int, int]) -> list[Waiting]:
        """Take out those that wait and that a request of this cohort has named."""
        chosen = [each for each in self._waiting if each.is_named(cohort, masks)]
        self._waiting = [each for each in self._waiting if each not in chosen]
        return chosen

    # --- what is given up ------------------------------------------------------------------------

    def drop_stale(self, oldest: int) -> list[MaskedBuffer]:
        """Give up what is of older supports, or waits and is of a version before ``oldest``.

        Buffers of older supports that have enough are returned: they can be summed.
        """
        outdated = [each for each in self._buffers if not self._supports.is_taken(each.support)]
        for buffer in outdated:
            if not buffer.has_enough:
                self._buffers.remove(buffer)
                buffer.settle()
                self._done.append(Outcome(tuple(buffer.ids), None, refusals.STALE_SUPPORT))
        old_support = [each for each in self._waiting if not self._is_taken(each)]
        self.lose(old_support, refusals.STALE_SUPPORT)
        late = [each for each in self._waiting if each.update.base_version < oldest]
        self.lose(late, refusals.TOO_STALE)
        return [buffer for buffer in outdated if buffer.has_enough]

    def _is_taken(self, waiting: Waiting) -> bool:
        return self._supports.is_taken(waiting.update.support)

    def lose(self, lost: Iterable[Waiting], reason: str) -> None:
        """Give up updates that wait, or could not go on waiting."""
        gone = list(lost)
        if not gone:
            return
        self._waiting = [each for each in self._waiting if each not in gone]
        for each in gone:
            each.settle()
        self._done.append(Outcome(tuple(each.lease_id for each in gone), None, reason))

    def end(self, cohort: Cohort) -> None:
        """An epoch is over: what has no sum yet never gets one."""
        for buffer in [each for each in self._buffers if each.cohort is cohort]:
            self._done.append(Outcome(tuple(buffer.ids), None, refusals.RECOVERY_FAILED))
            self._buffers.remove(buffer)
        lost = [waiting for waiting in self._waiting if waiting.cohort is cohort]
        self.lose(lost, refusals.RECOVERY_FAILED)
