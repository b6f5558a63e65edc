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
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from aggregator.actions import Action, Recall, Store
from aggregator.assembly import Partials
from aggregator.buffers import Buffers, Fill, Outcome, PlainBuffers, SecureMessage
from aggregator.conduct.book import Book
from aggregator.conduct.evidence import GROUP_INFLUENCE, LATE, OUTLIER, SHOWN, UNPROVEN, WEIGHTS
from aggregator.contributors import devices_of, gain, leases_of, staleness_of
from aggregator.downlink import Downlink
from aggregator.fleet import Fleet
from aggregator.gate import Gate, Heard, Trust
from aggregator.granting import Granting
from aggregator.lease_messages import PARTITION, LeaseMessages
from aggregator.leases import Lease, LeaseBook
from aggregator.masked import MaskedBuffers, Shared, make_masked_buffers
from aggregator.memory import Memory
from aggregator.privacy.budget import Budget
from aggregator.privacy.checks import check_privacy
from aggregator.publication import Publication
from aggregator.records import (
    CounterRecord,
    JournalRecord,
    LeaseRecord,
    LeaseState,
    RefusalRecord,
    Snapshot,
    Standing,
    StandingRecord,
    VersionRecord,
)
from aggregator.robust.group_watch import Candidates, GroupWatch, Trial
from aggregator.robust.root import root_delta
from aggregator.scheduling import View
from aggregator.secure_config import Enrolment
from aggregator.statistics import statistics_of
from aggregator.sweep import Sweep
from aggregator.task_config import TaskConfig
from aggregator.telemetry import saturated_values
from aggregator.versions import Versions
from device_sdk.engine.data import Block
from device_sdk.engine.model import Model
from protocol import refusals
from protocol.actions import Publish, Subscribe
from protocol.chunks import payload_bytes
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import SEAL_BYTES
from protocol.messages import (
    COUNTER_START_BITS,
    CheckIn,
    ChunksMissing,
    Held,
    Manifest,
    Plan,
    Receipt,
    Refusal,
    UpdateChunk,
)
from protocol.secagg.messages import SignedRoster
from protocol.stream import derive
from protocol.topics import Address, Kind, Topics
from protocol.vectors.layout import params_to_bytes

