"""The aggregator's part in secure aggregation: masked buffers, and the sums that come of them.

It learns sums over enough devices and nothing else (docs/threat-model.md). An update's way::

    arrives ──► journalled ──► waits until enough holders hold its shares
                                   └──► open buffer ──► closed: the request is stored, then sent
                                                            ├──► recovered: one Outcome
                                                            └──► epoch over: abandoned, durably

A buffer holds one cohort, one mask epoch and one support, and of each device one mask. What is
here is rebuilt from the journal and the stored requests; who holds which shares is said again.
Sans-IO: the time is an argument.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from aggregator.actions import Action, Store
from aggregator.admission import check_staleness
from aggregator.buffers import Fill, Outcome
from aggregator.cohorts import Cohort, Cohorts
from aggregator.leases import Lease
from aggregator.publication import Publication
from aggregator.records import DocumentRecord
from aggregator.recovery import Recovery
from aggregator.secure_config import Enrolment
from aggregator.strategy import Float32, Float64
from aggregator.supports import Supports
from aggregator.task_config import TaskConfig
from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import RemoteProtocolError
from protocol.messages import (
    Dealt,
    Holdings,
    MaskedUpdate,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    SharesWanted,
    SignedRoster,
)
from protocol.secagg.field import Elements
from protocol.secagg.keys import check_envelope
from protocol.secagg.requests import check_request, make_request, request_hash
from protocol.secagg.shares import RecoveryError
from protocol.vectors.layout import Layout

#: Before the names of stored requests.
REQUEST = "request/"

SecureMessage = Dealt | Holdings | RecoveryAnswer | RecoveryRefusal
SECURE_MESSAGES = (Dealt, Holdings, RecoveryAnswer, RecoveryRefusal)


@dataclass(slots=True, eq=False)
class OpenBuffer:
    """An open buffer: the running sum, whose masks are in it, and who holds all of them."""

    cohort: Cohort
    support: int
    total: Elements
    holders: frozenset[int]
    opened_at: float
    ids: list[bytes] = field(default_factory=list)
    masks: dict[int, int] = field(default_factory=dict)

    @property
    def fill(self) -> Fill:
        """How full it is: one update a device."""
        return Fill(len(self.ids), len(self.masks), self.opened_at)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An admitted update that no buffer can take yet."""

    lease_id: bytes
    cohort: Cohort
    dealer: int
    update: MaskedUpdate


