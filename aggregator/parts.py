"""What a coordinator is made of: every part of one task, put together from settings and store.

Nothing is decided here. The deciders (`check_ins`, `eligibility`, `arrivals`, `progress`,
`stepping`, `standings`) are given all parts, and name in their constructors those that they use.
"""

import hashlib
from collections import Counter
from dataclasses import replace

from aggregator.actions import Action, Store
from aggregator.assembly import Partials
from aggregator.buffers import Buffers, PlainBuffers
from aggregator.conduct.book import Book
from aggregator.downlink import Downlink
from aggregator.fleet import Fleet
from aggregator.gate import Gate, Trust
from aggregator.granting import Granting
from aggregator.lease_messages import LeaseMessages
from aggregator.leases import LeaseBook
from aggregator.masked import MaskedBuffers, Shared, make_masked_buffers
from aggregator.memory import Memory
from aggregator.privacy.budget import Budget
from aggregator.privacy.checks import check_privacy
from aggregator.publication import Publication
from aggregator.records import CounterRecord, LeaseState, Snapshot, VersionRecord
from aggregator.refusing import Refusing
from aggregator.robust.root import root_delta
from aggregator.secure_config import Enrolment
from aggregator.statistics import statistics_of
from aggregator.task_config import TaskConfig
from aggregator.versions import Versions, wanted
from device_sdk.engine.data import Block
from device_sdk.engine.model import Model
from device_sdk.engine.subset import trained_subset
from protocol.messages import COUNTER_START_BITS
from protocol.stream import derive
from protocol.topics import Topics
from protocol.vectors.layout import params_to_bytes
from protocol.vectors.packing import CodecSpec


