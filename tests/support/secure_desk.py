"""A coordinator of a secure task on its real store; devices are played with pure functions.

What a device does is spelled out step by step (`deal`, `hold`, `send`, `answer`), so that a test
can do it wrong. Nothing of `device_sdk` is used.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.coordinator import Coordinator
from aggregator.scheduling.buffered import Buffered
from aggregator.secagg import SecureBuffers
from aggregator.secure_config import Enrolment, SecureConfig
from aggregator.task_config import TaskConfig
from protocol.chunks import checksum
from protocol.codec import decode, encode, encode_update
from protocol.identity import Signer
from protocol.messages import AGGREGATOR, CheckIn, Lease, UpdateChunk
from protocol.secagg import scheme as scheme_of
from protocol.secagg import shares
from protocol.secagg.common import coordinates, read_named
from protocol.secagg.consistency import commitment, commitments, receipt, root, witness
from protocol.secagg.field import Elements, to_bytes, uniform
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    Dealt,
    Holdings,
    MaskedUpdate,
    RecoveryAnswer,
    RecoveryRefusal,
    RecoveryRequest,
    SharesWanted,
    SignedRoster,
    Support,
)
from protocol.secagg.requests import check_request, request_hash
from protocol.stream import derive
from protocol.vectors.packing import DENSE
from protocol.vectors.sparse import Indices
from tests.support.desk import Desk, Vector, install_id, task_config
from tests.support.enrolment import Cohort, cohort

#: N, t, T, U = 8, 1, 4, 6: so that two answers are to spare.
NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")
MASKED_CODECS = (
    *("dense", "randk", "plan", "seedmask", "lightsecagg", "pairwise"),
    *("calibrated", "differences"),
)
#: (dealer, counter)
MaskName = tuple[int, int]


@dataclass(slots=True)
class Mask:
    """One mask as its dealer knows it; ``rows`` are what holders get."""

    counter: int
    secret: Elements
    rows: Elements
    committed: tuple[bytes, ...]
    root: bytes


@dataclass(slots=True)
class Played:
    """One device: its stock, oldest first, and the shares it holds, with the roots dealt."""

    name: str
    index: int
    stock: list[Mask] = field(default_factory=list)
    held: dict[MaskName, tuple[Elements, bytes]] = field(default_factory=dict)
    num_dealt: int = 0
    answered: dict[bytes, RecoveryAnswer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sent:
    """What a device sent masked, for comparison: its values on the support, and its weight."""

    device: str
    counter: int
    values: Vector
    num_samples: int


@lru_cache(maxsize=2_000)
def _receipt(mask_id: bytes, holder: int, row: bytes, test_root: bytes, modulus: int) -> bytes:
    """What ``holder`` says of one mask: the same whenever it says it."""
    elements = np.frombuffer(row, np.int64)
    committed = commitment(mask_id, holder, elements, modulus)
    return receipt(test_root, elements, modulus) + witness(committed, test_root)


class SecureDesk:
    """`Desk` for a secure task of one cohort; ``desk`` is the coordinator's half."""

    def __init__(
        self,
        directory: Path,
        names: Sequence[str] = NAMES,
        *,
        secure: Mapping[str, Any] | None = None,
        enrolled: Mapping[str, Any] | None = None,
        valid_s: int = 86_400,
        **settings: Any,
    ) -> None:
        self.config = secure_task(**settings)
        self.secure_config = secure_settings(**(secure or {}))
        self.names = tuple(names)
        self.cohort = enrol(
            self.names, self.config, self.secure_config, valid_s=valid_s, **(enrolled or {})
        )
        enrolment = enrolment_of(self.cohort, self.secure_config)
        self.desk = Desk(directory, self.config, enrolment)
        self.devices = {name: Played(name, self.index(name)) for name in names}
        self.sent: dict[bytes, Sent] = {}
        self.supports: dict[int, bytes] = {}
        self._start = 1

    # --- short names -------------------------------------------------------------------------

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator of this start."""
        return self.desk.coordinator

    @property
    def secure(self) -> SecureBuffers:
        """Its masked buffers."""
        found = self.coordinator.secure
        assert isinstance(found, SecureBuffers)
        return found

    @property
    def recovering(self) -> bool:
        """Whether a closed buffer waits for its sum."""
        return len(self.secure.recoveries) > 0

    @property
    def counts(self) -> Mapping[str, int]:
        """Its counters."""
        return self.coordinator.counts

    @property
    def version(self) -> int:
        """The current version."""
        return self.coordinator.version

    def index(self, name: str) -> int:
        """Return a device's place in the roster."""
        found = self.cohort.roster.index(name)
        assert found is not None
        return found

    def heard(self, name: str, kind: type[Message]) -> list[Message]:
        """Return what a device was told of one kind, oldest first."""
        return [message for to, message in self.desk.said if to == name and type(message) is kind]

    def requests(self, name: str) -> list[RecoveryRequest]:
        """Return the different requests that a device was asked, oldest first."""
        asked = self.heard(name, RecoveryRequest)
        return list(dict.fromkeys(each for each in asked if isinstance(each, RecoveryRequest)))

    def refusals(self) -> dict[str, int]:
        """Return how often each reason refused something."""
        head = "refused_"
        counts = self.counts.items()
        return {key.removeprefix(head): total for key, total in counts if key.startswith(head)}

    # --- time and power ----------------------------------------------------------------------

    def come_back(self) -> None:
        """Crash and come back; devices notice it, say all again, and answer again when asked."""
        self.restart()
        for name in self.names:
            if self.devices[name].stock:
                self.say_dealt(name)
            self.hold(name)
            for hashed, answer in self.devices[name].answered.items():
                if any(request_hash(each) == hashed for each in self.requests(name)):
                    self.tell(name, answer)

    def restart(self) -> None:
        """Crash, and come back from the store; retained states are heard again."""
        online = [
            name for name, state in self.coordinator.fleet.presence.items() if state == "online"
        ]
        self.desk.silent = False
        self.desk.restart()
        for name in online:
            self.online(name)

    def wait(self, seconds: float) -> None:
        """Time passes, timer by timer; a timer must come to rest at each."""
        until = self.desk.now + seconds
        while (due := self.coordinator.timer_at(self.desk.now)) <= until:
            self.desk.now = max(self.desk.now, due)
            self.desk.perform(self.coordinator.timer(self.desk.now))
            after = self.coordinator.timer_at(self.desk.now)
            assert after > self.desk.now, "the timer does not come to rest"
        self.desk.now = until

    # --- a device ----------------------------------------------------------------------------

    def online(self, *names: str) -> None:
        """Devices are there."""
        for name in names:
            self.desk.hear(self.coordinator.topics.state(name), b"online")

    def asleep(self, *names: str) -> None:
        """Devices are not there."""
        for name in names:
            self.desk.hear(self.coordinator.topics.state(name), b"sleeping")

    def tell(self, name: str, message: Message, *, signer: str | None = None) -> None:
        """A device says something signed, by itself unless told otherwise."""
        self.hear_out(name, self.signed(name, message, signer or name))

    def hear_out(self, name: str, payload: bytes) -> None:
        """Bytes arrive on the topic on which a device talks to the aggregator."""
        self.desk.hear(self.coordinator.topics.out(name), payload)

    def signed(self, name: str, message: Message, signer: str) -> bytes:
        """Return a message of one device, signed by another's key."""
        self._start += 1
        identity = self.cohort.identity(signer)
        return encode(
            message,
            task=self.config.task,
            sender=name,
            counter=self._start << 32,
            sign=Signer(identity, self.config.prefix).on(self.coordinator.topics.out(name)),
        )

    # --- dealing and holding -----------------------------------------------------------------

    def make_mask(self, name: str, spoil: Callable[[Elements], None] | None = None) -> Mask:
        """Return a new mask of a device; ``spoil`` may change the rows that holders get."""
        device, roster = self.devices[name], self.cohort.roster
        counter = (1 << 32) + device.num_dealt
        device.num_dealt += 1
        seed = derive(bytes(32), "mask", name, counter, roster.epoch)
        scheme = scheme_of(roster.parameters.scheme)
        secret = scheme.secret(roster.parameters, seed)
        rows = shares.deal(secret, scheme.sharing(roster.parameters), seed)
        if spoil is not None:
            spoil(rows)
        mask_id = roster.mask_id(device.index, counter)
        committed = commitments(mask_id, rows, roster.parameters.modulus)
        return Mask(counter, secret, rows, committed, root(mask_id, committed))

    def deal(
        self,
        name: str,
        num_masks: int = 1,
        *,
        to: Collection[str] | None = None,
        spoil: Callable[[Elements], None] | None = None,
    ) -> list[Mask]:
        """A device deals masks to everybody, or to those named, and says so."""
        device = self.devices[name]
        made = [self.make_mask(name, spoil) for _ in range(num_masks)]
        device.stock += made
        for mask in made:
            self.hand_out(name, mask, self.names if to is None else to)
        self.say_dealt(name)
        return made

    def hand_out(self, name: str, mask: Mask, to: Collection[str]) -> None:
        """Shares of a mask arrive at devices; a dealer keeps its own."""
        device = self.devices[name]
        for holder in {*to, name}:
            other = self.devices[holder]
            other.held[device.index, mask.counter] = (mask.rows[other.index], mask.root)

    def say_dealt(self, name: str) -> None:
        """A device names its stock."""
        stock = self.devices[name].stock
        committed = b"".join(b"".join(mask.committed) for mask in stock)
        counters = tuple(mask.counter for mask in stock)
        self.tell(name, Dealt(self.cohort.roster.hash, counters, committed))

    def holdings(self, name: str, masks: Collection[MaskName] | None = None) -> Holdings:
        """Return what a device says that it holds; None: all of it."""
        device, roster = self.devices[name], self.cohort.roster
        modulus = roster.parameters.modulus
        named = list(device.held if masks is None else masks)
        receipts = [
            _receipt(roster.mask_id(*mask), device.index, row.tobytes(), test_root, modulus)
            for mask, (row, test_root) in ((mask, device.held[mask]) for mask in named)
        ]
        return Holdings(
            roster.hash,
            int(masks is None),
            tuple(dealer for dealer, _ in named),
            tuple(counter for _, counter in named),
            b"".join(receipts),
        )

    def hold(self, *names: str) -> None:
        """Devices say all that they hold; everybody, if nobody is named."""
        for name in names or self.names:
            self.tell(name, self.holdings(name))

    def stock_up(self, num_masks: int = 2) -> None:
        """Everybody is there, deals, and holds what the others dealt."""
        self.online(*self.names)
        for name in self.names:
            self.deal(name, num_masks)
        self.hold()

    # --- updates -----------------------------------------------------------------------------

    def check_in(self, name: str, pending: bytes = b"") -> None:
        """A device is available, or asks after its update."""
        message = CheckIn(install_id(name), -1, 10, MASKED_CODECS, pending)
        self.hear_out(name, self.desk.sealed(name, message))

    def lease(self, name: str) -> Lease:
        """Check a device in and return the lease it got; it hears of the support beside."""
        _ = self.support
        self.check_in(name)
        lease = self.desk.last(name)
        assert isinstance(lease, Lease), lease
        return lease

    def masked(
        self,
        name: str,
        lease: Lease,
        delta: Sequence[float] | Vector,
        *,
        num_samples: int = 1,
        support: int | None = None,
        mask: Mask | None = None,
        **other: Any,
    ) -> bytes:
        """Return the bytes of an update under the oldest mask; ``other`` replaces its fields."""
        roster = self.cohort.roster
        given, scheme = roster.parameters, scheme_of(roster.parameters.scheme)
        used = self.devices[name].stock.pop(0) if mask is None else mask
        number = self.support if support is None else support
        where = self.coordinates(number)
        values = np.asarray(delta, np.float32)
        values = values if where is None else values[where]
        elements, _ = given.encode(values, num_samples)
        seed = roster.support_seed(number, self.supports.get(number, b""))
        noise = derive(bytes(32), name, used.counter)
        body = scheme.mask(given, seed, used.secret, elements, noise)
        self.sent[lease.lease_id] = Sent(name, used.counter, values, num_samples)
        fields = {
            "base_version": lease.version,
            "roster_hash": roster.hash,
            "counter": used.counter,
            "support": number,
            "body": body,
            **other,
        }
        return encode_update(MaskedUpdate(**fields))

    @property
    def support(self) -> int:
        """The number of the support that devices heard of last; 0 if there is none."""
        payload = self.desk.retained.get(self.coordinator.topics.support())
        if payload is None:
            return 0
        heard = decode(payload, (Support,), task=self.config.task, sender=AGGREGATOR)
        self.supports[heard.number] = heard.indices
        return heard.number

    def coordinates(self, support: int) -> Indices | None:
        """Return the coordinates of a support that was heard of; None: all."""
        spec = self.secure_config.codec
        if spec.support == DENSE:
            return None
        size = self.coordinator.trained.layout.size
        kept = spec.num_kept(size)
        named = read_named(self.supports[support], size, kept)
        return coordinates(self.config.task, support, named, size, kept)

    def send(self, name: str, lease: Lease, delta: Sequence[float] | Vector, **how: Any) -> bytes:
        """A masked update arrives; return its bytes."""
        update = self.masked(name, lease, delta, **how)
        self.send_bytes(name, lease, update)
        return update

    def send_bytes(self, name: str, lease: Lease, update: bytes) -> None:
        """Bytes of an update arrive."""
        self.desk.send_chunk(name, UpdateChunk(lease.lease_id, checksum(update), 0, 1, update))

    def train(self, *names: str, delta: Sequence[float] | Vector | None = None) -> list[bytes]:
        """Devices get a lease and send an update each; return the lease ids."""
        leases = {name: self.lease(name) for name in names}
        for name, lease in leases.items():
            self.send(name, lease, self.delta_of(name) if delta is None else delta)
        return [lease.lease_id for lease in leases.values()]

    def delta_of(self, name: str) -> Vector:
        """Return some delta, another one for each device."""
        size = self.coordinator.trained.layout.size
        drawn = np.random.default_rng(sum(name.encode()))
        return drawn.uniform(-0.5, 0.5, size).astype(np.float32)

    # --- answering ---------------------------------------------------------------------------

    def answer(self, *names: str, request: RecoveryRequest | None = None, wrong: int = 0) -> None:
        """Devices answer the newest request they got, and erase the shares.

        ``wrong`` times some uniform elements is added. The same request gets the same answer.
        """
        for name in names:
            asked, device = request or self.requests(name)[-1], self.devices[name]
            hashed = request_hash(asked)
            if hashed not in device.answered:
                device.answered[hashed] = self.answer_of(name, asked, wrong)
                for mask in self.masks_of(asked):
                    del device.held[mask]
            self.tell(name, device.answered[hashed])

    def answer_of(self, name: str, request: RecoveryRequest, wrong: int = 0) -> RecoveryAnswer:
        """Return a holder's answer, from the shares it holds."""
        rows = [self.devices[name].held[mask][0] for mask in self.masks_of(request)]
        modulus = self.cohort.roster.parameters.modulus
        summed = shares.add(np.stack(rows), modulus)
        error = uniform(derive(bytes(32), "wrong", name), summed.shape, modulus)
        summed = (summed + wrong * error) % modulus
        return RecoveryAnswer(request_hash(request), to_bytes(summed, modulus))

    def masks_of(self, request: RecoveryRequest) -> list[MaskName]:
        """Return the masks that a request names. It must be one that holders may answer."""
        return list(check_request(request, self.cohort.roster).items())

    def refuse(self, name: str, reason: str, request: RecoveryRequest | None = None) -> None:
        """A holder refuses the newest request it got."""
        hashed = request_hash(request or self.requests(name)[-1])
        self.tell(name, RecoveryRefusal(hashed, reason, "as the test says"))

    # --- what is expected --------------------------------------------------------------------

    def expected(self, lease_ids: Collection[bytes]) -> Vector:
        """Return the weighted mean of what was sent under these leases, from the plain values."""
        given = self.cohort.roster.parameters
        sent = [self.sent[lease_id] for lease_id in lease_ids]
        weights = np.array([given.level(each.num_samples) for each in sent], np.float64)
        values = np.array([each.values for each in sent], np.float64)
        return np.asarray(weights @ values / weights.sum(), np.float32)

    def tolerance(self, num_updates: int) -> float:
        """How far a recovered mean may be from that: noise and rounding, as values."""
        given = self.cohort.roster.parameters
        noise = scheme_of(given.scheme).noise_bound(given, num_updates)
        return (noise + num_updates) / given.scale / num_updates + 1e-6

    def roster(self, signed: SignedRoster) -> None:
        """The operator lays down a roster."""
        self.desk.perform(self.coordinator.roster(signed, self.desk.now))

    def next_roster(self, epoch: int = 2, **overrides: Any) -> Cohort:
        """Enrol the same devices for another epoch."""
        return enrol(self.names, self.config, self.secure_config, epoch=epoch, **overrides)

    def move_to(self, given: Cohort) -> None:
        """Devices take a roster over: they begin with nothing."""
        self.cohort = given
        self.devices = {name: Played(name, self.index(name)) for name in self.names}

    def wanted(self, name: str) -> list[SharesWanted]:
        """Return the shares that a dealer was asked for."""
        return [each for each in self.heard(name, SharesWanted) if isinstance(each, SharesWanted)]

    def close(self) -> None:
        """Let the store's files go."""
        self.desk.close()


def secure_task(**settings: Any) -> TaskConfig:
    """A small task whose buffers have four updates at most, three at least."""
    plain: dict[str, Any] = {
        "buffered": Buffered(goal=4, min_contributors=3, max_wait_s=60.0),
        "keep_versions": 50,
    }
    return task_config(**{**plain, **settings})


def secure_settings(**settings: Any) -> SecureConfig:
    """Dense, seedmask, fine: what is recovered is close to what was sent."""
    return SecureConfig(**{"scheme": "seedmask", "bits": 20, "clip": 1.0, **settings})


def enrol(
    names: Sequence[str],
    config: TaskConfig,
    secure: SecureConfig,
    *,
    valid_s: int = 86_400,
    **overrides: Any,
) -> Cohort:
    """Enrol devices as the configuration says, unless told otherwise."""
    size = config.trained().layout.size
    given = asdict(secure.parameters(config, len(names), size))
    del given["num_devices"]
    return cohort(names, config.task, valid_s=valid_s, **{**given, **overrides})


def enrolment_of(given: Cohort, secure: SecureConfig) -> Enrolment:
    """Return what the aggregator holds."""
    return Enrolment(secure, given.aggregator, given.enrolment, (given.signed,))
