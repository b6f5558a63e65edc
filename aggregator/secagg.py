"""The aggregator's part in secure aggregation: masked buffers, and the sums that come of them.

It learns sums over enough devices and nothing else (docs/threat-model.md). An update's way::

    arrives ──► journalled ──► waits until enough holders hold its shares
                                   └──► open buffer ──► closed: the request is stored, then sent
                                                            ├──► recovered: one Outcome
                                                            └──► epoch over: abandoned, durably

Where rosters have groups (`protocol.secagg.groups`) a closed buffer has a request for each of them.

A buffer holds one cohort, one mask epoch and one support, and of each device one mask. What is
here is rebuilt from the journal and the stored requests; who holds which shares is said again.
Sans-IO: the time is an argument.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import numpy as np

from aggregator.actions import Action, Store
from aggregator.admission import check_staleness
from aggregator.buffers import Fill, Outcome, SecureMessage
from aggregator.cohorts import Cohort, Cohorts
from aggregator.leases import Lease
from aggregator.masked_buffer import MaskedBuffer, Part, Waiting
from aggregator.open_buffers import OpenBuffers
from aggregator.publication import Publication
from aggregator.records import DocumentRecord
from aggregator.recoveries import REQUEST, Recoveries, document
from aggregator.recovery import Recovery
from aggregator.secure_config import Enrolment
from aggregator.share_desk import ShareDesk
from aggregator.strategy import Float32
from aggregator.supports import Supports
from aggregator.task_config import TaskConfig
from protocol import refusals
from protocol.codec import unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.secagg.messages import (
    Dealt,
    Holdings,
    MaskedUpdate,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    RoundSaid,
    SignedRoster,
)
from protocol.secagg.requests import Asked, make_request, open_request, request_hash

#: How often it is noted how long an epoch has lasted, when nothing else happens.
TICK_S: Final = 10.0

#: A closed buffer: its cohort, and the dealer and counter of each of its masks.
_Closed = tuple[Cohort, frozenset[tuple[int, int]]]


class SecureBuffers:
    """Masked buffers of one task; a `aggregator.buffers.Buffers`.

    ``counts`` and ``alert`` (who, reason, detail) are where it is counted and shown what went
    wrong; ``is_online`` says whether a device is.
    """

    said = (Dealt, Holdings, RecoveryAnswer, RecoveryRefusal)

    def __init__(
        self,
        task: TaskConfig,
        enrolment: Enrolment,
        *,
        publication: Publication,
        supports: Supports,
        cohorts: Cohorts,
        counts: Counter[str],
        alert: Callable[[str, str, str], None],
        is_online: Callable[[str], bool],
    ) -> None:
        self.cohorts = cohorts
        self.supports = supports
        self._done: deque[Outcome] = deque()
        self.recoveries = Recoveries(
            publication,
            supports,
            self._done,
            task.robust,
            counts=counts,
            alert=alert,
            is_online=is_online,
        )
        self._task = task
        self._config = enrolment.config
        self._secret = enrolment.secret
        self._publication = publication
        self._alert = alert
        self._desk = ShareDesk(cohorts, publication, is_online)
        self._is_online = is_online
        self._buffers = OpenBuffers(supports, self._done)
        self._ticked_at = 0.0
        self._restoring = True

    # --- what the coordinator asks of buffers --------------------------------------------------

    def __len__(self) -> int:
        return len(self._buffers) + self.recoveries.num_updates

    @property
    def fill(self) -> Fill:
        """The open buffer with the most updates."""
        return max(self.fills, key=lambda fill: fill.num_updates)

    @property
    def fills(self) -> Sequence[Fill]:
        """Every open buffer; without one, that which the next update would go to."""
        return self._buffers.fills

    def holds_up(self, now: float) -> bool:
        """Whether a sum may soon be there: after a round's deadline nobody waits for it."""
        patience_s = self._task.rounds.deadline_s
        return any(now < each.closed_at + patience_s for each in self.recoveries)

    def waiting_for(self) -> str:
        """Return, for a person, what a closed buffer waits for while no other fills."""
        waits = self.recoveries and not self.fill.num_updates
        return "answers of mask holders" if waits else ""

    @property
    def buffers(self) -> Iterable[MaskedBuffer]:
        """The open buffers."""
        return self._buffers.buffers

    @property
    def num_waiting(self) -> int:
        """How many updates wait for shares, or for a buffer that can take them."""
        return self._buffers.num_waiting

    def open(self, now: float) -> None:
        """Begin, before the first update."""
        self._buffers.open(now)

    def take(self, lease: Lease, data: bytes, version: int, now: float) -> None:
        """Check a masked update and take it, into a buffer as soon as one can hold it.

        Raises RemoteProtocolError: ``malformed``, ``too_stale``, ``wrong_base``, ``wrong_roster``
        (also between two epochs: the device keeps its delta), ``stale_support`` or ``mask_used``;
        of one from the journal, when the epoch has ended meanwhile, ``recovery_failed``.
        """
        update = unpack(data, MaskedUpdate)
        if not self._restoring:  # what is in the journal was in time when it came
            check_staleness(update.base_version, version, self._task.staleness_limit)
            if not self.supports.is_taken(update.support):
                raise RemoteProtocolError(refusals.STALE_SUPPORT, f"support {update.support}")
        if update.base_version != lease.record.version:
            raise RemoteProtocolError(refusals.WRONG_BASE, f"leased {lease.record.version}")
        cohort, dealer = self._place(lease.record.device, update.roster_hash)
        if cohort.book.is_used(dealer, update.counter):
            raise RemoteProtocolError(refusals.MASK_USED, f"mask {update.counter}")
        parameters = cohort.roster.parameters
        cohort.scheme.add(parameters, np.zeros(parameters.size, np.int64), update.body)
        cohort.book.used(dealer, update.counter)
        self._buffers.add(Waiting(lease.lease_id, cohort, dealer, update), now)

    def _place(self, device: str, roster_hash: bytes) -> tuple[Cohort, int]:
        place = self.cohorts.place(device)
        if place is not None and place.cohort.roster.hash == roster_hash:
            return place.cohort, place.index
        # Its epoch is over, and another one may not have begun: the device keeps its delta.
        reason = refusals.RECOVERY_FAILED if self._restoring else refusals.WRONG_ROSTER
        raise RemoteProtocolError(reason, refusals.MEANING[reason])

    def close(self, is_due: Callable[[Fill], bool], now: float) -> list[Action]:
        """Close what is due: the request for its masks is stored, then sent. End what is over."""
        actions: list[Action] = []
        while due := self._buffers.due(is_due, now):
            for buffer in due:
                actions += self._close(buffer, now)
            self._buffers.fill(now)
        for cohort in self.cohorts:
            if now >= cohort.ends_at or (cohort.next is not None and self._is_idle(cohort)):
                actions += self._end(cohort, now)
        return actions

    def outcomes(self) -> list[Outcome]:
        """Take what is done."""
        done = list(self._done)
        self._done.clear()
        return done

    # --- what it says and hears beside ---------------------------------------------------------

    def restore(self, documents: Mapping[str, bytes], version: int, now: float) -> list[Action]:
        """Put the closed buffers together again, after their updates were replayed."""
        actions = self.supports.start()
        actions += self._restore_requests(documents, now)
        self._restoring = False
        self._ticked_at = now
        return [*actions, *self._drop_stale(version, now)]

    def connected(self) -> list[Action]:
        """Return what is retained: rosters and the support."""
        return [
            *self.cohorts.publish(self._publication),
            *self.supports.publish(self._publication),
        ]

    def offer(self, signed: SignedRoster, now: float) -> list[Action]:
        """Take a roster from the operator. Raises as `Cohorts.offer`."""
        return [*self.cohorts.offer(signed, now), *self.cohorts.publish(self._publication)]

    def is_ready(self, device: str, now: float) -> bool:
        """Whether a device may train: its epoch is open, and its next mask is ripe."""
        place = self.cohorts.place(device)
        return (
            place is not None
            and now < place.cohort.drains_at
            and place.index not in place.cohort.excluded
            and place.cohort.book.is_ready(place.index)
        )

    def standing(self, device: str) -> str:
        """Return why a device cannot take part in this epoch; empty: it can."""
        place = self.cohorts.place(device)
        if place is None:
            return refusals.NOT_ENROLLED
        return refusals.EXCLUDED if place.index in place.cohort.excluded else ""

    def presence(self, device: str, now: float) -> list[Action]:
        """A device came or went; one that came is asked for what is missing."""
        place = self.cohorts.place(device)
        if place is None:
            return []
        if self._is_online(device):
            self.recoveries.returned(place.cohort, place.index)
        return self.recoveries.advance(now)

    def message(
        self, device: str, message: SecureMessage, identity: bytes, now: float
    ) -> list[Action]:
        """A dealer or holder says something, signed by ``identity``.

        Raises RemoteProtocolError: ``not_enrolled``, ``bad_signature``, ``wrong_roster``,
        ``malformed``, ``wrong_kind``.
        """
        if isinstance(message, RoundSaid):
            raise RemoteProtocolError(refusals.WRONG_KIND, "of a scheme that works in rounds")
        place = self.cohorts.place(device)
        if place is None:
            raise RemoteProtocolError(refusals.NOT_ENROLLED, refusals.MEANING["not_enrolled"])
        cohort, index = place.cohort, place.index
        place.check_identity(identity)
        if isinstance(message, RecoveryAnswer | RecoveryRefusal):
            self.recoveries.answered(cohort, index, message, now)
            return self.recoveries.advance(now)
        if message.roster_hash != cohort.roster.hash:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "said under another roster")
        if isinstance(message, Dealt):
            self._desk.dealt(cohort, index, message, now)
            actions = []
        else:
            actions = self._desk.held(cohort, index, message)
            self.recoveries.held(cohort, index)
        self._buffers.fill(now)
        return [*actions, *self.recoveries.advance(now)]

    def stepped(self, version: int, params: Float32, now: float) -> list[Action]:
        """There is a new version: with a new support, the buffers of the last but one end."""
        in_use = {each.support for each in (*self.recoveries, *self._buffers.buffers)}
        actions = self.supports.stepped(version, params, self._publication, in_use)
        return [*actions, *self._drop_stale(version, now)]

    def timer(self, now: float) -> list[Action]:
        """Time passed: holders are asked again, and dealers whose shares did not arrive."""
        self._ticked_at = now
        self.cohorts.tick(now)
        return [*self._desk.timer(now), *self.recoveries.advance(now)]

    def timer_at(self) -> float:
        """Return when `timer` should be called next."""
        cohorts = list(self.cohorts)
        if not cohorts:
            return math.inf
        times = [self._ticked_at + TICK_S]
        times += [self.recoveries.next_deadline(), self._desk.timer_at()]
        times += [cohort.ends_at for cohort in cohorts]
        times += self._buffers.next_close()
        return min(times)

    # --- closing -------------------------------------------------------------------------------

    def _close(self, buffer: MaskedBuffer, now: float) -> list[Action]:
        self._buffers.take(buffer)
        roster = buffer.cohort.roster
        recoveries = [
            self._recovery(
                buffer,
                part,
                make_request(roster, buffer.masks, self._secret, group=part.number),
                buffer.cohort.book.holders_of(part.masks),
                now,
            )
            for part in buffer.parts()
        ]
        return self.recoveries.begin(recoveries, now)

    def _recovery(
        self,
        buffer: MaskedBuffer,
        part: Part,
        request: RecoveryRequest,
        holders: frozenset[int],
        now: float,
    ) -> Recovery:
        book = buffer.cohort.book
        all_tested = all(book.was_tested(*mask) for mask in part.masks.items())
        return Recovery(
            cohort=buffer.cohort,
            request=request,
            ids=part.ids,
            masks=part.masks,
            support=buffer.support,
            total=part.total,
            holders=holders,
            tested=holders if all_tested else frozenset(),
            closed_at=now,
            spare_wait_s=self._config.spare_wait_s,
        )

    def _restore_requests(self, documents: Mapping[str, bytes], now: float) -> list[Action]:
        """Make closed buffers again of the updates that stored requests name.

        What cannot be put together again must not enter another request: it is given up.
        """
        actions: list[Action] = []
        closed: dict[_Closed, dict[int, RecoveryRequest]] = {}
        for key, data in documents.items():
            if not key.startswith(REQUEST):
                continue
            request = unpack(data, RecoveryRequest)
            opened = self._opened(request)
            if opened is None:
                actions.append(Store(DocumentRecord(key, b"")))
                continue
            cohort, asked = opened
            closed.setdefault((cohort, frozenset(asked.buffer.items())), {})[asked.group] = request
        for (cohort, masks), requests in closed.items():
            actions += self._restore_buffer(cohort, dict(masks), requests, now)
        return actions

    def _opened(self, request: RecoveryRequest) -> tuple[Cohort, Asked] | None:
        for cohort in self.cohorts:
            with suppress(RemoteProtocolError):
                return cohort, open_request(request, cohort.roster)
        return None

    def _restore_buffer(
        self,
        cohort: Cohort,
        masks: Mapping[int, int],
        requests: Mapping[int, RecoveryRequest],
        now: float,
    ) -> list[Action]:
        chosen = self._buffers.named(cohort, masks)
        if len(chosen) == len(masks):
            buffer = MaskedBuffer(cohort, chosen[0].update.support, now)
            for waiting in chosen:
                buffer.add(waiting)
            parts = buffer.parts()
            if requests.keys() == {part.number for part in parts}:
                # Who holds what is not known yet: everybody is asked.
                everybody = frozenset(range(len(cohort.roster.members))) - cohort.excluded
                self.recoveries.resume(
                    [
                        self._recovery(buffer, part, requests[part.number], everybody, now)
                        for part in parts
                    ]
                )
                return []
        self._buffers.lose(chosen, refusals.RECOVERY_FAILED)
        return [
            Store(DocumentRecord(document(request_hash(each)), b"")) for each in requests.values()
        ]

    def _drop_stale(self, version: int, now: float) -> list[Action]:
        """Sum what is left of older supports, if that is enough of them; else give it up."""
        enough = self._buffers.drop_stale(version - self._task.staleness_limit)
        return [action for buffer in enough for action in self._close(buffer, now)]

    # --- epochs --------------------------------------------------------------------------------

    def _is_idle(self, cohort: Cohort) -> bool:
        recovering = any(each.cohort is cohort for each in self.recoveries)
        return not recovering and not self._buffers.holds_of(cohort)

    def _end(self, cohort: Cohort, now: float) -> list[Action]:
        """An epoch is over: what has no sum yet never gets one."""
        actions = self.recoveries.abandon(cohort)
        self._buffers.end(cohort)
        actions += self.cohorts.end(cohort)
        try:
            actions += self.cohorts.follow(cohort, now)
        except (ConfigError, RemoteProtocolError) as error:
            self._alert(f"cohort {cohort.roster.cohort}", refusals.WRONG_ROSTER, str(error))
        return [*actions, *self.cohorts.publish(self._publication)]