class Parts:
    """``first`` is what must be stored before anything is said. Arguments: see `Coordinator`.

    Made in the order in which they rest on each other.
    """

    def __init__(
        self,
        config: TaskConfig,
        snapshot: Snapshot,
        seed: bytes,
        now: float,
        enrolment: Enrolment | None,
        *,
        trust: Trust | None,
        root: Block | None,
    ) -> None:
        check_privacy(config, masked=enrolment is not None)
        if trust is None and enrolment is not None:
            trust = enrolment.trust
        self.config = config = config.settled(masked=enrolment is not None)
        self.topics = Topics(config.prefix, config.task)
        self.model = Model(config.model_spec())
        self.trained = trained_subset(self.model.spec, config.training)
        self.fleet = Fleet(config.max_devices, snapshot.devices, config.selection.site_of)
        self.leases = LeaseBook()
        self.partials = Partials(config.max_assembly_bytes, config.chunk_patience_s)
        self.counts: Counter[str] = Counter(snapshot.totals)
        self.counts["starts"] += 1
        self.first: list[Action] = [Store(CounterRecord({"starts": self.counts["starts"]}))]
        self.publication = self._make_publication(trust)
        self.downlink, self.versions = self._open_versions(snapshot)
        self.codec = _codec_of(config, enrolment)
        self.granting = self._make_granting(derive(seed, "selection"))
        self.conduct = self._open_book(snapshot, now)
        self.refusing = Refusing(
            self.publication,
            self.leases,
            self.partials,
            self.conduct,
            self.counts,
            check_in_s=config.check_in_s,
        )
        self.secure = self._open_masked(enrolment, snapshot, derive(seed, "rounds"), now)
        self.gate = self._make_gate(trust, snapshot)
        self.messages = self._make_messages(seed)
        self.memory = self._open_memory(snapshot)
        self.privacy = self._open_budget(snapshot, derive(seed, "privacy"))
        if self.memory.participation.is_outdated:
            self.versions.forget()
        self.buffers = self._make_buffers(root)

    # --- the model, and how it is published --------------------------------------------------

    def _make_publication(self, trust: Trust | None) -> Publication:
        counter = self.counts["starts"] << COUNTER_START_BITS
        signer = None if trust is None else trust.signer(self.config.prefix)
        return Publication(self.topics, counter, signer)

    def _open_versions(self, snapshot: Snapshot) -> tuple[Downlink, Versions]:
        config, trained = self.config, self.trained
        statistics = statistics_of(self.model.spec, trained)
        downlink = Downlink(config.bandwidth, trained, config.task, statistics.variances)
        newest = snapshot.version or self._first_version()
        versions = Versions(config.strategy.strategy(), trained, newest, statistics)
        if snapshot.version is None:
            self.first.append(Store(downlink.step(newest, versions.params, ())))
        else:  # open leases are opened again
            open_ = [each for each in snapshot.leases if each.state is LeaseState.OPEN]
            needed = wanted(newest.version, [each.version for each in open_], config.keep_versions)
            downlink.restore(newest, snapshot.published, snapshot.live_params, needed)
        self.publication.restore(downlink.retained)
        return downlink, versions

    def _first_version(self) -> VersionRecord:
        config = self.config
        seed = derive(config.init_seed.to_bytes(32, "little"), "init", config.task)
        params = params_to_bytes(self.model.init(seed))
        return VersionRecord(0, params, hashlib.sha256(params).digest())

    # --- devices and their leases ------------------------------------------------------------

    def _make_granting(self, seed: bytes) -> Granting:
        return Granting(
            self.config,
            self.fleet,
            self.leases,
            self.codec,
            self.trained.layout,
            seed=seed,
            version=self.versions.number,
        )

    def _open_book(self, snapshot: Snapshot, now: float) -> Book:
        return Book(
            self.config.conduct,
            max_devices=self.config.max_devices,
            update_bytes=self.granting.update_bytes,
            standings=snapshot.standings,
            evidence=snapshot.evidence,
            now=now,
        )

    def _make_gate(self, trust: Trust | None, snapshot: Snapshot) -> Gate:
        if self.secure is None:
            return Gate(self.topics, trust, snapshot.documents)
        return Gate(self.topics, trust, snapshot.documents, self.secure.cohorts.identity)

    def _make_messages(self, seed: bytes) -> LeaseMessages:
        return LeaseMessages(
            self.publication,
            self.downlink,
            self.granting,
            secure=self.secure,
            counts=self.counts,
            seed=seed,
            num_params=self.trained.whole.size,
        )

    # --- sums, and what is known of them -----------------------------------------------------

    def _open_masked(
        self, enrolment: Enrolment | None, snapshot: Snapshot, seed: bytes, now: float
    ) -> MaskedBuffers | None:
        if enrolment is None:
            return None
        secure, opened = make_masked_buffers(
            self.config,
            enrolment,
            snapshot,
            now,
            topics=self.topics,
            codec=self.codec,
            versions=self.versions,
            size=self.trained.layout.size,
            shared=Shared(
                self.publication,
                self.leases,
                self.counts,
                self.refusing.note_member,
                self.fleet.is_online,
            ),
            seed=seed,
        )
        self.first += opened
        return secure

    def _open_memory(self, snapshot: Snapshot) -> Memory:
        epochs = "-" if self.secure is None else self.secure.cohorts.epochs
        memory = Memory(self.config, snapshot.documents, epochs, self.trained.layout.size)
        memory.published(self.versions.number, self.trained.take(self.downlink.hidden), ())
        return memory

    def _open_budget(self, snapshot: Snapshot, seed: bytes) -> Budget:
        budget = Budget(self.config.privacy, snapshot.documents, seed, self.versions.number)
        self.first += budget.start()
        return budget

    def _make_buffers(self, root: Block | None) -> Buffers:
        if self.secure is not None:
            return self.secure
        return PlainBuffers(
            self.config,
            self.trained.layout,
            self.memory.participation,
            self.memory.history,
            central=self.privacy.central,
            root=root_delta(self.config, self.versions, self.model, root),
        )


def _codec_of(config: TaskConfig, enrolment: Enrolment | None) -> CodecSpec:
    """Return what leases name where nothing else is chosen."""
    if enrolment is None:
        return config.uplink
    return replace(enrolment.config.codec, calibrated=config.uplink.calibrated)
