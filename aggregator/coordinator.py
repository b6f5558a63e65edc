"""The server's state machine: messages and time in, actions out. No I/O, no clock, no entropy.

An update's way through it (ARCHITECTURE.md has the whole journey)::

    check-in ──► waiting ──► lease open ──► journalled ──► counted     (receipt: the manifest)
                                 │               └──► refused          (the buffer was abandoned)
                                 ├──► refused                          (too stale, malformed, ...)
                                 └──  expired: frees its slot; its update is still taken, once

Rules that everything rests on:

- a lease id is an update id, and its row in the store is the record by which it counts once;
- what is not in memory any more is closed, and the store says how: `Recall`;
- a `Store` stands before everything that tells anybody of it;
- a buffer is a sum in journal order, so that a replay of the journal gives the same bytes;
- how updates become a sum is the buffers' business: plain (`aggregator.buffers`) or masked
  (`aggregator.secagg`).

Here events are handed to those who decide: `CheckIns`, `Arrivals`, `Standings`, the buffers of a
secure task; `Progress` says what follows, and `Stepping` makes the versions.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from aggregator.actions import Action, Store
from aggregator.arrivals import Arrivals
from aggregator.buffers import SecureMessage
from aggregator.check_ins import CheckIns
from aggregator.conduct.evidence import LATE
from aggregator.eligibility import Eligibility
from aggregator.gate import Heard, Trust
from aggregator.lease_messages import PARTITION
from aggregator.parts import Parts
from aggregator.progress import Progress
from aggregator.records import LeaseRecord, Snapshot, StandingRecord
from aggregator.refusing import UNKNOWN
from aggregator.restart import take_up
from aggregator.robust.group_watch import Candidates, Trial
from aggregator.scheduling import View
from aggregator.secure_config import Enrolment
from aggregator.standings import Standings
from aggregator.stepping import Stepping
from aggregator.sweep import Sweep
from aggregator.task_config import TaskConfig
from aggregator.telemetry import saturated_values
from device_sdk.engine.data import Block
from protocol import refusals
from protocol.actions import Subscribe
from protocol.chunks import payload_bytes
from protocol.errors import RemoteProtocolError
from protocol.messages import CheckIn, Plan, UpdateChunk
from protocol.secagg.messages import SignedRoster
from protocol.topics import Address, Kind

#: Model chunks are cut for packets of so many bytes at most.
MAX_PACKET_BYTES: Final = 1 << 16


class Coordinator:
    """One task. ``seed`` (32 fresh secret bytes a start) makes the lease ids.

    With an ``enrolment`` it is a secure one: masked updates and no others. With ``trust`` it signs
    what it says, and believes what devices have signed. ``root`` are the data of
    ``robust.root_file``. Raises ConfigError if the model does not fit the versions in ``snapshot``.
    """

    def __init__(
        self,
        config: TaskConfig,
        snapshot: Snapshot,
        seed: bytes,
        now: float,
        enrolment: Enrolment | None = None,
        *,
        trust: Trust | None = None,
        root: Block | None = None,
    ) -> None:
        parts = Parts(config, snapshot, seed, now, enrolment, trust=trust, root=root)
        self.config = parts.config
        self.topics = parts.topics
        self.model = parts.model
        self.trained = parts.trained
        self.codec = parts.codec
        self.counts = parts.counts
        self.alerts = parts.refusing.alerts
        self.fleet = parts.fleet
        self.leases = parts.leases
        self.partials = parts.partials
        self.downlink = parts.downlink
        self.versions = parts.versions
        self.granting = parts.granting
        self.conduct = parts.conduct
        self.privacy = parts.privacy
        self.buffers = parts.buffers
        self.secure = parts.secure
        self._gate = parts.gate
        self._publication = parts.publication
        self._sweep = Sweep(parts.topics, parts.publication)
        self._standings = Standings(parts)
        self._stepping = Stepping(parts)
        eligibility = Eligibility(parts)
        self._progress = Progress(parts, eligibility, self._stepping)
        self._arrivals = Arrivals(parts, self._progress, snapshot.next_sequence)
        self._check_ins = CheckIns(parts, eligibility, self._arrivals, self._progress)
        self._first = [*parts.first, *take_up(parts, snapshot, now)]
        for standing in snapshot.standings:
            self._first += self._standings.shut_out(standing)

    @property
    def version(self) -> int:
        """The current model version."""
        return self.versions.number

    def view(self, now: float) -> View:
        """Return what scheduling decides by."""
        return self._progress.view(now)

    def waiting_for(self, now: float) -> str:
        """Return, for a person, what the next version waits for."""
        return self._progress.waiting_for(now)

    # --- start and connection ----------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """Return what must be stored before anything else, and a step that is already due."""
        first, self._first = self._first, []
        return [*first, self._listen(), *self._progress.advance(now)]

    def _listen(self) -> Subscribe:
        """Subscribe, once: the transport does it again where a broker may have forgotten it."""
        hears = self.granting.hears_telemetry or self.secure is not None
        told = (self.topics.telemetry_filter(),) if hears else ()
        return Subscribe((*self.topics.aggregator_filters(), *told))

    def connected(self, max_packet_bytes: int, now: float) -> list[Action]:
        """The bus is there (again): brokers forget, so all that is retained is said again.

        For a while the aggregator also listens to its own model chunks, to clear the retained ones
        that a crash or another packet limit left behind.
        """
        self._publication.chunk_bytes = payload_bytes(min(max_packet_bytes, MAX_PACKET_BYTES))
        model, training = self.config.documents()
        plan = Plan(model, training, self.config.codec, self.config.check_in_s)
        return [
            Subscribe(self._sweep.begin(now)),
            *([] if self.secure is None else self.secure.connected()),
            *self._publication.everything(plan, self._stepping.manifest()),
        ]

    # --- messages ----------------------------------------------------------------------------

    def message(self, topic: str, payload: bytes, now: float) -> list[Action]:
        """A message arrived. Whatever is in it, the answer is a list of actions."""
        device = ""
        try:
            address = self.topics.parse(topic)
            device = address.device
            actions = []
            if not device or self._standings.hears(device, len(payload), now):
                actions = self._dispatch(topic, address, payload, now)
        except RemoteProtocolError as error:
            actions = self._standings.not_heard(device or UNKNOWN, error)
        return [*self._standings.judged(), *actions]

    def _dispatch(self, topic: str, address: Address, payload: bytes, now: float) -> list[Action]:
        device = address.device
        match address.kind:
            case Kind.UPDATE if address.part == PARTITION:
                chunk = self._gate.open(topic, address, payload, (UpdateChunk,)).message
                return self._arrivals.chunk(device, chunk, now)
            case Kind.OUT:
                heard = self._gate.open(topic, address, payload, self._said)
                certified = [] if heard.record is None else [Store(heard.record)]
                return [*certified, *self._told(device, heard, now)]
            case Kind.STATE:
                self.fleet.see(device, payload)
                return self._presence(device, now)
            case Kind.TELEMETRY:
                self.granting.told(device, payload)
                self.conduct.saturated(device, saturated_values(payload))
                return []
            case Kind.MODEL | Kind.DIFFERENCE:
                return [*self._sweep.hear(topic, payload)]
        raise RemoteProtocolError(refusals.WRONG_KIND, f"{address.kind.name} from a device")

    @property
    def _said(self) -> tuple[type[CheckIn | SecureMessage], ...]:
        """What a device may say on its own topic."""
        return (CheckIn,) if self.secure is None else (CheckIn, *self.secure.said)

    def _told(self, device: str, heard: Heard[CheckIn | SecureMessage], now: float) -> list[Action]:
        said = heard.message
        if isinstance(said, CheckIn):
            return self._check_ins.heard(device, said, heard, now)
        if self.secure is None:
            raise RemoteProtocolError(refusals.WRONG_KIND, "this task is not secure")
        actions = self.secure.message(device, said, heard.identity, now)
        return [*actions, *self._progress.advance(now)]

    def _presence(self, device: str, now: float) -> list[Action]:
        if self.secure is None:
            return []
        actions = self.secure.presence(device, now)
        return [*actions, *self._progress.advance(now)] if actions else []

    # --- time --------------------------------------------------------------------------------

    def timer(self, now: float) -> list[Action]:
        """Time passed: leases run out, chunks are asked for, buffers close."""
        self.conduct.tick(now)
        self._expire(now)
        actions = self._arrivals.timer(now)
        if self.secure is not None:
            actions += self.secure.timer(now)
        judged = self._standings.judged()
        return [*judged, *actions, *self._sweep.end(now), *self._progress.advance(now)]

    def _expire(self, now: float) -> None:
        expired = self.leases.expire(now)
        for lease in expired:
            self.conduct.note(lease.record.device, LATE)
        self.counts["leases_expired"] += len(expired)
        self.granting.expired(expired, now)

    def timer_at(self, now: float) -> float:
        """Return when `timer` should be called next."""
        times = [
            math.inf if self.secure is None else self.secure.timer_at(),
            self.leases.next_expiry(),
            self.partials.next_deadline(),
            self._sweep.until,
            *self._progress.deadlines(now),
        ]
        return min(at for at in times if at is not None)

    # --- what the shell and the operator say ---------------------------------------------------

    def recalled(self, device: str, lease_id: bytes, record: LeaseRecord | None) -> list[Action]:
        """The store answered a `Recall`: a closed lease gets the same answer as ever."""
        return self._arrivals.recalled(device, lease_id, record)

    def decreed(self, standings: Iterable[StandingRecord]) -> list[Action]:
        """The standings as the store has them: `fedbus devices` may have changed some."""
        return self._standings.decreed(standings)

    @property
    def epochs(self) -> str:
        """Which mask epochs are open, in one word; empty where updates are not masked."""
        return "" if self.secure is None else self.secure.cohorts.epochs

    def roster(self, signed: SignedRoster, now: float) -> list[Action]:
        """The operator lays down a roster.

        Raises RemoteProtocolError or, where it does not fit the settings, ConfigError.
        """
        if self.secure is None:
            return []
        actions = self.secure.offer(signed, now)
        return [*actions, *self._progress.advance(now)]

    def watch_groups(self) -> None:
        """From the next step on there are `candidates`: the shell can say how good they are."""
        self._stepping.groups.are_wanted = True

    def candidates(self) -> Candidates | None:
        """Take the groups of the newest step, for the shell to say how good each would be."""
        return self._stepping.groups.take()

    def groups_tried(self, trials: Sequence[Trial]) -> None:
        """The shell says how good the groups of a step were; after many, who does harm."""
        self._stepping.groups.tried(trials)
