"""All closed buffers whose sums are under way: who is asked, who answered, who lied.

Each has a request for every group that is stored before it is sent (`aggregator.recovery` follows
one of them to its sum), and is kept until the whole buffer is done: after a crash the same is
asked. None blocks another. Sans-IO: the time is an argument.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from aggregator.actions import Action, Store
from aggregator.buffers import Outcome
from aggregator.closed_buffer import ClosedBuffer
from aggregator.cohorts import Cohort
from aggregator.publication import Publication
from aggregator.records import DocumentRecord
from aggregator.recovery import Recovery
from aggregator.robust.config import RobustConfig
from aggregator.supports import Supports
from protocol import refusals
from protocol.codec import pack
from protocol.secagg.messages import RecoveryAnswer, RecoveryRefusal
from protocol.secagg.shares import RecoveryError

#: Before the names of stored requests.
REQUEST = "request/"


class Recoveries:
    """The recoveries of one task; what becomes of each is appended to ``done``.

    ``counts`` and ``alert`` (who, reason, detail) are where it is counted and shown what went
    wrong; ``is_online`` says whether a device is. ``robust`` makes a step of group means.
    """

    def __init__(
        self,
        publication: Publication,
        supports: Supports,
        done: deque[Outcome],
        robust: RobustConfig,
        *,
        counts: Counter[str],
        alert: Callable[[str, str, str], None],
        is_online: Callable[[str], bool],
    ) -> None:
        self._publication = publication
        self._supports = supports
        self._done = done
        self._robust = robust
        self._counts = counts
        self._alert = alert
        self._is_online = is_online
        self._closed: list[ClosedBuffer] = []

    def __iter__(self) -> Iterator[Recovery]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def _open(self) -> list[Recovery]:
        return [recovery for closed in self._closed for recovery in closed.open]

    @property
    def num_updates(self) -> int:
        """How many updates are in closed buffers."""
        return sum(closed.num_updates for closed in self._closed)

    def begin(self, recoveries: Sequence[Recovery], now: float) -> list[Action]:
        """Store the requests for all groups of a buffer, then send them."""
        self._counts["recoveries"] += len(recoveries)
        self._closed.append(ClosedBuffer(recoveries))
        stored: list[Action] = [
            Store(DocumentRecord(document(each.request_hash), pack(each.request)))
            for each in recoveries
        ]
        return [*stored, *(action for each in recoveries for action in self._ask(each, now))]

    def resume(self, recoveries: Sequence[Recovery]) -> None:
        """Go on with a closed buffer whose requests are stored."""
        self._closed.append(ClosedBuffer(recoveries))

    def returned(self, cohort: Cohort, holder: int) -> None:
        """A holder has come back: it is asked without waiting."""
        for recovery in self._open:
            if recovery.cohort is cohort:
                recovery.ask_again(holder)

    def held(self, cohort: Cohort, holder: int) -> None:
        """A holder has said what it holds: some of it may have come after a request was sent."""
        for recovery in self._open:
            masks = recovery.masks.items()
            if recovery.cohort is cohort and all(
                holder in cohort.book.holders(*mask) for mask in masks
            ):
                recovery.holds(holder)

    def answered(
        self, cohort: Cohort, holder: int, message: RecoveryAnswer | RecoveryRefusal, now: float
    ) -> None:
        """A holder answers, or says why it does not.

        Raises RemoteProtocolError (``malformed``) for an answer of another length.
        """
        if holder in cohort.excluded:
            return
        for recovery in self._open:
            if recovery.request_hash != message.request_hash or recovery.cohort is not cohort:
                continue
            if isinstance(message, RecoveryAnswer):
                recovery.answer(holder, message.elements, now)
            elif recovery.refuse(holder, message.reason):
                self._counts["answers_refused"] += 1
                name = cohort.roster.members[holder].device
                self._alert(name, message.reason, f"does not answer: {message.detail}")

    def advance(self, now: float) -> list[Action]:
        """Decode what can be decoded, give up what cannot be, ask whoever is to be asked."""
        actions: list[Action] = []
        for recovery in self:
            if recovery.is_ready(self._present(recovery), now):
                actions += self._decode(recovery)
            elif recovery.hopeless:
                actions += self._give_up(recovery)
        for recovery in self:
            actions += self._ask(recovery, now)
        return actions

    def abandon(self, cohort: Cohort) -> list[Action]:
        """An epoch is over: what has no sum yet never gets one."""
        over = [recovery for recovery in self if recovery.cohort is cohort]
        return [action for recovery in over for action in self._give_up(recovery)]

    def next_deadline(self) -> float:
        """Return when `advance` should be called next without a message."""
        times = (recovery.next_deadline(self._present(recovery)) for recovery in self._open)
        return min(times, default=math.inf)

    def _ask(self, recovery: Recovery, now: float) -> list[Action]:
        members = recovery.roster.members
        return [
            self._publication.to_device(members[holder].device, recovery.request)
            for holder in recovery.to_ask(self._present(recovery), now)
        ]

    def _decode(self, recovery: Recovery) -> list[Action]:
        try:
            sums = recovery.unmask(self._supports.named(recovery.support))
        except RecoveryError as error:
            self._counts["recoveries_inconsistent"] += 1
            self._alert("recovery", refusals.RECOVERY_FAILED, str(error))
            if not recovery.num_possible:
                return self._give_up(recovery)
            recovery.wait_for_more()
            return []
        actions = self._blame(recovery)
        closed = self._buffer_of(recovery)
        closed.recovered(recovery, sums)
        return [*actions, *self._finish(recovery, closed)]

    def _blame(self, recovery: Recovery) -> list[Action]:
        """Exclude who is proven to have answered wrong; else only say that somebody did."""
        if recovery.liars and not recovery.proven_liars:
            self._counts["recoveries_inconsistent"] += 1
            self._alert("recovery", refusals.RECOVERY_FAILED, "answers were inconsistent")
        return [
            action for liar in recovery.proven_liars for action in self._exclude(recovery, liar)
        ]

    def _exclude(self, recovery: Recovery, liar: int) -> list[Action]:
        cohort = recovery.cohort
        self._counts["holders_excluded"] += 1
        name = cohort.roster.members[liar].device
        self._alert(name, refusals.EXCLUDED, "a wrong share in a recovery")
        for other in self._open:
            if other is not recovery and other.cohort is cohort:
                other.exclude(liar)
        return [cohort.exclude(liar)]

    def _give_up(self, recovery: Recovery) -> list[Action]:
        self._counts["recoveries_failed"] += 1
        closed = self._buffer_of(recovery)
        closed.given_up(recovery)
        return self._finish(recovery, closed)

    def _buffer_of(self, recovery: Recovery) -> ClosedBuffer:
        return next(closed for closed in self._closed if recovery in closed.recoveries)

    def _finish(self, recovery: Recovery, closed: ClosedBuffer) -> list[Action]:
        """A group is over; with the last one its buffer is, and no request is needed any more."""
        recovery.cohort.book.settled(recovery.masks.items())
        if closed.open:
            return []
        self._closed.remove(closed)
        self._done += closed.outcomes(
            self._robust, lambda mean: self._supports.spread(mean, recovery.support)
        )
        return [
            Store(DocumentRecord(document(each.request_hash), b"")) for each in closed.recoveries
        ]

    def _present(self, recovery: Recovery) -> frozenset[int]:
        """Return the members that are online."""
        members = enumerate(recovery.roster.members)
        return frozenset(index for index, member in members if self._is_online(member.device))


def document(request_hash: bytes) -> str:
    """Return the key of a stored request."""
    return REQUEST + request_hash.hex()
