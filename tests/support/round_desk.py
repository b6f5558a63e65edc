"""A coordinator in rounds of `pairwise`, on its real store; real devices' machines without a bus.

Nothing happens by itself: `relay` brings devices what was said to them, and their answers back.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.coordinator import Coordinator
from aggregator.pairwise import ROUND, PairwiseBuffers
from aggregator.pairwise_round import PairwiseRound
from aggregator.scheduling.rounds import Rounds as Schedule
from device_sdk.actions import Store
from device_sdk.masking import choose
from device_sdk.pairwise import Rounds
from protocol.chunks import checksum
from protocol.codec import decode, encode, encode_update
from protocol.identity import Signer
from protocol.messages import AGGREGATOR, CheckIn, Lease, Refusal, UpdateChunk
from protocol.secagg.field import Elements
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import MaskedUpdate, RoundTold, Support
from protocol.stream import derive
from tests.support.desk import Desk, Vector, install_id
from tests.support.secure_desk import (
    MASKED_CODECS,
    enrol,
    enrolment_of,
    secure_settings,
    secure_task,
)

#: N, t, T, U = 8, 1, 4, 6: five must sign, and five answers decode.
NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")
DEADLINE_S = 40.0


class RoundDesk:
    """`Desk` of a task in rounds; ``desk`` is the coordinator's half."""

    def __init__(
        self,
        directory: Path,
        names: Sequence[str] = NAMES,
        *,
        support: str = "dense",
        rounds: Schedule | None = None,
        valid_s: int = 86_400,
        **settings: Any,
    ) -> None:
        schedule = rounds or Schedule(
            size=len(names), quorum=5, deadline_s=DEADLINE_S, gather_s=1.0
        )
        self.config = secure_task(mode="rounds", rounds=schedule, **settings)
        self.secure_config = secure_settings(scheme="pairwise", support=support, samples_cap=100)
        self.names = tuple(names)
        self.cohort = enrol(self.names, self.config, self.secure_config, valid_s=valid_s)
        self.desk = Desk(directory, self.config, enrolment_of(self.cohort, self.secure_config))
        self.counts_of: Counter[str] = Counter()
        self.flash: dict[str, dict[str, bytes]] = {name: {} for name in self.names}
        self._num_starts = 0
        self.devices = {name: self._start(name) for name in self.names}
        self.elements: dict[bytes, Elements] = {}
        self._heard = dict.fromkeys(self.names, 0)
        self._counter = 1

    # --- short names ---------------------------------------------------------------------------

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator of this start."""
        return self.desk.coordinator

    @property
    def buffers(self) -> PairwiseBuffers:
        """Its rounds."""
        assert isinstance(self.coordinator.secure, PairwiseBuffers)
        return self.coordinator.secure

    @property
    def round(self) -> PairwiseRound:
        """The round that is under way."""
        assert self.buffers.round is not None
        return self.buffers.round

    @property
    def version(self) -> int:
        """The current version."""
        return self.coordinator.version

    @property
    def stored(self) -> bytes | None:
        """What the store has of the round."""
        return self.desk.store.snapshot().documents.get(ROUND)

    def index(self, name: str) -> int:
        """Return a device's place in the roster."""
        found = self.cohort.roster.index(name)
        assert found is not None
        return found

    def refused(self, name: str) -> str:
        """Return why the newest word to a device is a refusal."""
        refusal = self.desk.last(name)
        assert isinstance(refusal, Refusal), refusal
        return refusal.reason

    def told(self, name: str, kind: type[Message]) -> list[Message]:
        """Return what a device was told of one kind, oldest first."""
        return [message for to, message in self.desk.said if to == name and type(message) is kind]

    # --- devices -------------------------------------------------------------------------------

    def _start(self, name: str) -> Rounds:
        self._num_starts += 1
        return Rounds(
            self.cohort.roster,
            self.index(name),
            identity=self.cohort.identity(name),
            seed=derive(bytes(32), "device", self._num_starts),
            stored=dict(self.flash[name]),
            counts=self.counts_of,
        )

    def reboot(self, name: str) -> None:
        """A device loses its memory."""
        self.devices[name] = self._start(name)

    def online(self, *names: str) -> None:
        """Devices are there."""
        for name in names or self.names:
            self.desk.hear(self.coordinator.topics.state(name), b"online")

    def tell(self, name: str, message: Message, *, signer: str | None = None) -> None:
        """A device says something signed, by itself unless told otherwise."""
        identity = self.cohort.identity(signer or name)
        self._counter += 1
        topic = self.coordinator.topics.out(name)
        payload = encode(
            message,
            task=self.config.task,
            sender=name,
            counter=self._counter << 32,
            sign=Signer(identity, self.config.prefix).on(topic),
        )
        self.desk.hear(topic, payload)

    def relay(self, *names: str) -> None:
        """Bring devices what was said to them since the last time, and their answers back."""
        for name in names or self.names:
            for answer in self.answers(name):
                self.tell(name, answer)

    def answers(self, name: str) -> list[Message]:
        """Bring a device what was said to it; return what it answers."""
        heard = [message for to, message in self.desk.said if to == name]
        new, self._heard[name] = heard[self._heard[name] :], len(heard)
        answers = []
        for message in new:
            if not isinstance(message, RoundTold):
                continue
            actions, answer = self.devices[name].told(message)
            for action in actions:
                assert isinstance(action, Store)
                self.flash[name][action.key] = action.data
            answers += [] if answer is None else [answer]
        return answers

    # --- rounds --------------------------------------------------------------------------------

    def open(self, *names: str) -> dict[str, Lease]:
        """Devices come, check in, and get a lease; the round opens. Its members are told."""
        self.online(*names)
        for name in names or self.names:
            self.check_in(name)
        self.wait(1.0)
        return {name: self.lease(name) for name in names or self.names}

    def check_in(self, name: str, pending: bytes = b"") -> None:
        """A device is available, or asks after its update."""
        message = CheckIn(install_id(name), -1, 10, MASKED_CODECS, pending)
        self.desk.hear(self.coordinator.topics.out(name), self.desk.sealed(name, message))

    def lease(self, name: str) -> Lease:
        """Return the newest lease of a device."""
        lease = self.told(name, Lease)[-1]
        assert isinstance(lease, Lease)
        return lease

    def deal(self, *names: str) -> None:
        """Keys and shares are exchanged among the devices named; the dealers learn of it."""
        for _ in range(3):
            self.relay(*names)
            self.wait(0.0)

    def upload(self, *names: str, num_samples: int = 1) -> list[bytes]:
        """Devices mask and send; return the lease ids."""
        for name in names or self.names:
            self.send(name, self.update(name, num_samples))
        return [self.lease(name).lease_id for name in names or self.names]

    def update(self, name: str, num_samples: int = 1) -> MaskedUpdate:
        """Return a device's masked update for its newest lease."""
        lease, roster = self.lease(name), self.cohort.roster
        size = self.coordinator.trained.layout.size
        chosen = choose(self.config.task, self.secure_config.codec, self.support, size)
        assert chosen is not None
        values = (
            self.delta_of(name) if chosen.indices is None else self.delta_of(name)[chosen.indices]
        )
        elements, _ = roster.parameters.encode(values, num_samples)
        mask = self.devices[name].take()
        assert mask is not None
        self.elements[lease.lease_id] = elements
        body = mask.apply(roster, elements)
        return MaskedUpdate(lease.version, roster.hash, mask.counter, chosen.number, body)

    def send(self, name: str, update: MaskedUpdate) -> None:
        """An update arrives."""
        data = encode_update(update)
        lease_id = self.lease(name).lease_id
        self.desk.send_chunk(name, UpdateChunk(lease_id, checksum(data), 0, 1, data))

    @property
    def support(self) -> Support | None:
        """The support that devices heard of last."""
        payload = self.desk.retained.get(self.coordinator.topics.support())
        if payload is None:
            return None
        return decode(payload, (Support,), task=self.config.task, sender=AGGREGATOR)

    def delta_of(self, name: str) -> Vector:
        """Return some delta, another one for each device."""
        size = self.coordinator.trained.layout.size
        return np.random.default_rng(ord(name)).uniform(-0.5, 0.5, size).astype(np.float32)

    def mean(self, lease_ids: Sequence[bytes]) -> Vector:
        """Return the exact mean of what was masked under these leases, on the support."""
        given = self.cohort.roster.parameters
        total = np.zeros(given.size, np.int64)
        for lease_id in lease_ids:
            total += self.elements[lease_id]
        mean = total[:-1] / (given.scale * given.weight_of(int(total[-1])))
        return np.asarray(mean, np.float32)

    # --- time and power ------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Time passes, timer by timer; a timer must come to rest at each."""
        until = self.desk.now + seconds
        while (due := self.coordinator.timer_at(self.desk.now)) <= until:
            self.desk.now = max(self.desk.now, due)
            self.desk.perform(self.coordinator.timer(self.desk.now))
            after = self.coordinator.timer_at(self.desk.now)
            assert after > self.desk.now, "the timer does not come to rest"
        self.desk.now = until

    def restart(self) -> None:
        """Crash, and come back from the store; everybody is there."""
        self.desk.silent = False
        self.desk.restart()
        self.online()

    def close(self) -> None:
        """Let the store's files go."""
        self.desk.close()
