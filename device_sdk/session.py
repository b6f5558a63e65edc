"""One device in one task: the state machine. No I/O, no clock, no threads, no entropy.

The table below is the design; docs/protocol.md draws it. Whatever arrives in a state for which the
table has no entry is old news (MQTT delivers at least once) and changes nothing.

- A newer model does not interrupt training.
- An update is stored before its first packet leaves, and kept until its receipt or refusal. While
  it has neither, the device asks after it (a check-in that names it) instead of sending it again:
  the answer names the chunks that are missing, if any.
- The residual (contractive codecs only) is committed on the receipt; after a refusal that faults
  nobody the delta is folded into it.
"""

import json
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from device_sdk.actions import Action, Delete, Store, Train
from device_sdk.fetch import RETRY_S, Fetch
from device_sdk.pending import (
    BOOTS,
    PENDING,
    RESIDUAL,
    Pending,
    Residual,
    pack_pending,
    pack_residual,
    unpack_pending,
    unpack_residual,
)
from device_sdk.plan import TrainingPlan, read_plan
from device_sdk.reporting import fold, is_sound, make_pending
from device_sdk.trainer import Assignment, Trained
from protocol import refusals
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.chunks import checksum, cut, payload_bytes
from protocol.codec import decode, encode, open_envelope
from protocol.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from protocol.messages import (
    AGGREGATOR,
    COUNTER_START_BITS,
    CheckIn,
    ChunksMissing,
    Held,
    Lease,
    Manifest,
    Message,
    ModelChunk,
    Plan,
    Receipt,
    RecoveryRequest,
    Refusal,
    SharesWanted,
    UpdateChunk,
)
from protocol.stream import derive
from protocol.topics import Address, Kind, Topics
from protocol.vectors.packing import PLAN, SCHEMES, parse_codec

if TYPE_CHECKING:
    from device_sdk.identity import Keys
    from device_sdk.secagg import Member

#: What this SDK can encode; a check-in says so.
CODECS: Final = ("dense", "topk", "randk", "float32", "float16", "int8")
#: And what it can in a secure task, where it says nothing in the open.
MASKED_CODECS: Final = ("dense", "randk", PLAN, *SCHEMES)
#: Without a plan yet, how often to say that one is here.
DEFAULT_CHECK_IN_S: Final = 10.0
#: Late copies of this many settled leases are known for what they are.
CLOSED_LEASES: Final = 16
#: When the aggregator starts, devices check in spread over this part of their interval.
START_SPREAD: Final = 0.1

Float32 = npt.NDArray[np.float32]
Answer = Lease | ChunksMissing | Held | Receipt | Refusal
ANSWERS: Final[tuple[type[Answer], ...]] = (Lease, ChunksMissing, Held, Receipt, Refusal)
Told = Answer | SharesWanted | RecoveryRequest
TOLD: Final[tuple[type[Told], ...]] = (*ANSWERS, SharesWanted, RecoveryRequest)
M = TypeVar("M")


class State(Enum):
    """What the device is doing."""

    IDLE = "idle"  #: wants a lease
    FETCHING = "fetching"  #: has a lease, waits for the model's chunks
    TRAINING = "training"
    REPORTING = "reporting"  #: holds an update without a receipt
    AWAY = "away"  #: was turned away; asks again later


TRANSITIONS: Final = {
    (State.IDLE, "lease"): State.FETCHING,
    (State.IDLE, "turned away"): State.AWAY,
    (State.AWAY, "timer"): State.IDLE,
    (State.FETCHING, "model"): State.TRAINING,
    (State.FETCHING, "lease ran out"): State.IDLE,
    (State.TRAINING, "trained"): State.REPORTING,
    (State.TRAINING, "failed"): State.IDLE,
    (State.REPORTING, "receipt"): State.IDLE,
    (State.REPORTING, "refusal"): State.IDLE,
}


