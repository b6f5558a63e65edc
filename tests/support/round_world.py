"""A federation in rounds of `pairwise`, in virtual time: real machines, and an audit of each word.

The audit hears every copy of every message that the broker hands out, and sees every commit:

- a version is the version before and the exact mean of what the devices named in it had trained;
- of one round there is one list of dealers, one outcome, and from each device one body, one
  signature and one answer, however often they are said.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from aggregator.pairwise import PairwiseBuffers
from aggregator.records import LeaseRecord, Record, VersionRecord
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import Enrolment, SecureConfig
from aggregator.strategy import Float32
from aggregator.strategy.fedavg import fedavg
from aggregator.task_config import TaskConfig
from aggregator.versions import Versions
from device_sdk.identity import parse_keys
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.codec import decode, open_envelope, unpack
from protocol.messages import UpdateChunk
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    MaskedUpdate,
    RoundAnswer,
    RoundDealers,
    RoundOutcome,
    RoundSignature,
)
from protocol.stream import derive
from protocol.topics import Kind
from protocol.vectors.layout import params_from_bytes
from simulator import World
from simulator.device import SimulatedDevice
from tests.support.enrolment import cohort
from tests.support.messages import KINDS
from transport import Message as Delivery

SIZE = 6
DEADLINE_S = 20.0
MODEL = {
    "input": [2],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}


def delta_of(device: str, version: int) -> Float32:
    """What a device trains on a version: always the same, and like no other."""
    draw = np.random.default_rng([version, *device.encode()])
    return draw.uniform(-0.05, 0.05, SIZE).astype(np.float32)


def usual(_kind: type[Message] | None, _device: str) -> Sequence[float]:
    """A copy takes 50 ms."""
    return (0.05,)


Hook = Callable[[type[Message] | None, str], Sequence[float]]


@dataclass(frozen=True, slots=True)
class KnownTrainer(Trainer):
    """A trainer whose results can be computed again."""

    device: str

    def num_samples(self) -> int:
        """Ten."""
        return 10

    def train(self, assignment: Assignment) -> Trained:
        """Move by `delta_of`."""
        moved = assignment.params + delta_of(self.device, assignment.version)
        return Trained(moved.astype(np.float32), 10, {})


@dataclass(slots=True)
class Audit:
    """What was said of each round, by (round, device's topic)."""

    said: dict[tuple[str, int, str], bytes] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    counted: list[tuple[str, ...]] = field(default_factory=list)

    def hear(self, device: str, message: Message) -> None:
        """Note one word, and compare it with what was said before."""
        match message:
            case RoundDealers():
                self._note("dealers", message.number, "", bytes(message.dealers))
            case RoundOutcome():
                self._note("outcome", message.number, "", bytes(message.survivors) + message.views)
            case RoundSignature():
                self._note("signature", message.number, device, message.signature)
            case RoundAnswer():
                self._note("answer", message.number, device, message.shares)
            case UpdateChunk():
                update = unpack(message.data, MaskedUpdate)
                self._note("body", update.counter, device, update.body)

    def _note(self, what: str, number: int, device: str, data: bytes) -> None:
        if self.said.setdefault((what, number, device), data) != data:
            self.violations.append(f"two of {device or 'the aggregator'}: {what} of round {number}")

    def num(self, what: str) -> int:
        """How many different ones there were."""
        return sum(each == what for each, _, _ in self.said)


class RoundWorld:
    """N devices ``d00``, ... and their aggregator; `World` under ``world``.

    ``hook`` is asked how long each copy of a message takes, as `simulator.broker.Route` is; it is
    told what the copy is (None: nothing of a round) and to or from which device.
    """

    def __init__(self, num_devices: int = 6, *, seed: int = 0, quorum: int = 0) -> None:
        self.names = [f"d{index:02}" for index in range(num_devices)]
        malicious = max(1, num_devices // 10)
        needed = quorum or (num_devices + malicious) // 2 + 1
        config = TaskConfig(
            task="t",
            model=MODEL,
            mode="rounds",
            rounds=Rounds(size=num_devices, quorum=needed, deadline_s=DEADLINE_S, gather_s=4.0),
            weigh_by_samples=False,
            check_in_s=5,
            lease_ttl_s=60,
            keep_versions=1_000,
        )
        secure = SecureConfig(scheme="pairwise")
        given = secure.parameters(config, num_devices, SIZE)
        enrolled = cohort(
            self.names,
            scheme="pairwise",
            num_malicious=given.num_malicious,
            num_noise=given.num_noise,
            num_answers=given.num_answers,
            min_contributors=given.min_contributors,
            max_contributors=given.max_contributors,
            size=given.size,
        )
        self.parameters = enrolled.roster.parameters
        self._trained = config.trained()
        self.audit = Audit()
        self.hook: Hook = usual
        self._leases: dict[bytes, LeaseRecord] = {}
        enrolment = Enrolment(secure, enrolled.aggregator, enrolled.enrolment, (enrolled.signed,))
        self.world = World(config, derive(bytes(32), seed), enrolment=enrolment)
        self.world.broker.route = self._route
        self.world.server.store.watch = self._committed
        assert self.world.server.coordinator is not None
        self._params = {0: self.world.server.coordinator.versions.newest}
        for name in self.names:
            self.world.add(
                name,
                KnownTrainer(name),
                lambda _: 2.0,
                keys=parse_keys(json.dumps(enrolled.keys[name])),
                retry_first_s=3.0,
                retry_cap_s=10.0,
            )

    # --- what happens --------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The newest version that was committed."""
        return max(self._params)

    @property
    def buffers(self) -> PairwiseBuffers | None:
        """The aggregator's rounds; None while it is down."""
        coordinator = self.world.server.coordinator
        secure = None if coordinator is None else coordinator.secure
        return secure if isinstance(secure, PairwiseBuffers) else None

    def device(self, index: int) -> SimulatedDevice:
        """One of the devices."""
        return self.world.devices[self.names[index]]

    def reaches(self, version: int, limit_s: float = 300.0) -> bool:
        """Let time pass until there is a version; whether it came in time."""
        return self.world.run_until(lambda: self.version >= version, limit_s)

    def soon(self, what: Callable[[], None]) -> None:
        """Let something happen right after what is happening."""
        self.world.queue.after(0.0, what)

    # --- the audit -----------------------------------------------------------------------------

    def _route(self, _client_id: str, message: Delivery) -> Sequence[float]:
        address = self.world.topics.parse(message.topic)
        if address.kind not in {Kind.IN, Kind.OUT, Kind.UPDATE}:
            return self.hook(None, address.device)
        sender = open_envelope(message.payload).sender
        said = decode(message.payload, tuple(KINDS), task="t", sender=sender)
        self.audit.hear(address.device, said)
        return self.hook(type(said), address.device)

    def _committed(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, LeaseRecord):
                self._leases[record.lease_id] = record
            if isinstance(record, VersionRecord) and record.version > 0:
                self._check(record)
                self._params[record.version] = record

    def _check(self, record: VersionRecord) -> None:
        """A version must be, bit for bit, what comes of the plain values."""
        given = self.parameters
        devices = []
        total = np.zeros(given.size, np.int64)
        for lease_id in record.counted:
            lease = self._leases[lease_id]
            base = params_from_bytes(self._params[lease.version].params, SIZE)
            trained = (base + delta_of(lease.device, lease.version)).astype(np.float32)
            total += given.encode(trained - base, 5)[0]
            devices.append(lease.device)
        mean = total[:-1] / (given.scale * given.weight_of(int(total[-1])))
        versions = Versions(fedavg(), self._trained, self._params[record.version - 1])
        expected = versions.step(mean, record.counted)
        if expected is None or expected.params != record.params:
            self.audit.violations.append(f"version {record.version} is not the exact mean")
        if len(set(devices)) < given.min_contributors or len(set(devices)) != len(devices):
            self.audit.violations.append(f"version {record.version} is a sum over {devices}")
        self.audit.counted.append(tuple(sorted(devices)))
