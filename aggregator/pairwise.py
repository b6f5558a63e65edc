"""Rounds of `pairwise` at the aggregator: one at a time, over one cohort, each with deadlines.

::

      ┌──────── too few ─────────┬──────────────────────────────┐
      ▼                          │                              │
    keys ───► shares ───► updates ───► signatures ───► answers ─┴► the sum: an `Outcome`
                 (stored: who dealt)  (stored: who survived)

Masks cancel among those who start together: a device takes part from its first word or not at all.
What is stored stands: a round has one list of dealers and one of survivors, also after a restart.
One that cannot go on is given up, durably; whoever still has a lease takes part in the next one.
Sans-IO: the time is an argument.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, get_args

from aggregator.actions import Action, Store
from aggregator.admission import check_staleness
from aggregator.backoff import Backoff
from aggregator.buffers import Fill, Outcome, SecureMessage
from aggregator.cohorts import Cohort, Cohorts
from aggregator.leases import Lease, LeaseBook
from aggregator.pairwise_round import PairwiseRound, Stage
from aggregator.publication import Publication
from aggregator.records import DocumentRecord
from aggregator.strategy import Float32
from aggregator.supports import Supports
from aggregator.task_config import TaskConfig
from aggregator.wording import many
from protocol import refusals
from protocol.codec import unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.secagg.messages import MaskedUpdate, RoundSaid, SignedRoster
from protocol.secagg.shares import RecoveryError
from protocol.stream import derive

#: Where the round is stored.
ROUND: Final = "pairwise-round"
#: A round that gets too few keys is replaced after so many times a round's deadline.
RENEWAL: Final = 4.0
#: Keys, and then shares, are waited for this part of a round's deadline.
PATIENCE: Final = 0.25
#: And who does not answer is told again after this part, then after twice as long, ...
RETRY: Final = PATIENCE / 4
#: How often it is noted how long an epoch has lasted, when nothing else happens.
TICK_S: Final = 60.0


class PairwiseBuffers:
    """The rounds of one task; a `aggregator.buffers.Buffers`.

    ``leases`` says who trains: these are invited. ``seed`` (32 bytes of this start) names rounds.
    ``counts`` and ``alert`` (who, reason, detail) are where it is counted and shown what went
    wrong; ``is_online`` says whether a device is.
    """

    said: tuple[type[RoundSaid], ...] = get_args(RoundSaid)

    def __init__(
        self,
        task: TaskConfig,
        *,
        publication: Publication,
        supports: Supports,
        cohorts: Cohorts,
        leases: LeaseBook,
        seed: bytes,
        counts: Counter[str],
        alert: Callable[[str, str, str], None],
        is_online: Callable[[str], bool],
    ) -> None:
        self.cohorts = cohorts
        self.supports = supports
        self.round: PairwiseRound | None = None
        self._task = task
        self._publication = publication
        self._leases = leases
        self._seed = seed
        self._counts = counts
        self._alert = alert
        self._is_online = is_online
        self._num_rounds = 0
        self._opened_at: float | None = None
        self._since = 0.0
        self._backoff = Backoff(0.0)
        self._num_tried = 0
        self._done: deque[Outcome] = deque()
        self._ticked_at = 0.0
        self._version = 0
        self._replayed: list[tuple[Lease, MaskedUpdate]] | None = []

    # --- what the coordinator asks of buffers --------------------------------------------------

    def __len__(self) -> int:
        return 0 if self.round is None else len(self.round.ids)

    @property
    def fill(self) -> Fill:
        """The round's updates; `opened_at` is when it began to wait for them."""
        if self.round is None or self.round.stage is Stage.KEYS:
            return Fill(0, 0, self._opened_at)
        if self.round.stage in {Stage.SIGNATURES, Stage.ANSWERS}:
            return Fill(0, 0, None)
        return Fill(len(self), len(self), self._since)

    @property
    def fills(self) -> Sequence[Fill]:
        """There is only one."""
        return [self.fill]

    def holds_up(self, now: float) -> bool:  # noqa: ARG002 - a round has deadlines of its own
        """Whether nobody can join any more before the sum is there."""
        return self.round is not None and self.round.stage is not Stage.KEYS

    def waiting_for(self) -> str:
        """Return, for a person, what the round waits for; empty: for updates."""
        if self.round is None or self.round.stage is Stage.UPDATES:
            return ""
        num_missing = len(self.round.missing(self.members))
        return f"the {self.round.stage.value} of {many(num_missing, 'device')} of the round"

    @property
    def members(self) -> set[int]:
        """Those who may take part: they have a lease, and have sent no update yet."""
        devices = (lease.record.device for lease in self._leases.running())
        places = (self.cohorts.place(device) for device in devices)
        return {place.index for place in places if place is not None}

    def open(self, now: float) -> None:
        """Begin: there are leases. `close` says it to their devices."""
        if self._opened_at is None:
            self._opened_at = now
        self._begin(now)

    def take(self, lease: Lease, data: bytes, version: int, now: float) -> None:  # noqa: ARG002
        """Check a masked update and take it into the round's sum.

        Raises RemoteProtocolError: ``malformed``, ``too_stale``, ``wrong_base``, ``not_enrolled``,
        ``wrong_roster``, or as `PairwiseRound.take`; what is in the journal is judged later.
        """
        update = unpack(data, MaskedUpdate)
        if self._replayed is not None:
            self._replayed.append((lease, update))
            return
        check_staleness(update.base_version, version, self._task.staleness_limit)
        self._enter(self.round, lease, update)

    def _enter(self, round_: PairwiseRound | None, lease: Lease, update: MaskedUpdate) -> None:
        if update.base_version != lease.record.version:
            raise RemoteProtocolError(refusals.WRONG_BASE, f"leased {lease.record.version}")
        place = self.cohorts.place(lease.record.device)
        if place is None:
            raise RemoteProtocolError(refusals.NOT_ENROLLED, refusals.MEANING["not_enrolled"])
        if update.roster_hash != place.cohort.roster.hash:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, refusals.MEANING["wrong_roster"])
        if round_ is None:
            raise RemoteProtocolError(refusals.RECOVERY_FAILED, "its round is over")
        round_.take(place.index, lease.lease_id, update)

    def close(self, is_due: Callable[[Fill], bool], now: float) -> list[Action]:
        """Go from stage to stage as far as can be, and say what is to be said."""
        actions: list[Action] = []
        self._begin(now)
        while self.round is not None:
            moved = self._move(self.round, is_due, now)
            if moved is None:
                break
            actions += moved
            self._begin(now)
        for cohort in self.cohorts:
            if now >= cohort.ends_at or (cohort.next is not None and self._is_idle):
                actions += self._end(cohort, now)
        return [*actions, *self._say(now)]

    def outcomes(self) -> list[Outcome]:
        """Take what is done."""
        done = list(self._done)
        self._done.clear()
        return done

    # --- from stage to stage -------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Invite whoever has a lease to a new round, unless one is under way."""
        if self.round is not None or self._opened_at is None:
            return
        if not self.members:
            self._opened_at = None
            return
        cohort = next(iter(self.cohorts))
        if now >= cohort.drains_at:
            return
        self._num_rounds += 1
        drawn = derive(self._seed, "round", self._num_rounds)
        number = int.from_bytes(drawn[:8], "little") >> 1
        self.round = PairwiseRound(cohort, number, self.supports.number_at(self._version))
        self._wait(now)

    def _wait(self, now: float) -> None:
        """A stage begins."""
        self._since = now
        self._backoff = Backoff(RETRY * self._task.rounds.deadline_s)

    def _move(
        self, round_: PairwiseRound, is_due: Callable[[Fill], bool], now: float
    ) -> list[Action] | None:
        """Return what the next stage takes, None if it is not time for it."""
        waited = now >= self._ends_at(round_)
        complete = not round_.missing(self.members)
        match round_.stage:
            case Stage.KEYS if self._may_deal(round_) and (waited or complete):
                round_.deal()
                self._wait(now)
                return []
            case Stage.KEYS if self.members and now >= self._renewed_at:
                self.round = None  # who took part until it lost power cannot take part again
                return []
            case Stage.SHARES if waited or complete:
                return self._mask(round_, now)
            case Stage.UPDATES if round_.can_close and (complete or is_due(self.fill)):
                return self._close(round_, now)
            case Stage.SIGNATURES if round_.has_quorum:
                round_.certify()
                self._wait(now)
                return []
            case Stage.ANSWERS if self._may_decode(round_):
                return self._decode(round_)
            case Stage.UPDATES | Stage.SIGNATURES | Stage.ANSWERS if waited:
                names = ", ".join(round_.names(round_.missing(())))
                self._alert("round", refusals.RECOVERY_FAILED, f"no {round_.stage.value}: {names}")
                return self._give_up(round_)
        return None

    def _ends_at(self, round_: PairwiseRound) -> float:
        """Return when a stage has lasted long enough."""
        deadline_s = self._task.rounds.deadline_s
        soon = round_.stage in {Stage.KEYS, Stage.SHARES}
        return self._since + (PATIENCE * deadline_s if soon else deadline_s)

    @property
    def _renewed_at(self) -> float:
        """Return when a round that has not begun to deal is replaced by another."""
        return self._since + RENEWAL * self._task.rounds.deadline_s

    def needed(self, round_: PairwiseRound) -> int:
        """Return with how many at least a round can come to an end."""
        least = round_.cohort.roster.parameters.min_contributors
        return max(round_.round.quorum, least, self._task.rounds.needed)

    def _may_deal(self, round_: PairwiseRound) -> bool:
        return len(round_.keys) >= self.needed(round_)

    def _mask(self, round_: PairwiseRound, now: float) -> list[Action]:
        if len(round_.sealed) < self.needed(round_):
            self.round = None  # nothing was masked: try again, with whoever is there
            return []
        round_.mask()
        self._wait(now)
        return [self._store(round_)]

    def _close(self, round_: PairwiseRound, now: float) -> list[Action]:
        self._counts["recoveries"] += 1
        round_.close()
        self._wait(now)
        return [self._store(round_)]

    def _may_decode(self, round_: PairwiseRound) -> bool:
        return len(round_.answers) > self._num_tried and round_.has_enough_answers

    def _decode(self, round_: PairwiseRound) -> list[Action] | None:
        try:
            sums = round_.unmask()
        except RecoveryError as error:
            self._num_tried = len(round_.answers)
            self._counts["recoveries_inconsistent"] += 1
            self._alert("round", refusals.RECOVERY_FAILED, str(error))
            return self._give_up(round_) if not round_.missing(()) else []
        parameters = round_.cohort.roster.parameters
        weight = parameters.weight_of(int(sums[-1]))
        mean = sums[:-1] / (parameters.scale * weight)
        self._opened_at = None
        spread = self.supports.spread(mean, round_.support)
        return self._finish(round_, Outcome(_ids(round_), spread))

    def _give_up(self, round_: PairwiseRound) -> list[Action]:
        self._counts["recoveries_failed"] += 1
        return self._finish(round_, Outcome(_ids(round_), None, refusals.RECOVERY_FAILED))

    def _finish(self, round_: PairwiseRound, outcome: Outcome) -> list[Action]:
        self.round = None
        self._num_tried = 0
        if round_.ids:
            self._done.append(outcome)
        return [Store(DocumentRecord(ROUND, b""))]

    def _store(self, round_: PairwiseRound) -> Action:
        return Store(DocumentRecord(ROUND, round_.pack()))

    # --- what it says and hears beside ---------------------------------------------------------

    def restore(self, documents: Mapping[str, bytes], version: int, now: float) -> list[Action]:
        """Go on with the round that was stored, with its updates in the journal; or give it up."""
        actions = self.supports.start()
        replayed, self._replayed = self._replayed or [], None
        self._version, self._ticked_at = version, now
        data = documents.get(ROUND, b"")
        round_ = PairwiseRound.unpack(data, list(self.cohorts)) if data else None
        lost = []
        for lease, update in replayed:
            try:
                self._enter(round_, lease, update)
            except RemoteProtocolError:
                lost.append(lease.lease_id)
        if round_ is not None and round_.resume(data):
            self.round = round_
            self._opened_at = now
            self._wait(now)
        else:
            lost += [] if round_ is None else round_.ids.values()
            actions += [Store(DocumentRecord(ROUND, b""))] if data else []
        if lost:
            self._done.append(Outcome(tuple(lost), None, refusals.RECOVERY_FAILED))
        return actions

    def connected(self) -> list[Action]:
        """Return what is retained: the roster and the support."""
        return [
            *self.cohorts.publish(self._publication),
            *self.supports.publish(self._publication),
        ]

    def offer(self, signed: SignedRoster, now: float) -> list[Action]:
        """Take a roster from the operator. Raises as `Cohorts.offer`."""
        return [*self.cohorts.offer(signed, now), *self.cohorts.publish(self._publication)]

    def is_ready(self, device: str, now: float) -> bool:
        """Whether a device may train: its epoch is open."""
        place = self.cohorts.place(device)
        return place is not None and now < place.cohort.drains_at

    def standing(self, device: str) -> str:
        """Return why a device cannot take part in this epoch; empty: it can."""
        return "" if self.cohorts.place(device) is not None else refusals.NOT_ENROLLED

    def presence(self, device: str, now: float) -> list[Action]:
        """A device came or went; one that came is told what it may have missed."""
        place = self.cohorts.place(device)
        if place is None or not self._is_online(device):
            return []
        self._backoff.forget(place.index)
        return self._say(now)

    def message(
        self,
        device: str,
        message: SecureMessage,
        identity: bytes,
        now: float,  # noqa: ARG002
    ) -> list[Action]:
        """A device says something, signed by ``identity``.

        Raises RemoteProtocolError: ``not_enrolled``, ``bad_signature``, ``malformed``,
        ``wrong_members``, ``wrong_kind``.
        """
        if not isinstance(message, RoundSaid):
            raise RemoteProtocolError(refusals.WRONG_KIND, "of no use in rounds")
        place = self.cohorts.place(device)
        if place is None:
            raise RemoteProtocolError(refusals.NOT_ENROLLED, refusals.MEANING["not_enrolled"])
        place.check_identity(identity)
        if self.round is not None and self.round.cohort is place.cohort:
            self.round.hear(place.index, message)
        return []

    def stepped(self, version: int, params: Float32, now: float) -> list[Action]:  # noqa: ARG002
        """There is a new version, perhaps with a new support."""
        self._version = version
        return self.supports.stepped(version, params, self._publication, set())

    def timer(self, now: float) -> list[Action]:
        """Time passed; `close` does what is due."""
        self._ticked_at = now
        self.cohorts.tick(now)
        return []

    def timer_at(self) -> float:
        """Return when `timer` should be called next."""
        cohorts = list(self.cohorts)
        if not cohorts:
            return math.inf
        times = [self._ticked_at + TICK_S, *(cohort.ends_at for cohort in cohorts)]
        if self.round is not None:
            times += [self._due_at(self.round, each) for each in self.round.missing(self.members)]
            if self.round.stage is not Stage.KEYS or self._may_deal(self.round):
                times.append(self._ends_at(self.round))
            elif self.members:
                times.append(self._renewed_at)
        return min(times)

    def _say(self, now: float) -> list[Action]:
        """Tell those who are waited for what they must know, now and then."""
        round_ = self.round
        if round_ is None:
            return []
        actions: list[Action] = []
        members = round_.cohort.roster.members
        for index in sorted(round_.missing(self.members)):
            if now < self._due_at(round_, index):
                continue
            self._backoff.asked(index, now)
            said = round_.to_say(index)
            device = members[index].device
            actions += [self._publication.to_device(device, message) for message in said]
        return actions

    def _due_at(self, round_: PairwiseRound, index: int) -> float:
        """Return when a device is told (again); one that is away has the broker keep it once."""
        is_online = self._is_online(round_.cohort.roster.members[index].device)
        if self._backoff.was_asked(index) and not is_online:
            return math.inf
        return self._backoff.due_at(index, self._since)

    # --- epochs --------------------------------------------------------------------------------

    @property
    def _is_idle(self) -> bool:
        return self.round is None or self.round.stage is Stage.KEYS

    def _end(self, cohort: Cohort, now: float) -> list[Action]:
        """An epoch is over: what has no sum yet never gets one."""
        actions = [] if self.round is None else self._give_up(self.round)
        actions += self.cohorts.end(cohort)
        try:
            actions += self.cohorts.follow(cohort, now)
        except (ConfigError, RemoteProtocolError) as error:
            self._alert(f"cohort {cohort.roster.cohort}", refusals.WRONG_ROSTER, str(error))
        return [*actions, *self.cohorts.publish(self._publication)]


def _ids(round_: PairwiseRound) -> tuple[bytes, ...]:
    return tuple(round_.ids[index] for index in sorted(round_.ids))