class Session:
    """Events in, actions out; the time is an argument, in monotonic seconds.

    ``stored`` is what storage holds, by key. ``seed`` is 32 fresh secret bytes a start.
    ``num_samples`` says how many samples are at hand. With ``keys`` the task is secure: nothing is
    sent in the open, at most ``stock`` masks are dealt ahead, and of others' shares at most
    ``max_share_bytes`` are held.
    """

    def __init__(
        self,
        topics: Topics,
        device: str,
        install_id: bytes,
        *,
        stored: Mapping[str, bytes],
        seed: bytes,
        birth: Mapping[str, Any],
        num_samples: Callable[[], int],
        retry_first_s: float = 10.0,
        retry_cap_s: float = 600.0,
        keys: "Keys | None" = None,
        stock: int = 2,
        max_share_bytes: int = 4 << 20,
    ) -> None:
        self.topics = topics
        self.device = device
        self.install_id = install_id
        self.state = State.IDLE
        self.online = False
        self.counts: Counter[str] = Counter()
        self.turned_away = ""
        self._timer_at = math.inf
        self._seed = seed
        self._birth = birth
        self._num_samples = num_samples
        self._retry_first_s = retry_first_s
        self._retry_cap_s = retry_cap_s
        self._retry_s = retry_first_s
        self._num_draws = 0
        self._aggregator_start = -1
        self._boots = int.from_bytes(stored.get(BOOTS, b""), "little") + 1
        self._counter = self._boots << COUNTER_START_BITS
        self._chunk_bytes = payload_bytes(1 << 16)
        self._plan: TrainingPlan | None = None
        self._lease: Lease | None = None
        self._lease_ends_at = math.inf
        self._fetch: Fetch | None = None
        self._away_until = math.inf
        self._held: tuple[int, bytes, Float32] | None = None
        self._base: Float32 | None = None
        self._pending: Pending | None = None
        self._residual: Residual | None = None
        self._closed: deque[bytes] = deque(maxlen=CLOSED_LEASES)
        self._result: tuple[Float32, int] | None = None
        self._member: Member | None = None
        if keys is not None:
            self._member = self._join(keys, stored, stock, max_share_bytes)
        self._restore(stored)

    def _join(
        self, keys: "Keys", stored: Mapping[str, bytes], stock: int, max_share_bytes: int
    ) -> "Member":
        from device_sdk.secagg import Member  # noqa: PLC0415 - only secure tasks wait for it

        # What masks are made of must not be found from a seed that stays in memory.
        own, self._seed = derive(self._seed, "member"), derive(self._seed, "session")
        return Member(
            self.topics,
            keys,
            stored=stored,
            seed=own,
            stock=stock,
            max_share_bytes=max_share_bytes,
            say=self._publish,
            counts=self.counts,
        )

    def _restore(self, stored: Mapping[str, bytes]) -> None:
        if RESIDUAL in stored:
            self._residual = unpack_residual(stored[RESIDUAL])
            self._closed.append(self._residual.lease_id)
        if PENDING not in stored:
            return
        pending = unpack_pending(stored[PENDING])
        if self._residual is not None and self._residual.lease_id == pending.lease_id:
            return  # counted: the power went between the two writes of its receipt
        self._pending = pending
        self.state = State.REPORTING

    @property
    def pending(self) -> Pending | None:
        """The update that has no receipt yet."""
        return self._pending

    @property
    def residual(self) -> Residual | None:
        """What contractive codecs have not sent so far."""
        return self._residual

    @property
    def timer_at(self) -> float:
        """When `timer` should be called next."""
        return (
            self._timer_at if self._member is None else min(self._timer_at, self._member.timer_at)
        )

    # --- the connection ----------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """Return what must be stored before anything is said."""
        self._timer_at = now
        actions: list[Action] = [Store(BOOTS, self._boots.to_bytes(8, "little"))]
        if self._member is not None:
            actions += self._member.start()
        return actions if self._pending is not None else [*actions, Delete(PENDING)]

    def connected(self, max_packet_bytes: int, now: float) -> list[Action]:
        """The bus is there (again): brokers forget, so birth and state are said again."""
        self.online = True
        self._chunk_bytes = payload_bytes(max_packet_bytes)
        filters = (*self.topics.device_filters(self.device), self.topics.state(self.device))
        actions: list[Action] = [Subscribe(filters), *self._announce()]
        if self._member is not None:
            actions += self._member.connected(self._chunk_bytes, now)
        if self._fetch is not None:
            return [*actions, *self._ask_for_model(self._fetch, now)]
        if self.state is State.FETCHING:
            return [*actions, *self._ask_for_plan(now)]
        if self.state is State.AWAY:
            self._timer_at = self._away_until
        return [*actions, *self._speak(now)]

    def disconnected(self) -> list[Action]:
        """The bus is gone; training goes on."""
        self.online = False
        self._timer_at = math.inf
        if self._member is not None:
            self._member.disconnected()
        return []

    def asleep(self) -> list[Action]:
        """The device is about to leave on purpose: it says so, and keeps what it holds."""
        return [Publish(self.topics.state(self.device), b"sleeping", retain=True)]

    def _announce(self) -> list[Action]:
        born = dict(self._birth) if self._member is None else {**self._birth, **self._member.birth}
        info = json.dumps(born, sort_keys=True).encode()
        return [
            Publish(self.topics.info(self.device), info, retain=True),
            Publish(self.topics.state(self.device), b"online", retain=True),
        ]

    # --- events ------------------------------------------------------------------------------

    def message(self, topic: str, payload: bytes, now: float) -> list[Action]:
        """A message arrived. What is not understood is counted and changes nothing."""
        try:
            return self._dispatch(topic, payload, now)
        except RemoteProtocolError as error:
            self.counts[f"refused_{error.reason}"] += 1
            return []

    def _dispatch(self, topic: str, payload: bytes, now: float) -> list[Action]:
        address = self.topics.parse(topic)
        if not payload:
            return []  # a retained topic was cleared
        match address.kind:
            case Kind.IN:
                allowed = ANSWERS if self._member is None else TOLD
                return self._told(self._decode(payload, allowed), now)
            case Kind.MANIFEST:
                return self._manifest(self._decode(payload, (Manifest,)), now)
            case Kind.MODEL:
                return self._chunk(self._decode(payload, (ModelChunk,)), now)
            case Kind.PLAN:
                self._plan = read_plan(self._decode(payload, (Plan,)))
                self._notice_start(payload, now)
                return self._train()
            case Kind.STATE:
                return self._announce() if payload == b"offline" and self.online else []
            case Kind.ROSTER | Kind.SUPPORT | Kind.SHARE if self._member is not None:
                return self._heard(self._member, address, payload, now)
        raise RemoteProtocolError(refusals.WRONG_KIND, f"{address.kind.name} to a device")

    def _decode(self, payload: bytes, allowed: tuple[type[M], ...]) -> M:
        return decode(payload, allowed, task=self.topics.task, sender=AGGREGATOR)

    def _told(self, message: Told, now: float) -> list[Action]:
        if not isinstance(message, SharesWanted | RecoveryRequest):
            return self._answered(message, now)
        return [] if self._member is None else self._member.asked(message)

    def _heard(
        self, member: "Member", address: Address, payload: bytes, now: float
    ) -> list[Action]:
        before = member.birth
        actions = member.heard(address, payload, now)
        if member.birth != before and self.online:
            actions += self._announce()
        return [*actions, *self._stock_up(now), *self._report(now)]

    def _stock_up(self, now: float) -> list[Action]:
        """Masks are dealt while no update waits for its receipt."""
        if self._member is None or self._pending is not None:
            return []
        return self._member.stock_up(now)

    def _answered(self, answer: Answer, now: float) -> list[Action]:
        match answer:
            case Lease():
                return self._leased(answer, now)
            case Refusal(lease_id=b""):
                return self._turned_away(answer, now)
        if self._pending is None or answer.lease_id != self._pending.lease_id:
            return []
        match answer:
            case ChunksMissing():
                return self._send(self._pending, answer.indices)
            case Held():
                return []
            case Receipt():
                return self._counted(self._pending, now)
            case Refusal():
                return self._refused(self._pending, answer.reason, now)

    def timer(self, now: float) -> list[Action]:
        """`timer_at` has come: say again what has not been answered."""
        said = [] if self._member is None else self._member.timer(now)
        return [*said, *self._stock_up(now), *self._say_again(now)]

    def _say_again(self, now: float) -> list[Action]:
        if now < self._timer_at:
            return []
        self._timer_at = math.inf
        if self._result is not None:
            return self._report(now)
        if self.state is State.AWAY:
            self._step("timer")
        if self.state is State.FETCHING and now >= self._lease_ends_at:
            return [*self._give_up(), *self._speak(now)]
        if self._fetch is not None:
            return self._ask_for_model(self._fetch, now)
        if self.state is State.FETCHING:
            return self._ask_for_plan(now)
        return self._speak(now)

    def _speak(self, now: float) -> list[Action]:
        """Check in when idle, ask after the pending update when reporting; later, again."""
        if not self.online or self.state not in {State.IDLE, State.REPORTING}:
            return []
        if self.state is State.REPORTING:
            wait_s = self._retry_s
            self._retry_s = min(2 * self._retry_s, self._retry_cap_s)
        else:
            wait_s = self._check_in_s
        self._timer_at = now + wait_s * self._jitter()
        num_samples = self._num_samples()
        if self.state is State.IDLE and num_samples == 0:
            return []  # nothing to train on yet
        if self._member is not None:  # no more than masked updates reveal of it
            num_samples = 1 << (num_samples - 1).bit_length()
        message = CheckIn(
            self.install_id,
            -1 if self._held is None else self._held[0],
            num_samples,
            CODECS if self._member is None else MASKED_CODECS,
            b"" if self._pending is None else self._pending.lease_id,
        )
        return [self._to_aggregator(message)]

    def _turned_away(self, refusal: Refusal, now: float) -> list[Action]:
        if refusal.install_id != self.install_id or self.state is not State.IDLE:
            return []
        self._step("turned away")
        self.turned_away = f"{refusal.reason}: {refusal.detail}"
        self.counts[f"turned_away_{refusal.reason}"] += 1
        self._away_until = now + refusal.retry_s * self._jitter()
        self._timer_at = self._away_until
        return []

    # --- plan, lease and model ---------------------------------------------------------------

    def _notice_start(self, payload: bytes, now: float) -> None:
        """The aggregator (re)started if its counter did: what it has not stored, it forgot."""
        started = open_envelope(payload).counter >> COUNTER_START_BITS
        if started == self._aggregator_start or not self.online:
            return
        self._aggregator_start = started
        if self._member is not None:
            self._member.say_all_again(now)
        if self.state in {State.IDLE, State.REPORTING}:
            soon = now + START_SPREAD * self._check_in_s * self._draw()
            self._timer_at = min(self._timer_at, soon)

    def _leased(self, lease: Lease, now: float) -> list[Action]:
        if lease.install_id != self.install_id or self.state is not State.IDLE:
            return []
        if lease.lease_id in self._closed:
            return []  # a late copy: its update has been settled
        try:
            codec = parse_codec(lease.codec)
        except ConfigError as error:
            raise RemoteProtocolError(refusals.WRONG_CODEC, str(error)) from None
        if self._member is not None:
            self._member.check_lease(lease)
        elif codec.masked:
            raise RemoteProtocolError(refusals.WRONG_CODEC, "masked, and this device has no keys")
        self._step("lease")
        self._lease, self._lease_ends_at = lease, now + lease.ttl_s
        if self._held is not None and self._held[:2] == (lease.version, lease.model_hash):
            return self._train()
        self._fetch = Fetch(lease)
        return self._ask_for_model(self._fetch, now)

    def _ask_for_model(self, fetch: Fetch, now: float) -> list[Action]:
        self._timer_at = now + fetch.next_retry_s() * self._jitter()
        return [Subscribe((self.topics.model_filter(self._current_lease().version),))]

    def _ask_for_plan(self, now: float) -> list[Action]:
        """The model is here and the plan, or one that fits, is not: it is retained somewhere."""
        self._timer_at = now + RETRY_S * self._jitter()
        return [Subscribe((self.topics.plan(),))]

    def _chunk(self, chunk: ModelChunk, now: float) -> list[Action]:
        if self._fetch is None or chunk.version != self._current_lease().version:
            return []
        self._timer_at = now + self._fetch.patience_s * self._jitter()
        params = self._fetch.add(chunk)
        if params is None:
            return []
        lease = self._current_lease()
        self._held = (lease.version, lease.model_hash, params)
        self._fetch = None
        self._timer_at = now + RETRY_S * self._jitter()
        return [Unsubscribe((self.topics.model_filter(lease.version),)), *self._train()]

    def _train(self) -> list[Action]:
        """Train if a lease, its model and the plan are all here."""
        if self.state is not State.FETCHING or self._plan is None:
            return []
        lease = self._current_lease()
        if self._held is None or self._held[:2] != (lease.version, lease.model_hash):
            return []
        params = self._held[2]
        if params.size != self._plan.layout.size:
            self.counts["refused_wrong_shape"] += 1  # plan and model change one after the other
            return []
        self._step("model")
        self._timer_at = math.inf
        self._base = params
        assignment = Assignment(
            params=params,
            version=lease.version,
            model=self._plan.model,
            training=self._plan.training,
            seed=derive(self._seed, "training", lease.lease_id),
        )
        return [Train(lease.lease_id, assignment)]

    def _give_up(self) -> list[Action]:
        lease = self._current_lease()
        self._step("lease ran out")
        self.counts["leases_lost"] += 1
        self._fetch = None
        return [Unsubscribe((self.topics.model_filter(lease.version),))]

    # --- the update --------------------------------------------------------------------------

    def failed(self, lease_id: bytes, now: float) -> list[Action]:
        """Training ended without a result; the lease is still good for another try, later."""
        if self.state is not State.TRAINING or self._current_lease().lease_id != lease_id:
            return []
        self._step("failed")
        self.counts["trainings_failed"] += 1
        self._timer_at = now + self._check_in_s * self._jitter()
        return []

    def trained(self, lease_id: bytes, trained: Trained, now: float) -> list[Action]:
        """Training ended: what leaves the device is on flash before it leaves."""
        if self.state is not State.TRAINING or self._current_lease().lease_id != lease_id:
            return []
        plan = self._plan
        if plan is None or self._base is None or trained.params.size != self._base.size:
            return self.failed(lease_id, now)
        delta = trained.params - self._base
        if not is_sound(delta):
            return self.failed(lease_id, now)
        self._base = None
        self._result = (delta, trained.num_samples)
        return self._report(now)

    def _report(self, now: float) -> list[Action]:
        """Send what was trained, if there is a mask for it or it needs none."""
        if self._result is None or self._plan is None:
            return []
        lease = self._current_lease()
        actions = self._stock_up(now)
        try:
            pending = self._encode(lease, self._plan, *self._result)
        except RemoteProtocolError as error:
            self.counts[f"refused_{error.reason}"] += 1
            self._result = None
            return [*actions, *self.failed(lease.lease_id, now)]
        if pending is None:
            return [*actions, *self._wait_for_mask(lease, now)]
        self._result = None
        self._step("trained")
        self.counts["trainings"] += 1
        self._pending = pending
        self._retry_s = self._retry_first_s
        self._timer_at = now + self._retry_s * self._jitter() if self.online else math.inf
        return [*actions, Store(PENDING, pack_pending(pending)), *self._send(pending, ())]

    def _encode(
        self, lease: Lease, plan: TrainingPlan, delta: Float32, num_samples: int
    ) -> Pending | None:
        if self._member is not None:
            return self._member.mask(lease, delta, num_samples, self._residual)
        return make_pending(
            self.topics.task,
            lease,
            delta,
            num_samples,
            layout=plan.layout,
            residual=self._residual,
            rounding_seed=derive(self._seed, "rounding", lease.lease_id),
        )

    def _wait_for_mask(self, lease: Lease, now: float) -> list[Action]:
        """Masks and support come with a message; without one until the lease ends, never."""
        if now >= self._lease_ends_at:
            self._result = None
            self.counts["leases_lost"] += 1
            return self.failed(lease.lease_id, now)
        self._timer_at = self._lease_ends_at
        return []

    def _send(self, pending: Pending, indices: tuple[int, ...]) -> list[Action]:
        """Publish chunks of the update: the ones named, or all."""
        if not self.online:
            return []
        pieces = cut(pending.update, self._chunk_bytes)
        whole = checksum(pending.update)
        topic = self.topics.update(pending.partition, self.device)
        wanted = [index for index in indices if index < len(pieces)] or range(len(pieces))
        return [
            self._publish(
                topic, UpdateChunk(pending.lease_id, whole, index, len(pieces), pieces[index])
            )
            for index in wanted
        ]

    def _manifest(self, manifest: Manifest, now: float) -> list[Action]:
        if self._pending is not None and self._pending.lease_id in manifest.counted:
            return self._counted(self._pending, now)
        return []

    def _counted(self, pending: Pending, now: float) -> list[Action]:
        self.counts["receipts"] += 1
        return self._close("receipt", Residual(pending.lease_id, pending.residual), now)

    def _refused(self, pending: Pending, reason: str, now: float) -> list[Action]:
        self.counts[f"update_refused_{reason}"] += 1
        if reason == refusals.BUSY:
            return []
        kept = b"" if self._residual is None else self._residual.values
        residual = Residual(pending.lease_id, kept)
        if reason in refusals.FOLDED and pending.residual:
            if self._plan is None:
                return []  # folding needs the plan: asked again when it is here
            residual = fold(self.topics.task, pending, self._plan.layout)
        return self._close("refusal", residual, now)

    def _close(self, event: str, residual: Residual, now: float) -> list[Action]:
        """Settle the pending update. The residual names it, so that it is never settled twice."""
        self._step(event)
        self._pending = None
        self._residual = residual
        self._closed.append(residual.lease_id)
        return [
            Store(RESIDUAL, pack_residual(residual)),
            Delete(PENDING),
            *self._stock_up(now),
            *self._speak(now),
        ]

    # --- small things ------------------------------------------------------------------------

    def _step(self, event: str) -> None:
        try:
            self.state = TRANSITIONS[self.state, event]
        except KeyError:
            raise LocalProtocolError(f"{event} while {self.state.value}") from None

    def _current_lease(self) -> Lease:
        if self._lease is None:
            raise LocalProtocolError(f"{self.state.value} without a lease")
        return self._lease

    @property
    def _check_in_s(self) -> float:
        return DEFAULT_CHECK_IN_S if self._plan is None else self._plan.check_in_s

    def _to_aggregator(self, message: Message) -> Publish:
        return self._publish(self.topics.out(self.device), message)

    def _publish(
        self, topic: str, message: Message, sign: Callable[[bytes], bytes] | None = None
    ) -> Publish:
        self._counter += 1
        payload = encode(
            message, task=self.topics.task, sender=self.device, counter=self._counter, sign=sign
        )
        return Publish(topic, payload)

    def _jitter(self) -> float:
        """Return a factor from 0.75 to 1.25, so that devices do not speak in chorus."""
        return 0.75 + 0.5 * self._draw()

    def _draw(self) -> float:
        """Return the next number in [0, 1) of this session's own sequence."""
        self._num_draws += 1
        drawn = derive(self._seed, "jitter", self._num_draws)
        return int.from_bytes(drawn[:4], "little") / (1 << 32)