class SecureBuffers:
    """Masked buffers of one task; a `aggregator.buffers.Buffers`.

    ``documents`` is what the store keeps; ``counts`` and ``say`` (device, reason, detail) are where
    refusals are counted and shown.
    """

    def __init__(
        self,
        task: TaskConfig,
        enrolment: Enrolment,
        layout: Layout,
        *,
        publication: Publication,
        supports: Supports,
        cohorts: Cohorts,
        counts: Counter[str],
        alert: Callable[[str, str, str], None],
    ) -> None:
        self.cohorts = cohorts
        self.supports = supports
        self.recoveries: list[Recovery] = []
        self._task = task
        self._config = enrolment.config
        self._secret = enrolment.secret
        self._layout = layout
        self._publication = publication
        self._counts = counts
        self._alert = alert
        self._online: set[str] = set()
        self._buffers: dict[tuple[bytes, int], OpenBuffer] = {}
        self._waiting: list[_Waiting] = []
        self._done: deque[Outcome] = deque()
        self._opened_at: float | None = None
        self._restoring = True

    # --- what the coordinator asks of buffers --------------------------------------------------

    def __len__(self) -> int:
        in_buffers = sum(len(buffer.ids) for buffer in self._buffers.values())
        return len(self._waiting) + in_buffers + sum(len(each.ids) for each in self.recoveries)

    @property
    def fill(self) -> Fill:
        """The open buffer with the most updates."""
        fills = [buffer.fill for buffer in self._buffers.values()]
        return max(fills, key=lambda fill: fill.num_updates, default=Fill(0, 0, self._opened_at))

    @property
    def recovering(self) -> bool:
        """Whether a closed buffer waits for answers."""
        return bool(self.recoveries)

    @property
    def buffers(self) -> Iterable[OpenBuffer]:
        """The open buffers."""
        return self._buffers.values()

    @property
    def num_waiting(self) -> int:
        """How many updates wait for shares, or for a buffer that can take them."""
        return len(self._waiting)

    def open(self, now: float) -> None:
        """Begin, before the first update."""
        if self._opened_at is None:
            self._opened_at = now

    def take(self, lease: Lease, data: bytes, version: int, now: float) -> None:
        """Check a masked update and take it, into a buffer as soon as one can hold it.

        Raises RemoteProtocolError: ``malformed``, ``too_stale``, ``wrong_base``, ``not_enrolled``,
        ``wrong_roster``, ``stale_support`` or ``mask_used``.
        """
        update = unpack(data, MaskedUpdate)
        if not self._restoring:  # what is in the journal was in time when it came
            self._check_fresh(update, version)
        if update.base_version != lease.record.version:
            raise RemoteProtocolError(refusals.WRONG_BASE, f"leased {lease.record.version}")
        place = self.cohorts.place(lease.record.device)
        if place is None:
            raise RemoteProtocolError(refusals.NOT_ENROLLED, refusals.MEANING["not_enrolled"])
        cohort, dealer = place.cohort, place.index
        if update.roster_hash != cohort.roster.hash:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, refusals.MEANING["wrong_roster"])
        if (dealer, update.counter) in cohort.used:
            raise RemoteProtocolError(refusals.MASK_USED, f"mask {update.counter}")
        parameters = cohort.roster.parameters
        cohort.scheme.add(parameters, np.zeros(parameters.size, np.int64), update.body)
        cohort.used.add((dealer, update.counter))
        cohort.book.used(dealer, update.counter)
        self._waiting.append(_Waiting(lease.lease_id, cohort, dealer, update))
        self._fill_buffers(now)

    def _check_fresh(self, update: MaskedUpdate, version: int) -> None:
        check_staleness(update.base_version, version, self._task.staleness_limit)
        if not self.supports.is_taken(update.support):
            raise RemoteProtocolError(refusals.STALE_SUPPORT, f"support {update.support}")

    def close(self, is_due: Callable[[Fill], bool], now: float) -> list[Action]:
        """Close what is due: the request for its masks is stored, then sent."""
        actions: list[Action] = []
        while due := [buffer for buffer in self._buffers.values() if is_due(buffer.fill)]:
            for buffer in due:
                actions += self._close(buffer, now)
            self._fill_buffers(now)
        return actions

    def outcomes(self) -> list[Outcome]:
        """Take what is done."""
        done = list(self._done)
        self._done.clear()
        return done

    # --- what it says and hears beside ---------------------------------------------------------

    def restore(self, documents: Mapping[str, bytes], now: float) -> None:
        """Put the closed buffers together again, after their updates were replayed."""
        for key, data in documents.items():
            if key.startswith(REQUEST):
                self._restore_request(unpack(data, RecoveryRequest), now)
        self._restoring = False
        self._drop_stale(now)

    def connected(self) -> list[Action]:
        """Return what is retained: rosters and the support."""
        return [
            *self.cohorts.publish(self._publication),
            *self.supports.publish(self._publication),
        ]

    def offer(self, signed: SignedRoster, now: float) -> list[Action]:
        """Take a roster from the operator. Raises RemoteProtocolError (`Cohorts.offer`)."""
        return [*self.cohorts.offer(signed, now), *self.cohorts.publish(self._publication)]

    def epoch(self, device: str) -> int:
        """Return the mask epoch of a device's cohort; 0 without one."""
        place = self.cohorts.place(device)
        return 0 if place is None else place.cohort.roster.epoch

    def is_ready(self, device: str, now: float) -> bool:
        """Whether a device may train: its epoch is open, and its next mask is ripe."""
        place = self.cohorts.place(device)
        return (
            place is not None
            and now < place.cohort.drains_at
            and place.cohort.book.is_ready(place.index)
        )

    def standing(self, device: str) -> str:
        """Return why a device cannot take part in this epoch; empty: it can."""
        place = self.cohorts.place(device)
        if place is None:
            return refusals.NOT_ENROLLED
        return refusals.EXCLUDED if place.index in place.cohort.excluded else ""

    def presence(self, device: str, now: float, *, online: bool) -> list[Action]:
        """A device came or went; one that came is asked for what is missing."""
        if not online:
            self._online.discard(device)
            return self._advance(now)
        self._online.add(device)
        place = self.cohorts.place(device)
        for recovery in self.recoveries:
            if place is not None and place.cohort.roster.hash == recovery.roster.hash:
                recovery.ask_again(place.index)
        return self._advance(now)

    def message(
        self, device: str, message: SecureMessage, payload: bytes, now: float
    ) -> list[Action]:
        """A dealer or holder says something; its signature is checked first.

        Raises RemoteProtocolError: ``not_enrolled``, ``bad_signature``, ``wrong_roster``.
        """
        place = self.cohorts.place(device)
        if place is None:
            raise RemoteProtocolError(refusals.NOT_ENROLLED, refusals.MEANING["not_enrolled"])
        check_envelope(place.cohort.roster.members[place.index].identity, payload)
        if isinstance(message, RecoveryAnswer | RecoveryRefusal):
            return self._answered(place.cohort, place.index, message, now)
        if message.roster_hash != place.cohort.roster.hash:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "said under another roster")
        if isinstance(message, Dealt):
            place.cohort.book.dealt(place.index, message)
            self._fill_buffers(now)
            return []
        return self._held(place.cohort, place.index, message, now)

    def stepped(self, version: int, params: Float32, now: float) -> list[Action]:
        """There is a new version: with a new support, the buffers of the last but one end."""
        in_use = {recovery.support for recovery in self.recoveries}
        in_use |= {buffer.support for buffer in self._buffers.values()}
        actions = self.supports.stepped(version, params, self._publication, in_use)
        return [*actions, *self._drop_stale(now)]

    def timer(self, now: float) -> list[Action]:
        """Time passed: holders are asked again, epochs end."""
        self.cohorts.tick(now)
        actions = self._advance(now)
        for cohort in self.cohorts:
            if now >= cohort.ends_at or (cohort.next is not None and self._is_idle(cohort)):
                actions += self._end(cohort, now)
        return actions

    def timer_at(self) -> float:
        """Return when `timer` should be called next."""
        times = [cohort.ends_at for cohort in self.cohorts]
        times += [each.next_deadline(self._present(each)) for each in self.recoveries]
        return min(times, default=math.inf)

    # --- buffers -------------------------------------------------------------------------------

    def _fill_buffers(self, now: float) -> None:
        """Move into buffers what they can take, in the order of arrival."""
        self._waiting = [each for each in self._waiting if not self._enter(each, now)]

    def _enter(self, waiting: _Waiting, now: float) -> bool:
        """Add an update to its buffer, if so many hold all its masks as must answer."""
        cohort, update = waiting.cohort, waiting.update
        parameters = cohort.roster.parameters
        key = (cohort.roster.hash, update.support)
        buffer = self._buffers.get(key)
        holders = cohort.book.holders(waiting.dealer, update.counter)
        if buffer is not None:
            if waiting.dealer in buffer.masks or len(buffer.ids) >= parameters.max_contributors:
                return False
            holders &= buffer.holders
        if len(holders) < parameters.num_answers:
            return False
        if buffer is None:
            opened_at = now if self._opened_at is None else self._opened_at
            total = np.zeros(parameters.size, np.int64)
            buffer = self._buffers[key] = OpenBuffer(
                cohort, update.support, total, holders, opened_at
            )
        cohort.scheme.add(parameters, buffer.total, update.body)
        buffer.holders = holders
        buffer.ids.append(waiting.lease_id)
        buffer.masks[waiting.dealer] = update.counter
        return True

    def _close(self, buffer: OpenBuffer, now: float) -> list[Action]:
        cohort = buffer.cohort
        held = [cohort.book.holders(*mask) for mask in buffer.masks.items()]
        buffer.holders = frozenset.intersection(*held)  # what was known when they entered is old
        request = make_request(cohort.roster, buffer.masks, self._secret)
        recovery = self._recovery(buffer, request, now)
        self._counts["recoveries"] += 1
        return [
            Store(DocumentRecord(_name(recovery.request_hash), pack(request))),
            *self._ask(recovery, now),
        ]

    def _recovery(self, buffer: OpenBuffer, request: RecoveryRequest, now: float) -> Recovery:
        cohort = buffer.cohort
        del self._buffers[cohort.roster.hash, buffer.support]
        self._opened_at = None
        recovery = Recovery(
            roster=cohort.roster,
            scheme=cohort.scheme,
            request=request,
            request_hash=request_hash(request),
            ids=tuple(buffer.ids),
            masks=buffer.masks,
            support=buffer.support,
            total=buffer.total,
            holders=buffer.holders,
            blamable=all(cohort.book.was_tested(*mask) for mask in buffer.masks.items()),
            closed_at=now,
            spare_wait_s=self._config.spare_wait_s,
        )
        self.recoveries.append(recovery)
        return recovery

    def _restore_request(self, request: RecoveryRequest, now: float) -> None:
        """Make a closed buffer again of the updates that its request names."""
        for cohort in self.cohorts:
            try:
                masks = check_request(request, cohort.roster)
            except RemoteProtocolError:
                continue
            chosen = [
                waiting
                for waiting in self._waiting
                if waiting.cohort is cohort and masks.get(waiting.dealer) == waiting.update.counter
            ]
            if len(chosen) != len(masks):
                continue
            self._waiting = [waiting for waiting in self._waiting if waiting not in chosen]
            parameters = cohort.roster.parameters
            support = chosen[0].update.support
            everybody = frozenset(range(parameters.num_devices))
            total = np.zeros(parameters.size, np.int64)
            buffer = OpenBuffer(cohort, support, total, everybody, now)
            for waiting in chosen:
                cohort.scheme.add(parameters, total, waiting.update.body)
                buffer.ids.append(waiting.lease_id)
                buffer.masks[waiting.dealer] = waiting.update.counter
            self._buffers[cohort.roster.hash, support] = buffer
            self._recovery(buffer, request, now)

    def _drop_stale(self, now: float) -> list[Action]:
        """Sum what is left of older supports, if that is enough of them; else give it up."""
        actions: list[Action] = []
        lost = []
        for key, buffer in list(self._buffers.items()):
            if self.supports.is_taken(buffer.support):
                continue
            if len(buffer.ids) >= buffer.cohort.roster.parameters.min_contributors:
                actions += self._close(buffer, now)
                continue
            lost += buffer.ids
            del self._buffers[key]
        stale = [each for each in self._waiting if not self.supports.is_taken(each.update.support)]
        self._waiting = [each for each in self._waiting if each not in stale]
        lost += [waiting.lease_id for waiting in stale]
        if lost:
            self._done.append(Outcome(tuple(lost), None, refusals.STALE_SUPPORT))
        return actions

    # --- recovery ------------------------------------------------------------------------------

    def _answered(
        self, cohort: Cohort, holder: int, message: RecoveryAnswer | RecoveryRefusal, now: float
    ) -> list[Action]:
        for recovery in self.recoveries:
            if recovery.request_hash != message.request_hash:
                continue
            if holder in cohort.excluded:
                return []
            if isinstance(message, RecoveryAnswer):
                recovery.answer(holder, message.elements, now)
            else:
                recovery.refuse(holder, message.reason)
                name = cohort.roster.members[holder].device
                self._alert(name, message.reason, f"no share for a recovery: {message.detail}")
        return self._advance(now)

    def _advance(self, now: float) -> list[Action]:
        """Decode what can be decoded, and ask whoever is to be asked."""
        actions: list[Action] = []
        for recovery in list(self.recoveries):
            if recovery.is_ready(self._present(recovery), now):
                actions += self._decode(recovery)
            elif recovery.hopeless:
                actions += self._finish(recovery, Outcome(recovery.ids, None, _FAILED))
        for recovery in self.recoveries:
            actions += self._ask(recovery, now)
        return actions

    def _ask(self, recovery: Recovery, now: float) -> list[Action]:
        due = recovery.to_ask(self._present(recovery), now)
        members = recovery.roster.members
        return [
            self._publication.to_device(members[holder].device, recovery.request) for holder in due
        ]

    def _decode(self, recovery: Recovery) -> list[Action]:
        try:
            sums = recovery.unmask()
        except RecoveryError as error:
            self._counts["recoveries_inconsistent"] += 1
            self._alert("recovery", refusals.RECOVERY_FAILED, f"{error}; waiting for more answers")
            if recovery.missing_from():
                recovery.wait_for_more()
                return []
            return self._finish(recovery, Outcome(recovery.ids, None, _FAILED))
        actions = self._blame(recovery)
        return [
            *actions,
            *self._finish(recovery, Outcome(recovery.ids, self._mean(recovery, sums))),
        ]

    def _mean(self, recovery: Recovery, sums: Elements) -> Float64:
        """Return the mean delta from the sums of values and, last, of weights."""
        parameters = recovery.roster.parameters
        weight = parameters.weight_of(int(sums[-1]))
        kept = sums[:-1].astype(np.float64) * (self.supports.scale() / (parameters.scale * weight))
        where = self.supports.coordinates(recovery.support)
        if where is None:
            return kept
        mean = np.zeros(self._layout.size)
        mean[where] = kept
        return mean

    def _blame(self, recovery: Recovery) -> list[Action]:
        """Exclude who is proven to have answered wrong; else only say that somebody did."""
        if not recovery.liars:
            return []
        if not recovery.proven_liars:
            self._alert("recovery", refusals.RECOVERY_FAILED, "answers were inconsistent")
            return []
        for cohort in self.cohorts:
            if cohort.roster.hash != recovery.roster.hash:
                continue
            for liar in recovery.proven_liars:
                cohort.excluded.add(liar)
                cohort.book.exclude(liar)
                name = cohort.roster.members[liar].device
                self._counts["refused_excluded"] += 1
                self._alert(name, refusals.EXCLUDED, "a wrong share in a recovery")
        return []

    def _finish(self, recovery: Recovery, outcome: Outcome) -> list[Action]:
        self.recoveries.remove(recovery)
        self._done.append(outcome)
        if outcome.mean is None:
            self._counts["recoveries_failed"] += 1
        for cohort in self.cohorts:
            if cohort.roster.hash == recovery.roster.hash:
                cohort.book.settled(recovery.masks.items())
        return [Store(DocumentRecord(_name(recovery.request_hash), b""))]

    # --- holdings and epochs -------------------------------------------------------------------

    def _held(self, cohort: Cohort, holder: int, message: Holdings, now: float) -> list[Action]:
        """Note what a holder has; dealers are asked for what it lacks."""
        if holder in cohort.excluded:
            return []
        cohort.book.held(holder, message)
        self._fill_buffers(now)
        if not message.whole:
            return []
        members = cohort.roster.members
        return [
            self._publication.to_device(
                members[dealer].device, SharesWanted(cohort.roster.hash, holder, counters)
            )
            for dealer, counters in cohort.book.missing(holder).items()
        ]

    def _is_idle(self, cohort: Cohort) -> bool:
        return (
            all(each.roster.hash != cohort.roster.hash for each in self.recoveries)
            and all(buffer.cohort is not cohort for buffer in self._buffers.values())
            and all(waiting.cohort is not cohort for waiting in self._waiting)
        )

    def _end(self, cohort: Cohort, now: float) -> list[Action]:
        """An epoch is over: what has no sum yet never gets one."""
        actions: list[Action] = []
        for recovery in list(self.recoveries):
            if recovery.roster.hash == cohort.roster.hash:
                actions += self._finish(recovery, Outcome(recovery.ids, None, _FAILED))
        lost = [waiting.lease_id for waiting in self._waiting if waiting.cohort is cohort]
        for key, buffer in list(self._buffers.items()):
            if buffer.cohort is cohort:
                lost += buffer.ids
                del self._buffers[key]
        self._waiting = [waiting for waiting in self._waiting if waiting.cohort is not cohort]
        if lost:
            self._done.append(Outcome(tuple(lost), None, _FAILED))
        actions += self.cohorts.end(cohort, now)
        return [*actions, *self.cohorts.publish(self._publication)]

    def _present(self, recovery: Recovery) -> set[int]:
        """Return the holders of a recovery that are online."""
        indices = (recovery.roster.index(device) for device in self._online)
        return {index for index in indices if index is not None}


_FAILED = refusals.RECOVERY_FAILED


def _name(hash_: bytes) -> str:
    return REQUEST + hash_.hex()