#: How long an installation that was turned away at check-in is asked to stay away.
TURNED_AWAY_S: Final = 3600
#: Leases are closed for these before any update has come, so the update that comes is counted then.
CLOSED_UNSEEN: Final = frozenset({refusals.TOO_STALE, refusals.SUPERSEDED})
#: Reasons that the operator may end any moment: a roster that names the device, a release.
FOR_NOW: Final = frozenset({refusals.NOT_ENROLLED, refusals.QUARANTINED})
#: A robust rule that keeps less than this part of an update has left it out.
LEFT_OUT: Final = 0.1
#: Who did it, where a topic does not say.
UNKNOWN: Final = "unknown sender"
#: How many alerts are kept to be shown.
MAX_ALERTS: Final = 20


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
        check_privacy(config, masked=enrolment is not None)
        config = config.settled(masked=enrolment is not None)
        if trust is None and enrolment is not None:
            trust = enrolment.trust
        self.config = config
        self.topics = Topics(config.prefix, config.task)
        self.model = Model(config.model_spec())
        self.trained = config.trained()
        self.fleet = Fleet(config.max_devices, snapshot.devices, config.selection.site_of)
        self.leases = LeaseBook()
        self.counts: Counter[str] = Counter(snapshot.totals)
        self.counts["starts"] += 1
        self.alerts: list[str] = []
        self._candidates: Candidates | None = None
        self._group_watch = GroupWatch()
        self.partials = Partials(config.max_assembly_bytes, config.chunk_patience_s)
        self._publication = Publication(
            self.topics,
            self.counts["starts"] << COUNTER_START_BITS,
            None if trust is None else trust.signer(config.prefix),
        )
        self._sweep = Sweep(self.topics, self._publication)
        self._sequence = snapshot.next_sequence
        self._scheduling = config.scheduling
        self._first: list[Action] = [Store(CounterRecord({"starts": self.counts["starts"]}))]
        self._statistics = statistics_of(self.model.spec, self.trained)
        self.downlink = Downlink(
            config.bandwidth, self.trained, config.task, self._statistics.variances
        )
        self.versions = self._load_versions(snapshot)
        self.codec = (
            config.uplink
            if enrolment is None
            else replace(enrolment.config.codec, calibrated=config.uplink.calibrated)
        )
        self.secure = None
        if enrolment is not None:
            self.secure, opened = make_masked_buffers(
                config,
                enrolment,
                snapshot,
                now,
                topics=self.topics,
                codec=self.codec,
                versions=self.versions,
                size=self.trained.layout.size,
                shared=Shared(
                    self._publication,
                    self.leases,
                    self.counts,
                    self._member_alert,
                    self.fleet.is_online,
                ),
                seed=derive(seed, "rounds"),
            )
            self._first += opened
        enrolled = (lambda _: b"") if self.secure is None else self.secure.cohorts.identity
        self.gate = Gate(self.topics, trust, snapshot.documents, enrolled)
        self.granting = Granting(
            config,
            self.fleet,
            self.leases,
            self.codec,
            self.trained.layout,
            seed=derive(seed, "selection"),
            version=self.version,
        )
        self._messages = LeaseMessages(
            self._publication,
            self.downlink,
            self.granting,
            secure=self.secure,
            counts=self.counts,
            seed=seed,
            num_params=self.trained.whole.size,
        )
        self.conduct = Book(
            config.conduct,
            max_devices=config.max_devices,
            update_bytes=self.granting.update_bytes,
            standings=snapshot.standings,
            evidence=snapshot.evidence,
            now=now,
        )
        epochs = "-" if self.secure is None else self.secure.cohorts.epochs
        self._memory = Memory(config, snapshot.documents, epochs, self.trained.layout.size)
        self._memory.published(self.version, self.trained.take(self.downlink.hidden), ())
        self._participation = self._memory.participation
        self.privacy = Budget(
            config.privacy, snapshot.documents, derive(seed, "privacy"), self.version
        )
        self._first += self.privacy.start()
        if self._participation.is_outdated:
            self.versions.forget()
        self.buffers: Buffers = (
            PlainBuffers(
                config,
                self.trained.layout,
                self._participation,
                self._memory.history,
                central=self.privacy.central,
                root=root_delta(config, self.versions, self.model, root),
            )
            if self.secure is None
            else self.secure
        )
        self._load_leases(snapshot, now)
        for standing in snapshot.standings:
            self._first += self._shut_out(standing)

    @property
    def version(self) -> int:
        """The current model version."""
        return self.versions.number

    # --- start and restart -------------------------------------------------------------------

    def _load_versions(self, snapshot: Snapshot) -> Versions:
        newest = snapshot.version
        if newest is None:
            seed = derive(self.config.init_seed.to_bytes(32, "little"), "init", self.config.task)
            params = params_to_bytes(self.model.init(seed))
            newest = VersionRecord(0, params, hashlib.sha256(params).digest())
        strategy = self.config.strategy.strategy()
        versions = Versions(strategy, self.trained, newest, self._statistics)
        if snapshot.version is None:
            self._first.append(Store(self.downlink.step(newest, versions.params, ())))
        else:
            kept, published = snapshot.live_params, snapshot.published
            self.downlink.restore(newest, published, kept, self._needed(newest.version, snapshot))
        self._publication.restore(self.downlink.retained)
        return versions

    def _needed(self, newest: int, snapshot: Snapshot | None = None) -> set[int]:
        """Return the versions that somebody may still want to fetch."""
        running = self.leases.open_versions()
        if snapshot is not None:  # they are opened again
            open_ = [each for each in snapshot.leases if each.state is LeaseState.OPEN]
            running = {each.version for each in open_}
        return running | set(range(newest - self.config.keep_versions + 1, newest + 1))

    def _load_leases(self, snapshot: Snapshot, now: float) -> None:
        for record in snapshot.leases:
            lease = self.granting.reopen(record, now)
            if record.state is LeaseState.JOURNALLED:
                self.leases.journalled(lease)
        for entry in snapshot.journal:
            waiting = self.leases.get(entry.lease_id)
            if waiting is None:
                raise LocalProtocolError(f"journal entry {entry.sequence} belongs to no lease")
            try:
                self.buffers.take(waiting, entry.update, self.version, now)
            except RemoteProtocolError as error:  # the settings have changed since it was admitted
                self._first += self._refuse(waiting, error.reason, error.detail)
        if self.secure is not None:
            self._first += self.secure.restore(snapshot.documents, self.version, now)
        if self.config.mode == "rounds" and self.leases.num_active > 0:
            self.buffers.open(now)

    def start(self, now: float) -> list[Action]:
        """Return what must be stored before anything else, and a step that is already due."""
        first, self._first = self._first, []
        return [*first, *self._advance(now)]

    def connected(self, max_packet_bytes: int, now: float) -> list[Action]:
        """The bus is there (again): brokers forget, so all that is retained is said again.

        For a while the aggregator also listens to its own model chunks, to clear the retained ones
        that a crash or another packet limit left behind.
        """
        self._publication.chunk_bytes = payload_bytes(min(max_packet_bytes, 1 << 16))
        hears = self.granting.hears_telemetry or self.secure is not None
        told = (self.topics.telemetry_filter(),) if hears else ()
        always = self.topics.aggregator_filters()
        return [
            Subscribe((*always, *told, *self._sweep.begin(now))),
            *([] if self.secure is None else self.secure.connected()),
            *self._publication.everything(self._plan(), self._manifest()),
        ]

    # --- events ------------------------------------------------------------------------------

    def message(self, topic: str, payload: bytes, now: float) -> list[Action]:
        """A message arrived. Whatever is in it, the answer is a list of actions."""
        device = ""
        try:
            address = self.topics.parse(topic)
            device = address.device
            actions = []
            if not device or self._hears(device, len(payload), now):
                actions = self._dispatch(topic, address, payload, now)
        except RemoteProtocolError as error:
            actions = self._not_heard(device or UNKNOWN, error)
        return [*self._judged(), *actions]

    def _hears(self, device: str, num_bytes: int, now: float) -> bool:
        """Whether anything of this device is listened to, by its budget and its standing."""
        if self.conduct.standing(device) is Standing.REVOKED:
            self.counts[f"refused_{refusals.REVOKED}"] += 1
            return False
        if not self.conduct.heard(device, num_bytes, now):
            self.counts[f"refused_{refusals.OVER_BUDGET}"] += 1
            return False
        return True

    def _not_heard(self, device: str, error: RemoteProtocolError) -> list[Action]:
        """A message is refused; whoever must show a certificate is told so.

        It is held against the device only where nobody else could have said it: where no
        signatures are asked for, the broker's rules must do to prove who speaks.
        """
        self.counts[f"refused_{error.reason}"] += 1
        if device != UNKNOWN:
            by_anybody = self.gate.is_strict and error.reason not in SHOWN
            self.conduct.note(device, UNPROVEN if by_anybody else error.reason)
        if error.reason == refusals.REPLAYED:  # the broker says it again, not the device
            return []
        self._say(device, error.reason, error.detail)
        if error.reason != refusals.UNKNOWN_KEY:
            return []
        refusal = Refusal(b"", error.reason, error.detail[:500])
        return [self._publication.to_device(device, refusal)]

    def _dispatch(self, topic: str, address: Address, payload: bytes, now: float) -> list[Action]:
        device = address.device
        match address.kind:
            case Kind.UPDATE if address.part == PARTITION:
                chunk = self.gate.open(topic, address, payload, (UpdateChunk,)).message
                return self._chunk(device, chunk, now)
            case Kind.OUT:
                heard = self.gate.open(topic, address, payload, self._said)
                return [*self._certified(heard), *self._told(device, heard, now)]
            case Kind.STATE:
                self.fleet.see(device, payload)
                return self._presence(device, now)
            case Kind.TELEMETRY:
                self.granting.told(device, payload)
                self.conduct.saturated(device, saturated_values(payload))
                return []
            case Kind.MODEL | Kind.DIFFERENCE:
                return [*self._sweep.hear(address, payload)]
        raise RemoteProtocolError(refusals.WRONG_KIND, f"{address.kind.name} from a device")

    def _certified(self, heard: Heard[CheckIn | SecureMessage]) -> list[Action]:
        return [] if heard.record is None else [Store(heard.record)]

    def _told(self, device: str, heard: Heard[CheckIn | SecureMessage], now: float) -> list[Action]:
        said = heard.message
        if not isinstance(said, CheckIn):
            return self._member_said(device, said, heard.identity, now)
        signed = bool(heard.identity)
        if self.fleet.is_old(device, said.install_id, heard.counter, signed=signed):
            self.counts["duplicates"] += 1
            return self._count_on(device, said.install_id, heard.counter)
        return self._check_in(device, said, now)

    def _count_on(self, device: str, install_id: bytes, counter: int) -> list[Action]:
        """Answer who speaks from an earlier start: the copy of a medium, or one that was restored.

        To a device that is not, because a broker only says again what it once said, it is no news.
        """
        newest = self.fleet.newest_start(device)
        if counter >> COUNTER_START_BITS >= newest:
            return []
        reason = refusals.OLD_START
        told = Refusal(b"", reason, refusals.MEANING[reason], 0, install_id, newest)
        return [self._publication.to_device(device, told)]

    def timer(self, now: float) -> list[Action]:
        """Time passed: leases run out, chunks are asked for, buffers close."""
        actions: list[Action] = []
        self.conduct.tick(now)
        expired = self.leases.expire(now)
        for lease in expired:
            self.conduct.note(lease.record.device, LATE)
        self.counts["leases_expired"] += len(expired)
        self.granting.expired(expired, now)
        for lease_id, partial in self.partials.to_ask_for(now):
            missing = ChunksMissing(lease_id, tuple(partial.assembly.missing()))
            actions.append(self._publication.to_device(partial.device, missing))
        for _, partial in self.partials.give_up(now):
            self._count_refusal(partial.device, refusals.INCOMPLETE)
        if self.secure is not None:
            actions += self.secure.timer(now)
        return [*self._judged(), *actions, *self._sweep.end(now), *self._advance(now)]

    def timer_at(self, now: float) -> float:
        """Return when `timer` should be called next."""
        fills = self.buffers.fills
        times = [
            math.inf if self.secure is None else self.secure.timer_at(),
            self.leases.next_expiry(),
            self.partials.next_deadline(),
            self.granting.next_at(now),
            self._sweep.until,
            *[self._scheduling.next_deadline(self._view(fill, now)) for fill in fills],
        ]
        return min(at for at in times if at is not None)

    # --- who may take part -------------------------------------------------------------------

    def decreed(self, standings: Iterable[StandingRecord]) -> list[Action]:
        """The standings as the store has them: `fedbus devices` may have changed some."""
        actions: list[Action] = []
        for record in self.conduct.decreed(standings):
            self._say(record.device, record.standing.value, record.reason or "by the operator")
            actions += self._shut_out(record)
        return actions

    def _judged(self) -> list[Action]:
        """Store and carry out what the evidence has led to."""
        actions: list[Action] = []
        for record in self.conduct.verdicts():
            self._say(record.device, record.standing.value, record.reason)
            actions += [Store(record), *self._shut_out(record)]
        return actions

    def _shut_out(self, record: StandingRecord) -> list[Action]:
        """Take from a device what it has under way: its place in the queue, its open lease."""
        if record.standing is Standing.ADMITTED:
            return []
        self.fleet.dismiss(record.device)
        lease = self.leases.of_device(record.device)
        if lease is None or lease.state is not LeaseState.OPEN:
            return []
        refusal = self._refusal(lease, refusals.QUARANTINED, refusals.MEANING[refusals.QUARANTINED])
        return [*self._forget(lease, refusals.QUARANTINED), refusal]

    # --- the members of a secure task --------------------------------------------------------

    @property
    def _said(self) -> tuple[type[CheckIn | SecureMessage], ...]:
        """What a device may say on its own topic."""
        return (CheckIn,) if self.secure is None else (CheckIn, *self.secure.said)

    def _member_said(
        self, device: str, said: SecureMessage, identity: bytes, now: float
    ) -> list[Action]:
        if self.secure is None:
            raise RemoteProtocolError(refusals.WRONG_KIND, "this task is not secure")
        return [*self.secure.message(device, said, identity, now), *self._advance(now)]

    def _presence(self, device: str, now: float) -> list[Action]:
        if self.secure is None:
            return []
        actions = self.secure.presence(device, now)
        return [*actions, *self._advance(now)] if actions else []

    def roster(self, signed: SignedRoster, now: float) -> list[Action]:
        """The operator lays down a roster.

        Raises RemoteProtocolError or, where it does not fit the settings, ConfigError.
        """
        if self.secure is None:
            return []
        actions = self.secure.offer(signed, now)
        return [*actions, *self._advance(now)]

    # --- check-in and lease ------------------------------------------------------------------

    def _check_in(self, device: str, check_in: CheckIn, now: float) -> list[Action]:
        self.counts["check_ins"] += 1
        try:
            record = self.fleet.register(device, check_in.install_id)
        except RemoteProtocolError as error:
            return self._turn_away(device, check_in, error.reason)
        registered: list[Action] = [] if record is None else [Store(record)]
        if check_in.pending:
            return [*registered, *self._ask_after(device, check_in.pending)]
        reason, detail = self._objection(device, check_in)
        if reason:
            return [*registered, *self._turn_away(device, check_in, reason, detail)]
        self.conduct.declared(device, check_in.num_samples)
        lease = self.leases.of_device(device)
        if check_in.num_samples == 0 or (lease and lease.state is LeaseState.JOURNALLED):
            return registered
        if lease is not None and self._is_good(lease):
            self.partials.drop(lease.lease_id)  # it will train again: these are of another update
            return [*registered, *self._messages.of(lease, check_in, now)]
        if lease is not None:  # it ran out, and the device holds no update for it
            registered += self._forget(lease, refusals.SUPERSEDED)
        self.fleet.wait(device, check_in, now, ready=self._is_ready(device, now))
        return [*registered, *self._advance(now)]

    def _objection(self, device: str, check_in: CheckIn) -> tuple[str, str]:
        """Return why a device gets no lease whatever comes, and more of it; empty: nothing."""
        if self.conduct.standing(device) is not Standing.ADMITTED:
            return refusals.QUARANTINED, ""
        if self.secure is not None and (reason := self.secure.standing(device)):
            return reason, ""
        words = frozenset(check_in.codecs)
        if not (self.granting.serves(words) and self.downlink.needs <= words):
            missing = sorted((self.codec.words | self.downlink.needs) - words)
            detail = f"this task needs {', '.join(missing)}: update the device's SDK"
            return refusals.WRONG_CODEC, detail
        given, least = check_in.num_samples, self.config.min_samples
        if 0 < given < least:
            detail = f"{given} samples at hand: an update of this task needs {least}"
            return refusals.FEW_SAMPLES, detail
        return (refusals.PRIVACY_SPENT, "") if self.privacy.is_spent(device) else ("", "")

    def _is_good(self, lease: Lease) -> bool:
        """It runs, and its version is published: a restart lets leases run again that had ended."""
        return self.leases.is_running(lease) and self.downlink.is_published(lease.record.version)

    def _turn_away(
        self, device: str, check_in: CheckIn, reason: str, detail: str = ""
    ) -> list[Action]:
        self._count_refusal(device, reason, detail)
        stay_s = self.config.check_in_s if reason in FOR_NOW else TURNED_AWAY_S
        text = detail or refusals.MEANING[reason]
        refusal = Refusal(b"", reason, text, stay_s, check_in.install_id)
        return [self._publication.to_device(device, refusal)]

    def _grant(self, now: float) -> list[Action]:
        actions: list[Action] = []
        view = self.view(now)
        for grant in self.granting.grants(
            self._scheduling.num_grants(view),
            now,
            opened_at=view.opened_at,
            partial_bytes=self.partials.num_bytes,
            bytes_down=lambda check_in: self._messages.bytes_down(check_in, self.version),
        ):
            device, check_in = grant.waiting.device, grant.waiting.check_in
            record = LeaseRecord(
                self._messages.new_id(self.version), device, self.version, str(grant.codec)
            )
            lease = self.granting.open(record, grant, now)
            self.counts["leases_given"] += 1
            actions += [Store(record), *self._messages.of(lease, check_in, now)]
        if actions and self.config.mode == "rounds":
            self.buffers.open(now)
        return actions

    # --- updates -----------------------------------------------------------------------------

    def _ask_after(self, device: str, lease_id: bytes) -> list[Action]:
        lease = self.leases.get(lease_id)
        if lease is None:
            return [Recall(lease_id, device)]
        if lease.record.device != device:
            return self._refuse_unknown(device, lease_id)
        if lease.state is LeaseState.JOURNALLED:
            return [self._publication.to_device(device, Held(lease_id))]
        if self._is_too_stale(lease):
            return self._refuse(lease, refusals.TOO_STALE)
        partial = self.partials.get(lease_id)
        missing = tuple(partial.assembly.missing()) if partial is not None else ()
        return [self._publication.to_device(device, ChunksMissing(lease_id, missing))]

    def _chunk(self, device: str, chunk: UpdateChunk, now: float) -> list[Action]:
        lease = self.leases.get(chunk.lease_id)
        if lease is None:
            return [Recall(chunk.lease_id, device)]
        if lease.record.device != device:
            return self._refuse_unknown(device, chunk.lease_id)
        if lease.state is LeaseState.JOURNALLED:
            self.counts["duplicates"] += 1
            return []
        try:
            self.granting.chunk(lease, len(chunk.data), now)
            budget_bytes = self.granting.budget_bytes(lease.record.codec)
            update = self.partials.add(device, chunk, budget_bytes + chunk.sealed * SEAL_BYTES, now)
            if update is None:
                return []
            if chunk.sealed:
                update = self.gate.unseal(update, lease.lease_id)
            self.buffers.take(lease, update, self.version, now)
        except RemoteProtocolError as error:
            return self._refuse(lease, error.reason, error.detail)
        self.granting.arrived(lease, len(update), now)
        if lease.given_at is not None:
            self.conduct.arrived(device, now - lease.given_at)
        return [*self._journal(lease, update), *self._advance(now)]

    def _journal(self, lease: Lease, data: bytes) -> list[Action]:
        self.leases.journalled(lease)
        record = JournalRecord(self._sequence, lease.lease_id, data)
        self._sequence += 1
        self.counts["updates_accepted"] += 1
        return [Store(record)]

    def recalled(self, device: str, lease_id: bytes, record: LeaseRecord | None) -> list[Action]:
        """The store answered a `Recall`: a closed lease gets the same answer as ever."""
        if record is None:
            return self._refuse_unknown(device, lease_id)
        if record.device != device:
            return self._refuse_unknown(device, lease_id)
        match record.state:
            case LeaseState.COUNTED:
                self.counts["duplicates"] += 1
                answer = Receipt(lease_id, int(record.outcome))
                return [self._publication.to_device(device, answer)]
            case LeaseState.REFUSED:
                meaning = refusals.MEANING.get(record.outcome, record.outcome)
                if record.outcome in CLOSED_UNSEEN:
                    self._count_refusal(device, record.outcome)
                refusal = Refusal(lease_id, record.outcome, meaning)
                return [self._publication.to_device(device, refusal)]
        raise LocalProtocolError(f"a lease that is {record.state.value} was forgotten")

    def _is_too_stale(self, lease: Lease) -> bool:
        return self.version - lease.record.version > self.config.staleness_limit

    # --- refusals ----------------------------------------------------------------------------

    def _refuse(self, lease: Lease, reason: str, detail: str = "") -> list[Action]:
        """Close a lease without counting its update; ``busy`` leaves it open for another try."""
        text = detail or refusals.MEANING[reason]
        self._count_refusal(lease.record.device, reason, text)
        answer = self._refusal(lease, reason, text)
        if reason == refusals.BUSY:
            return [answer]
        return [*self._forget(lease, reason), answer]

    def _refusal(self, lease: Lease, reason: str, text: str) -> Publish:
        refusal = Refusal(lease.lease_id, reason, text[:500])
        return self._publication.to_device(lease.record.device, refusal)

    def _refuse_unknown(self, device: str, lease_id: bytes) -> list[Action]:
        """Answer for a lease that this device never had, whoever else may have it."""
        reason = refusals.UNKNOWN_LEASE
        self._count_refusal(device, reason)
        refusal = Refusal(lease_id, reason, refusals.MEANING[reason])
        return [self._publication.to_device(device, refusal)]

    def _count_refusal(self, device: str, reason: str, detail: str = "") -> None:
        self.counts[f"refused_{reason}"] += 1
        if device != UNKNOWN:
            self.conduct.note(device, reason)
        self._say(device, reason, detail)

    def _member_alert(self, device: str, reason: str, detail: str = "") -> None:
        """A wrong share is proven; what else members of a secure task are said to do is shown."""
        if reason == refusals.EXCLUDED:
            self.conduct.note(device, reason)
        self._say(device, reason, detail)

    def _say(self, device: str, reason: str, detail: str = "") -> None:
        """Show it among the alerts."""
        self.alerts.append(f"{device}: {reason}: {detail or refusals.MEANING[reason]}"[:300])
        del self.alerts[:-MAX_ALERTS]

    # --- buffer and step ---------------------------------------------------------------------

    def view(self, now: float) -> View:
        """Return what scheduling decides by."""
        return self._view(self.buffers.fill, now)

    def _view(self, fill: Fill, now: float) -> View:
        return View(
            now=now,
            num_waiting=self.fleet.num_waiting,
            num_active=self.leases.num_active,
            num_buffered=fill.num_updates,
            num_contributors=fill.num_contributors,
            opened_at=fill.opened_at,
            gathering_since=self.fleet.waiting_since,
            supply=self.granting.supply(self.partials.num_bytes, now),
        )

    def waiting_for(self, now: float) -> str:
        """Return, for a person, what the next version waits for."""
        stopped = self.privacy.why_stopped(self.fleet.num_registered)
        if self.privacy.has_stopped(self.fleet.num_registered):
            return f"nothing, training has ended: {stopped}"
        waits_for = self.buffers.waiting_for() or self._scheduling.waiting_for(self.view(now))
        return f"{waits_for}; {stopped}" if stopped else waits_for

    def _advance(self, now: float) -> list[Action]:
        """Close what is due, take steps with what is done, give the leases that may be given."""
        is_due = self._scheduling.is_due
        actions = self.buffers.close(lambda fill: is_due(self._view(fill, now)), now)
        while outcomes := self.buffers.outcomes():
            for outcome in outcomes:
                actions += self.privacy.released(devices_of(leases_of(outcome.ids, self.leases)))
                actions += self._step(outcome, now)
        if (secure := self.secure) is not None:
            self._notice_epoch(secure)
        if self.secure is not None or self.config.fairness.max_share < 1:
            self.fleet.regroup(lambda device: self._is_ready(device, now))
        if not self.fleet.num_waiting or self._between_rounds(now):
            return actions
        return [*actions, *self._grant(now)]

    def _is_ready(self, device: str, now: float) -> bool:
        """Whether its masks are, and it had no more than its share while others train."""
        if self.secure is not None and not self.secure.is_ready(device, now):
            return False
        return self.leases.num_active == 0 or self._participation.may_train(device)

    def _between_rounds(self, now: float) -> bool:
        """A round that still waits for its sum has no successor yet."""
        return self.config.mode == "rounds" and self.buffers.holds_up(now)

    def _step(self, outcome: Outcome, now: float) -> list[Action]:
        if outcome.mean is None:
            return self._abandon(outcome.ids, outcome.reason)
        self._note_outliers(outcome.kept)
        self._candidates = self._candidates_of(outcome)
        members = leases_of(outcome.ids, self.leases)
        staleness = staleness_of(members, self.version)
        counted = self._memory.told(outcome, staleness, self.version, self.versions.trained)
        if counted is None:
            return self._abandon(outcome.ids, refusals.TOO_STALE)
        moved = gain(members, self.version, self.trained.layout.size)
        record = self.versions.step(outcome.mean, outcome.ids, counted, gain=moved)
        if record is None:
            return self._abandon(outcome.ids, refusals.NOT_FINITE)
        if outcome.alert:
            self._say("buffer", "robust", outcome.alert)
        self.leases.close(outcome.ids)
        stale = self.leases.below(self.version - self.config.staleness_limit)
        open_ = [lease for lease in stale if lease.state is LeaseState.OPEN]
        self.granting.stepped(self.version, open_, now)
        needed = self._needed(self.version)
        record = self.downlink.step(record, self.versions.params, needed)
        self._memory.published(self.version, self.trained.take(self.downlink.hidden), needed)
        retained = self.downlink.retained
        secured = []
        if self.secure is not None:
            secured = self.secure.stepped(self.version, self.versions.trained, now)
        return [
            Store(record),
            *self._memory.counted(outcome, staleness, self.version),
            *[action for lease in open_ for action in self._forget(lease, refusals.TOO_STALE)],
            *secured,
            *self._publication.add(retained),
            self._publication.manifest(self._manifest()),
            *self._publication.clear(retained),
        ]

    def _candidates_of(self, outcome: Outcome) -> Candidates | None:
        if not outcome.groups:
            return None
        params, before = self.versions.params, self.versions.trained
        means = ((each.devices, (before + each.mean).astype("<f4")) for each in outcome.groups)
        models = ((devices, self.trained.replaced(params, moved)) for devices, moved in means)
        return Candidates(params, tuple(models))

    def candidates(self) -> Candidates | None:
        """Take the groups of the newest step, for the shell to say how good each would be."""
        candidates, self._candidates = self._candidates, None
        return candidates

    def groups_tried(self, trials: Sequence[Trial]) -> None:
        """The shell says how good the groups of a step were; after many, who does harm."""
        for device in self._group_watch.seen(trials):
            self.conduct.note(device, GROUP_INFLUENCE)
            self._say(device, GROUP_INFLUENCE, WEIGHTS[GROUP_INFLUENCE].meaning)

    def _note_outliers(self, kept: Sequence[tuple[str, float]]) -> None:
        """What a robust rule has left out of a buffer is a hint, unless it leaves out most."""
        left_out = [device for device, part in kept if part < LEFT_OUT]
        if 2 * len(left_out) < len(kept):
            for device in left_out:
                self.conduct.note(device, OUTLIER)

    def _notice_epoch(self, secure: MaskedBuffers) -> None:
        """With their epoch, devices forget what was counted of them: so do calibrated steps."""
        if self._participation.renewed(secure.cohorts.epochs):
            self.versions.forget()

    def _abandon(self, ids: Iterable[bytes], reason: str) -> list[Action]:
        """Give a buffer up, durably: its members are told, and the model stays as it is."""
        leases = leases_of(ids, self.leases)
        meaning = refusals.MEANING[reason]
        self.counts[f"refused_{reason}"] += len(leases)
        self._say("buffer", reason, f"{len(leases)} updates given up: {meaning}")
        actions: list[Action] = []
        for lease in leases:
            actions += [*self._forget(lease, reason), self._refusal(lease, reason, meaning)]
        return actions

    def _forget(self, lease: Lease, reason: str) -> list[Action]:
        """Close a lease that no update can come for any more; who asks all the same is told why."""
        self.partials.drop(lease.lease_id)
        self.leases.close([lease.lease_id])
        return [Store(RefusalRecord(lease.lease_id, reason))]

    def _plan(self) -> Plan:
        model, training = self.config.documents()
        return Plan(model, training, self.config.codec, self.config.check_in_s)

    def _manifest(self) -> Manifest:
        newest = self.versions.newest
        route = self.downlink.route(newest.version)
        return Manifest(
            newest.version,
            route.model_hash,
            route.model_bytes,
            self._publication.num_chunks(route.model_bytes),
            newest.counted,
            route.keyframe,
            route.model,
        )
