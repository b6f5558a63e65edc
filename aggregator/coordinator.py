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
- a buffer is a sum in journal order, so that a replay of the journal gives the same bytes.
"""

import hashlib
import math
from collections import Counter
from typing import Final

from aggregator.actions import Action, Recall, Store
from aggregator.admission import admit, read_delta
from aggregator.assembly import Partials
from aggregator.buffer import Buffer
from aggregator.config import TaskConfig
from aggregator.fleet import Fleet
from aggregator.leases import Lease, LeaseBook
from aggregator.publication import Publication
from aggregator.records import (
    CounterRecord,
    JournalRecord,
    LeaseRecord,
    LeaseState,
    RefusalRecord,
    Snapshot,
    VersionRecord,
)
from aggregator.scheduling import View
from aggregator.versions import Versions
from device_sdk.engine.model import Model
from protocol import refusals
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.chunks import payload_bytes
from protocol.codec import decode, open_envelope
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    COUNTER_START_BITS,
    LEASE_ID_BYTES,
    CheckIn,
    ChunksMissing,
    Held,
    Manifest,
    Plan,
    Receipt,
    Refusal,
    UpdateChunk,
)
from protocol.messages import Lease as LeaseMessage
from protocol.stream import derive
from protocol.topics import Address, Kind, Topics
from protocol.vectors.layout import params_to_bytes
from protocol.vectors.packing import max_body_bytes, parse_codec
from protocol.vectors.support import support_seed

#: What an encoded update holds beside its body.
UPDATE_OVERHEAD_BYTES: Final = 64
#: How long after a connect retained chunks are looked through for left-over ones.
SWEEP_S: Final = 30.0
#: The one partition that this process serves.
PARTITION: Final = 0
#: How long an installation that was turned away at check-in is asked to stay away.
TURNED_AWAY_S: Final = 3600
#: Leases are closed for these before any update has come, so the update that comes is counted then.
CLOSED_UNSEEN: Final = frozenset({refusals.TOO_STALE, refusals.SUPERSEDED})
#: How many alerts are kept to be shown.
MAX_ALERTS: Final = 20


class Coordinator:
    """One task. ``seed`` (32 fresh secret bytes a start) makes the lease ids.

    Raises ConfigError if the model does not fit the versions in ``snapshot``.
    """

    def __init__(self, config: TaskConfig, snapshot: Snapshot, seed: bytes, now: float) -> None:
        self.config = config
        self.topics = Topics(config.prefix, config.task)
        self.model = Model(config.model_spec())
        self.fleet = Fleet(config.max_devices, snapshot.devices)
        self.leases = LeaseBook()
        self.counts: Counter[str] = Counter(snapshot.totals)
        self.counts["starts"] += 1
        self.alerts: list[str] = []
        self.buffer = Buffer(self.model.layout.size)
        self.partials = Partials(config.max_assembly_bytes, config.chunk_patience_s)
        self.opened_at: float | None = None
        self._sweep_until = math.inf
        self._publication = Publication(self.topics, self.counts["starts"] << COUNTER_START_BITS)
        self._seed = seed
        self._num_leases = 0
        self._sequence = snapshot.next_sequence
        self._codec = parse_codec(config.codec)
        self._weigh = config.staleness.weight()
        self._scheduling = config.scheduling
        self._budget_bytes = max_body_bytes(self._codec, self.model.layout) + UPDATE_OVERHEAD_BYTES
        self._first: list[Action] = [Store(CounterRecord({"starts": self.counts["starts"]}))]
        self.versions = self._load_versions(snapshot)
        self._load_leases(snapshot, now)

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
            self._first.append(Store(newest))
        self._publication.restore(snapshot.live_params.items())
        self._publication.restore([(newest.version, newest.params)])
        return Versions(self.config.strategy.strategy(), self.model.layout.size, newest)

    def _load_leases(self, snapshot: Snapshot, now: float) -> None:
        for record in snapshot.leases:
            lease = self.leases.open(record, now + self.config.lease_ttl_s)
            if record.state is LeaseState.JOURNALLED:
                self.leases.journalled(lease)
        for entry in snapshot.journal:
            waiting = self.leases.get(entry.lease_id)
            if waiting is None:
                raise LocalProtocolError(f"journal entry {entry.sequence} belongs to no lease")
            try:
                self._take(waiting, entry.update)
            except RemoteProtocolError as error:  # the settings have changed since it was admitted
                self._first += self._refuse(waiting, error.reason, error.detail)
        round_open = self.config.mode == "rounds" and self.leases.num_active > 0
        self.opened_at = now if self.buffer or round_open else None

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
        self._sweep_until = now + SWEEP_S
        own = self.topics.own_model_filter()
        return [
            Subscribe((*self.topics.aggregator_filters(), own)),
            *self._publication.everything(self._plan(), self._manifest()),
        ]

    def _sweep(self, address: Address, payload: bytes) -> list[Action]:
        if not payload or self._publication.is_current(address.version, address.index):
            return []
        return [Publish(self.topics.model(address.version, address.index), b"", retain=True)]

    def _end_sweep(self, now: float) -> list[Action]:
        if now < self._sweep_until:
            return []
        self._sweep_until = math.inf
        return [Unsubscribe((self.topics.own_model_filter(),))]

    # --- events ------------------------------------------------------------------------------

    def message(self, topic: str, payload: bytes, now: float) -> list[Action]:
        """A message arrived. Whatever is in it, the answer is a list of actions."""
        device = ""
        try:
            address = self.topics.parse(topic)
            device = address.device
            return self._dispatch(address, payload, now)
        except RemoteProtocolError as error:
            self._count_refusal(device or "unknown sender", error.reason, error.detail)
            return []

    def _dispatch(self, address: Address, payload: bytes, now: float) -> list[Action]:
        task, device = self.topics.task, address.device
        match address.kind:
            case Kind.UPDATE if address.part == PARTITION:
                chunk = decode(payload, (UpdateChunk,), task=task, sender=device)
                return self._chunk(device, chunk, now)
            case Kind.OUT:
                check_in = decode(payload, (CheckIn,), task=task, sender=device)
                counter = open_envelope(payload).counter
                if self.fleet.is_old(device, check_in.install_id, counter):
                    self.counts["duplicates"] += 1
                    return []
                return self._check_in(device, check_in, now)
            case Kind.STATE:
                self.fleet.see(device, payload)
                return []
            case Kind.MODEL:
                return self._sweep(address, payload)
        raise RemoteProtocolError(refusals.WRONG_KIND, f"{address.kind.name} from a device")

    def timer(self, now: float) -> list[Action]:
        """Time passed: leases run out, chunks are asked for, buffers close."""
        actions: list[Action] = []
        self.counts["leases_expired"] += len(self.leases.expire(now))
        for lease_id, partial in self.partials.to_ask_for(now):
            missing = ChunksMissing(lease_id, tuple(partial.assembly.missing()))
            actions.append(self._publication.to_device(partial.device, missing))
        for _, partial in self.partials.give_up(now):
            self._count_refusal(partial.device, refusals.INCOMPLETE)
        return [*actions, *self._end_sweep(now), *self._advance(now)]

    def timer_at(self, now: float) -> float:
        """Return when `timer` should be called next."""
        times = (
            self.leases.next_expiry(),
            self.partials.next_deadline(),
            self._sweep_until,
            self._scheduling.next_deadline(self.view(now)),
        )
        return min((at for at in times if at is not None), default=math.inf)

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
        if not {self._codec.support, self._codec.dtype} <= set(check_in.codecs):
            return [*registered, *self._turn_away(device, check_in, refusals.WRONG_CODEC)]
        lease = self.leases.of_device(device)
        if check_in.num_samples == 0 or (lease and lease.state is LeaseState.JOURNALLED):
            return registered
        if lease is not None and self.leases.is_running(lease):
            self.partials.drop(lease.lease_id)  # it will train again: these are of another update
            return [*registered, self._lease_message(lease, check_in.install_id, now)]
        if lease is not None:  # it ran out, and the device holds no update for it
            registered += self._forget(lease, refusals.SUPERSEDED)
        self.fleet.wait(device, check_in, now)
        return [*registered, *self._advance(now)]

    def _turn_away(self, device: str, check_in: CheckIn, reason: str) -> list[Action]:
        self._count_refusal(device, reason)
        refusal = Refusal(b"", reason, refusals.MEANING[reason], TURNED_AWAY_S, check_in.install_id)
        return [self._publication.to_device(device, refusal)]

    def _grant(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for _ in range(self._scheduling.num_grants(self.view(now))):
            waiting = self.fleet.next()
            record = LeaseRecord(
                self._new_lease_id(), waiting.device, self.version, self.config.codec
            )
            lease = self.leases.open(record, now + self.config.lease_ttl_s)
            self.counts["leases_given"] += 1
            message = self._lease_message(lease, waiting.check_in.install_id, now)
            actions += [Store(record), message]
        if actions and self.opened_at is None and self.config.mode == "rounds":
            self.opened_at = now
        return actions

    def _new_lease_id(self) -> bytes:
        """Return an id nobody can guess; the version in front keeps new ids together on disk."""
        self._num_leases += 1
        drawn = derive(self._seed, "lease", self._num_leases)
        return (self.version.to_bytes(5, "big") + drawn)[:LEASE_ID_BYTES]

    def _lease_message(self, lease: Lease, install_id: bytes, now: float) -> Publish:
        model = self._publication.live(lease.record.version)
        message = LeaseMessage(
            lease.lease_id,
            install_id,
            lease.record.version,
            model.model_hash,
            len(model.params),
            self._publication.num_chunks(len(model.params)),
            lease.record.codec,
            self._budget_bytes,
            partition=PARTITION,
            ttl_s=max(1, math.ceil(lease.expires_at - now)),
        )
        return self._publication.to_device(lease.record.device, message)

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
            update = self.partials.add(device, chunk, self._budget_bytes, now)
            if update is None:
                return []
            self._take(lease, update)
        except RemoteProtocolError as error:
            return self._refuse(lease, error.reason, error.detail)
        return [*self._journal(lease, update), *self._advance(now)]

    def _take(self, lease: Lease, data: bytes) -> None:
        """Check an update and take it into the buffer, or raise and change nothing."""
        update, staleness = admit(
            data,
            leased_version=lease.record.version,
            leased_codec=lease.record.codec,
            version=self.version,
            limit=self.config.staleness_limit,
        )
        codec = self._codec if update.codec == self.config.codec else parse_codec(update.codec)
        delta = read_delta(
            update, codec, self.model.layout, support_seed(self.config.task, update.base_version)
        )
        weight = self._weigh(staleness)
        if self.config.weigh_by_samples:
            weight *= min(max(1, update.num_samples), self.config.samples_cap)
        self.buffer.add(lease.lease_id, lease.record.device, delta, weight)

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
        refusal = Refusal(lease.lease_id, reason, text[:500])
        answer = self._publication.to_device(lease.record.device, refusal)
        if reason == refusals.BUSY:
            return [answer]
        return [*self._forget(lease, reason), answer]

    def _refuse_unknown(self, device: str, lease_id: bytes) -> list[Action]:
        """Answer for a lease that this device never had, whoever else may have it."""
        reason = refusals.UNKNOWN_LEASE
        self._count_refusal(device, reason)
        refusal = Refusal(lease_id, reason, refusals.MEANING[reason])
        return [self._publication.to_device(device, refusal)]

    def _count_refusal(self, device: str, reason: str, detail: str = "") -> None:
        self.counts[f"refused_{reason}"] += 1
        self.alerts.append(f"{device}: {reason}: {detail or refusals.MEANING[reason]}"[:300])
        del self.alerts[:-MAX_ALERTS]

    # --- buffer and step ---------------------------------------------------------------------

    def view(self, now: float) -> View:
        """Return what scheduling decides by."""
        return View(
            now=now,
            num_waiting=self.fleet.num_waiting,
            num_active=self.leases.num_active,
            num_buffered=len(self.buffer),
            num_contributors=len(self.buffer.devices),
            opened_at=self.opened_at,
            gathering_since=self.fleet.waiting_since,
        )

    def waiting_for(self, now: float) -> str:
        """Return, for a person, what the next version waits for."""
        return self._scheduling.waiting_for(self.view(now))

    def _advance(self, now: float) -> list[Action]:
        """Close the buffer if it is due, and give the leases that may be given."""
        if self.buffer and self.opened_at is None:
            self.opened_at = now
        actions = self._step() if self._scheduling.is_due(self.view(now)) else []
        return [*actions, *self._grant(now)] if self.fleet.num_waiting else actions

    def _step(self) -> list[Action]:
        counted = tuple(self.buffer.ids)
        record = self.versions.step(self.buffer.mean(self.config.normalise), counted)
        if record is None:
            return self._abandon(refusals.NOT_FINITE)
        self.leases.close(counted)
        self._empty_buffer()
        stale = self.leases.below(self.version - self.config.staleness_limit)
        kept = self.leases.open_versions()
        return [
            Store(record),
            *[action for lease in stale for action in self._forget(lease, refusals.TOO_STALE)],
            *self._publication.version(record, self._manifest()),
            *self._publication.clear(lambda version: self._is_newest(version) or version in kept),
        ]

    def _abandon(self, reason: str) -> list[Action]:
        """Give a buffer up, durably: its members are told, and the model stays as it is."""
        leases = [lease for id_ in self.buffer.ids if (lease := self.leases.get(id_)) is not None]
        self._empty_buffer()
        return [action for lease in leases for action in self._refuse(lease, reason)]

    def _empty_buffer(self) -> None:
        self.buffer.clear()
        self.opened_at = None

    def _forget(self, lease: Lease, reason: str) -> list[Action]:
        """Close a lease that no update can come for any more; who asks all the same is told why."""
        self.partials.drop(lease.lease_id)
        self.leases.close([lease.lease_id])
        return [Store(RefusalRecord(lease.lease_id, reason))]

    def _is_newest(self, version: int) -> bool:
        return version > self.version - self.config.keep_versions

    def _plan(self) -> Plan:
        model, training = self.config.documents()
        return Plan(model, training, self.config.codec, self.config.check_in_s)

    def _manifest(self) -> Manifest:
        newest = self.versions.newest
        size = len(newest.params)
        num_chunks = self._publication.num_chunks(size)
        return Manifest(newest.version, newest.model_hash, size, num_chunks, newest.counted)
