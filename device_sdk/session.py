"""One device in one task: the state machine. No I/O, no clock, no threads, no entropy.

The table below is the design; docs/protocol.md draws it. Whatever arrives in a state for which the
table has no entry is old news (MQTT delivers at least once) and changes nothing.

- A newer model does not interrupt training.
- A device that may not train now asks for no lease; why is counted, each time.
- Nor does one whose trainer refused the plan, until there is another plan.
- An update is stored before its first packet leaves, and kept until its receipt or refusal. While
  it has neither, the device asks after it (a check-in that names it) instead of sending it again:
  the answer names the chunks that are missing, if any.
- The residual (contractive codecs only) is committed on the receipt; after a refusal that faults
  nobody the delta is folded into it. The cache that calibrated codecs keep instead is committed on
  the receipt too, and no refusal changes it.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from device_sdk.actions import Action, Store, Train
from device_sdk.check_ins import CheckIns
from device_sdk.draws import Draws
from device_sdk.fetch import RETRY_S, Fetch
from device_sdk.gate import Gate
from device_sdk.outgoing import Outgoing, pieces
from device_sdk.pending import BOOTS, Pending, Residual
from device_sdk.plan import TrainingPlan, read_plan
from device_sdk.reporting import make_pending
from device_sdk.states import State, after
from device_sdk.trainer import Trained
from device_sdk.voice import Voice
from device_sdk.work import Work
from protocol import refusals
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.chunks import payload_bytes
from protocol.codec import read
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import (
    AGGREGATOR,
    COUNTER_START_BITS,
    MIN_SAMPLES,
    ChunksMissing,
    DifferenceChunk,
    Envelope,
    Held,
    Lease,
    Manifest,
    ModelChunk,
    Plan,
    Receipt,
    Refusal,
)
from protocol.stream import derive
from protocol.topics import Address, Kind, Topics
from protocol.vectors.packing import parse_codec

if TYPE_CHECKING:
    from device_sdk.identity import Keys
    from device_sdk.secagg import Member, ToMember

#: Without a plan yet, how often to say that one is here.
DEFAULT_CHECK_IN_S: Final = 10.0
#: When the aggregator starts, devices check in spread over this part of their interval.
START_SPREAD: Final = 0.1
#: Why training failed is told in no more characters.
MAX_REASON: Final = 200

Float32 = npt.NDArray[np.float32]
Answer = Lease | ChunksMissing | Held | Receipt | Refusal
ANSWERS: Final[tuple[type[Answer], ...]] = (Lease, ChunksMissing, Held, Receipt, Refusal)
M = TypeVar("M")
_CHUNKS: Final = {Kind.MODEL: (ModelChunk,), Kind.DIFFERENCE: (DifferenceChunk,)}
#: What only members of secure tasks listen to.
_MEMBERS: Final = frozenset({Kind.ROSTER, Kind.SUPPORT, Kind.SHARE})


class _Result(NamedTuple):
    """What was trained and is not on its way: a mask for it is waited for until ``give_up_at``."""

    delta: Float32
    num_samples: int
    give_up_at: float


class Session:
    """Events in, actions out; the time is an argument, in monotonic seconds.

    ``stored`` is what storage holds, by key. ``seed`` is 32 fresh secret bytes a start.
    ``num_samples`` says how many samples are at hand, ``declines`` why this device would not train
    now (a word; empty: it would); with fewer than ``min_samples`` it never does. With ``keys`` it
    signs what it says, believes nobody but its aggregator, and lets nobody else read its updates
    unless ``seal`` is false; if they are of a secure task, nothing is sent in the open, at most
    ``stock`` masks are dealt ahead, and of others' shares at most ``max_share_bytes`` are held.
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
        declines: Callable[[], str] = lambda: "",
        min_samples: int = MIN_SAMPLES,
        retry_first_s: float = 10.0,
        retry_cap_s: float = 600.0,
        keys: "Keys | None" = None,
        seal: bool = True,
        stock: int = 2,
        max_share_bytes: int = 4 << 20,
    ) -> None:
        self.topics = topics
        self.device = device
        self.install_id = install_id
        self.state = State.IDLE
        self.online = False
        self._is_subscribed = False
        self.counts: Counter[str] = Counter()
        self.turned_away = ""
        #: Why the last training failed; empty after one that did not.
        self.failure = ""
        self._timer_at = math.inf
        self._seed = seed
        self._birth = birth
        self._num_samples = num_samples
        self._declines = declines
        self._min_samples = min_samples
        self._retry_first_s = retry_first_s
        self._retry_cap_s = retry_cap_s
        self._retry_s = retry_first_s
        self._aggregator_start = -1
        #: The newest version there is, as far as it was heard of.
        self.newest_version = 0
        self._boots = int.from_bytes(stored.get(BOOTS, b""), "little") + 1
        self._keys = keys
        self._voice = self._new_voice(keys)
        self._gate = Gate(topics, stored, b"" if keys is None else keys.aggregator)
        self._seals = seal and keys is not None
        self._chunk_bytes = payload_bytes(1 << 16)
        self._work = Work(stored)
        self._away_until = math.inf
        self._outgoing = Outgoing(topics.task, stored)
        if self._outgoing.pending is not None:
            self.state = State.REPORTING
        self._result: _Result | None = None
        certificate = b"" if keys is None else keys.certificate
        masked = keys is not None and keys.masked
        self._check_ins = CheckIns(install_id, certificate, masked=masked)
        self._send_at: float | None = None  # when the update is to be sent, while it is held back
        self._member: Member | None = None
        if keys is not None and keys.masked:
            self._member = self._join(keys, stored, stock, max_share_bytes)
        self._draws = Draws(self._seed)

    def _new_voice(self, keys: "Keys | None") -> Voice:
        if keys is None:
            return Voice(self.topics, self.device, self._boots)
        from protocol.identity import Signer  # noqa: PLC0415 - only devices with keys wait for it

        signer = Signer(keys.identity, self.topics.prefix)
        return Voice(self.topics, self.device, self._boots, signer)

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
            voice=self._voice,
            counts=self.counts,
        )

    @property
    def pending(self) -> Pending | None:
        """The update that has no receipt yet."""
        return self._outgoing.pending

    @property
    def residual(self) -> Residual | None:
        """What contractive codecs have not sent so far."""
        return self._outgoing.residual

    @property
    def mask_epoch(self) -> int:
        """The epoch that shares and keys are of; all before it are over. 0 without a roster."""
        return 0 if self._member is None else self._member.epoch

    @property
    def timer_at(self) -> float:
        """When `timer` should be called next."""
        member_at = math.inf if self._member is None else self._member.timer_at
        return min(self._timer_at, member_at)

    # --- the connection ----------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """Return what must be stored before anything is said."""
        self._timer_at = now
        actions: list[Action] = [Store(BOOTS, self._boots.to_bytes(8, "little"))]
        if self._member is not None:
            actions += self._member.start()
        return [*actions, *self._outgoing.start()]

    def connected(self, max_packet_bytes: int, now: float) -> list[Action]:
        """The bus is there (again): brokers forget, so birth and state are said again."""
        self.online = True
        self._chunk_bytes = payload_bytes(max_packet_bytes)
        actions = [*self._subscribe(), *self._announce()]
        if self._member is not None:
            actions += self._member.connected(self._chunk_bytes, now)
        if self.state is State.FETCHING:
            return [*actions, *self._ask_for_work(now)]
        if self.state is State.AWAY:
            self._timer_at = self._away_until
        return [*actions, *self._report(now), *self._speak(now)]

    def _subscribe(self) -> list[Action]:
        """Subscribe, once: the transport does it again with each connection."""
        if self._is_subscribed:
            return []
        self._is_subscribed = True
        return [
            Subscribe((*self.topics.device_filters(self.device), self.topics.state(self.device)))
        ]

    def disconnected(self) -> list[Action]:
        """The bus is gone; training goes on."""
        self.online = False
        self._timer_at = math.inf
        if self._member is not None:
            self._member.disconnected()
        return []

    def asleep(self) -> list[Action]:
        """The device is about to leave on purpose: it says so, and keeps what it holds."""
        # What is retained will be there when it is back: no broker need queue each version for it.
        self._is_subscribed = False
        return [
            Unsubscribe((self.topics.plan(), self.topics.manifest())),
            Publish(self.topics.state(self.device), b"sleeping", retain=True),
        ]

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
        if address.kind is Kind.STATE:
            return self._announce() if payload == b"offline" and self.online else []
        if address.kind is Kind.SHARE and self._member is not None:
            return self._heard(self._member, address, payload, now)  # who floods is not even read
        envelope = self._gate.open(topic, address.kind, payload)
        match address.kind:
            case Kind.IN:
                return self._told(envelope, now)
            case Kind.MANIFEST:
                return self._manifest(self._read(envelope, (Manifest,)), now)
            case Kind.MODEL | Kind.DIFFERENCE:
                return self._chunk(self._read(envelope, _CHUNKS[address.kind]), now)
            case Kind.PLAN:
                self._work.plan = read_plan(self._read(envelope, (Plan,)))
                self._notice_start(envelope, now)
                return [*self._gate.kept(), *self._train(now)]
        if self._member is None or address.kind not in _MEMBERS:
            raise RemoteProtocolError(refusals.WRONG_KIND, f"{address.kind.name} to a device")
        return self._heard(self._member, address, payload, now)

    def _read(self, envelope: Envelope, allowed: tuple[type[M], ...]) -> M:
        return read(envelope, allowed, task=self.topics.task, sender=AGGREGATOR)

    def _told(self, envelope: Envelope, now: float) -> list[Action]:
        member = self._member
        if member is None:
            return self._answered(self._read(envelope, ANSWERS), now)
        message: Answer | ToMember = self._read(envelope, (*ANSWERS, *member.told))
        if isinstance(message, Answer):
            return self._answered(message, now)
        return [*member.asked(message), *self._report(now)]

    def _heard(
        self, member: "Member", address: Address, payload: bytes, now: float
    ) -> list[Action]:
        before = member.birth
        actions = member.heard(address, payload, now)
        if member.birth != before and self.online:
            actions += self._announce()
            if self.state is State.AWAY:  # another roster may name this device
                self._away_until = self._timer_at = now + RETRY_S * self._draws.next()
        return [*actions, *self._stock_up(now), *self._report(now)]

    def _stock_up(self, now: float) -> list[Action]:
        """Masks are dealt while no update waits for its receipt."""
        if self._member is None or self.pending is not None:
            return []
        return self._member.stock_up(now)

    def _answered(self, answer: Answer, now: float) -> list[Action]:
        if isinstance(answer, Refusal) and answer.reason == refusals.UNKNOWN_KEY:
            self._show_certificate(now)
        else:
            self._check_ins.shows_certificate = False
        match answer:
            case Lease():
                return self._leased(answer, now)
            case Refusal(lease_id=b""):
                return self._turned_away(answer, now)
        pending = self.pending
        if pending is None or answer.lease_id != pending.lease_id:
            return []
        match answer:
            case ChunksMissing():
                return self._send(pending, answer.indices)
            case Held():
                return []
            case Receipt():
                return self._counted(pending, answer.version, now)
            case Refusal():
                return self._refused(pending, answer.reason, now)

    def _count_on(self, newest_start: int, now: float) -> list[Action]:
        """A copy of this medium, or an older life of it, has counted further: nobody hears us."""
        if newest_start < self._boots:
            return []
        self._boots = newest_start + 1
        self._voice.count_from(self._boots)
        return [Store(BOOTS, self._boots.to_bytes(8, "little")), *self._speak(now)]

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
        if self.state is State.FETCHING and now >= self._work.ends_at:
            return [*self._give_up(), *self._speak(now)]
        if self.state is State.FETCHING:
            fetch = self._work.fetch
            if fetch is not None and not fetch.is_complete and fetch.silent():
                self._fall_back(fetch)
            return self._ask_for_work(now)
        return self._speak(now)

    def _speak(self, now: float) -> list[Action]:
        """Check in when idle, ask after the pending update when reporting; later, again."""
        if not self.online or self.state not in {State.IDLE, State.REPORTING}:
            return []
        if self.pending is not None and self._send_at is not None:
            return self._send_when_due(self.pending, self._send_at, now)
        if self.state is State.REPORTING:
            wait_s = self._retry_s
            self._retry_s = min(2 * self._retry_s, self._retry_cap_s)
        else:
            wait_s = self._check_in_s
        self._timer_at = now + wait_s * self._draws.factor()
        num_samples = self._num_samples()
        if self.state is State.IDLE and not self._would_train(num_samples):
            return []
        unserved = [] if self._member is None else self._member.unserved(now)
        return [*unserved, self._check_in(num_samples)]

    def _send_when_due(self, pending: Pending, due: float, now: float) -> list[Action]:
        """Send an update for the first time that was not to be sent at once."""
        if now < due:
            self._timer_at = due
            return []
        self._send_at = None
        self._timer_at = now + self._retry_s * self._draws.factor()
        return self._send(pending, ())

    def _check_in(self, num_samples: int) -> Publish:
        pending = b"" if self.pending is None else self.pending.lease_id
        told = self._check_ins.next(
            self._work.held_version, num_samples, pending, fetching=self.state is State.FETCHING
        )
        if told.unreachable:
            self.counts["models_unreachable"] += 1
        return self._voice.tell(told)

    def _show_certificate(self, now: float) -> None:
        """The aggregator does not know this device's key (any more)."""
        if self._keys is None:
            return
        self._check_ins.shows_certificate = True
        self.counts["certificates_wanted"] += 1
        soon = now + START_SPREAD * self._check_in_s * self._draws.next()
        self._timer_at = min(self._timer_at, soon)

    def _would_train(self, num_samples: int) -> bool:
        if num_samples == 0:
            return False  # nothing to train on yet
        reason = "unfit_plan" if self._work.is_unfit else self._declines()
        if num_samples < self._min_samples:
            reason = refusals.FEW_SAMPLES
        if self._member is not None and self._member.has_spent:
            reason = refusals.PRIVACY_SPENT
        if reason:
            self.counts[f"declined_{reason}"] += 1
        return not reason

    def _turned_away(self, refusal: Refusal, now: float) -> list[Action]:
        if refusal.reason == refusals.OLD_START:
            return self._count_on(refusal.newest_start, now)
        if refusal.reason == refusals.UNKNOWN_KEY:
            return []
        if refusal.install_id != self.install_id or self.state is not State.IDLE:
            return []
        self._step("turned away")
        self.turned_away = f"{refusal.reason}: {refusal.detail}"
        self.counts[f"turned_away_{refusal.reason}"] += 1
        self._away_until = now + refusal.retry_s * self._draws.factor()
        self._timer_at = self._away_until
        return []

    # --- plan, lease and model ---------------------------------------------------------------

    def _notice_start(self, envelope: Envelope, now: float) -> None:
        """The aggregator (re)started if its counter did: what it has not stored, it forgot."""
        started = envelope.counter >> COUNTER_START_BITS
        if started == self._aggregator_start or not self.online:
            return
        self._aggregator_start = started
        if self._member is not None:
            self._member.say_all_again(now)
        if self.state in {State.IDLE, State.REPORTING, State.AWAY}:  # why it was may be gone
            soon = now + START_SPREAD * self._check_in_s * self._draws.next()
            self._timer_at = min(self._timer_at, soon)

    def _leased(self, lease: Lease, now: float) -> list[Action]:
        if lease.install_id != self.install_id:
            return []
        fetch = self._work.fetch
        if self.state is not State.IDLE and not self._is_helped_by(lease):
            return []
        if self._outgoing.is_closed(lease.lease_id) or self._work.is_unfit:
            return []  # a late copy: its update has been settled, or there will be none
        try:
            codec = parse_codec(lease.codec)
        except ConfigError as error:
            raise RemoteProtocolError(refusals.WRONG_CODEC, str(error)) from None
        if self._member is not None:
            self._member.check_lease(lease)
        elif codec.masked:
            raise RemoteProtocolError(refusals.WRONG_CODEC, "masked, and this device has no keys")
        left: list[Action] = [] if fetch is None else [*fetch.leave()]
        self._work.begin(lease, now)
        if self.state is State.IDLE:
            self._step("lease")
        begun = self._train(now) if self._work.fetch is None else self._ask_for_work(now)
        return [*left, *begun]

    def _is_helped_by(self, lease: Lease) -> bool:
        """Whether the model of a lease is published whole for who is stuck.

        It is the same lease, or the next one if the aggregator has given that one up.
        """
        fetch = self._work.fetch
        if self.state is not State.FETCHING or fetch is None or not fetch.is_stuck:
            return False
        return lease.version >= self._work.lease.version

    def _ask_for_work(self, now: float) -> list[Action]:
        """The model, or a plan that fits it, is not here: both are retained somewhere."""
        fetch = self._work.fetch
        if fetch is None or fetch.is_complete:
            self._timer_at = now + RETRY_S * self._draws.factor()
            return [Subscribe((self.topics.plan(),))]
        self._timer_at = now + fetch.next_retry_s() * self._draws.factor()
        if not fetch.is_stuck:
            return [*fetch.ask(self.topics)]
        self._check_ins.is_unreachable = True
        return [self._check_in(max(1, self._num_samples()))]

    def _chunk(self, chunk: ModelChunk | DifferenceChunk, now: float) -> list[Action]:
        fetch = self._work.fetch
        if fetch is None or not fetch.awaits(chunk):
            return []
        self._timer_at = now + fetch.patience_s * self._draws.factor()
        fetch.add(chunk)
        return self._train(now)

    def _fetched(self, fetch: Fetch, now: float) -> list[Action]:
        """All of a model is here: it is put together, or fetched on another way."""
        try:
            if not self._work.put_together(self.topics.task):
                self._timer_at = now + RETRY_S * self._draws.factor()
                return []
        except RemoteProtocolError as error:
            self.counts[f"refused_{error.reason}"] += 1
            was_last = not fetch.needs_plan
            self._fall_back(fetch)
            return [] if was_last else self._ask_for_work(now)
        self._check_ins.is_unreachable = False
        self._timer_at = now + RETRY_S * self._draws.factor()
        return [*fetch.leave()]

    def _fall_back(self, fetch: Fetch) -> None:
        self.counts["fetches_failed"] += 1
        fetch.fall_back()

    def _train(self, now: float) -> list[Action]:
        """Train if a lease, its model and the plan are all here."""
        fetch, fetched = self._work.fetch, list[Action]()
        if self.state is not State.FETCHING:
            return []
        if fetch is not None and fetch.is_complete:
            fetched = self._fetched(fetch, now)
        if not self._work.is_complete:
            return fetched
        lease_id = self._work.lease.lease_id
        assignment = self._work.assignment(derive(self._seed, "training", lease_id))
        if assignment is None:
            self.counts["refused_wrong_shape"] += 1  # plan and model change one after the other
            return fetched
        self._step("model")
        self._timer_at = math.inf
        kept = [*self._gate.kept(), *self._work.kept()]
        return [*fetched, *kept, Train(lease_id, assignment, self._work.ends_at)]

    def _give_up(self) -> list[Action]:
        self._step("lease ran out")
        self.counts["leases_lost"] += 1
        fetch, self._work.fetch = self._work.fetch, None
        if fetch is None:
            return []
        self._check_ins.is_unreachable = fetch.is_stuck or fetch.is_silent or fetch.is_spoilt
        return [*fetch.leave()]

    # --- the update --------------------------------------------------------------------------

    def failed(
        self,
        lease_id: bytes,
        now: float,
        *,
        abandoned: str = "",
        why: str = "",
        is_plan_unfit: bool = False,
    ) -> list[Action]:
        """Training ended without a result; the lease is still good for another try, later.

        ``abandoned``: why it was ended on purpose; empty: it failed, and ``why`` is told to people.
        ``is_plan_unfit``: another try would fail too; there is none before another plan comes.
        """
        if self.state is not State.TRAINING or self._work.lease.lease_id != lease_id:
            return []
        self._step("failed")
        self._result = None
        self.counts[f"abandoned_{abandoned}" if abandoned else "trainings_failed"] += 1
        if not abandoned:
            self.failure = why[:MAX_REASON] or "unknown"
        if is_plan_unfit:
            self._work.refuse_plan()
        self._timer_at = now + self._check_in_s * self._draws.factor()
        return []

    def trained(self, lease_id: bytes, trained: Trained, now: float) -> list[Action]:
        """Training ended: what leaves the device is on flash before it leaves."""
        if self.state is not State.TRAINING or self._work.lease.lease_id != lease_id:
            return []
        if trained.num_skipped:
            self.counts["skipped_steps"] += trained.num_skipped
        if trained.num_samples < self._min_samples:
            least = self._min_samples
            why = f"trained on {trained.num_samples} samples: an update needs at least {least}"
            return self.failed(lease_id, now, why=why)
        delta = self._work.delta(trained)
        if delta is None:
            why = "the delta has another size, or a number that is too large or none"
            return self.failed(lease_id, now, why=why)
        give_up_at = max(self._work.ends_at, now + RETRY_S)
        self._result = _Result(delta, trained.num_samples, give_up_at)
        return self._report(now)

    def _report(self, now: float) -> list[Action]:
        """Send what was trained; in a secure task as soon as there is a mask for it."""
        result, plan = self._result, self._work.plan
        if result is None or plan is None:
            return []
        lease = self._work.lease
        actions = self._stock_up(now)
        try:
            pending = self._encode(lease, plan, result)
        except RemoteProtocolError as error:
            self.counts[f"refused_{error.reason}"] += 1
            return [*actions, *self.failed(lease.lease_id, now, why=str(error))]
        if pending is None and now < result.give_up_at:
            self._timer_at = result.give_up_at
            return actions
        if pending is None:
            self.counts["leases_lost"] += 1
            return [*actions, *self.failed(lease.lease_id, now, why="no mask came in time")]
        self._step("trained")
        self._result = None
        self.counts["trainings"] += 1
        self.failure = ""
        self._retry_s = self._retry_first_s
        actions += [] if self._member is None else self._member.spent()
        actions += self._outgoing.hold(pending)
        if now < self._work.upload_at:
            self._send_at = self._timer_at = self._work.upload_at
            return actions
        self._timer_at = now + self._retry_s * self._draws.factor() if self.online else math.inf
        return [*actions, *self._send(pending, ())]

    def _encode(self, lease: Lease, plan: TrainingPlan, result: _Result) -> Pending | None:
        if self._member is not None:
            staleness = max(0, self.newest_version - lease.version)
            return self._member.mask(
                lease, result.delta, result.num_samples, self.residual, staleness=staleness
            )
        pending = make_pending(
            self.topics.task,
            lease,
            result.delta,
            result.num_samples,
            layout=plan.trained.layout,
            residual=self.residual,
            rounding_seed=derive(self._seed, "rounding", lease.lease_id),
        )
        if not self._seals:
            return pending
        seal_seed = derive(self._seed, "seal", lease.lease_id, self._draws.num, pending.update)
        return replace(pending, seal_seed=seal_seed)

    def _send(self, pending: Pending, indices: tuple[int, ...]) -> list[Action]:
        """Publish chunks of the update: the ones named, or all."""
        if not self.online or self._send_at is not None:
            return []
        topic = self.topics.update(pending.partition, self.device)
        aggregator = b"" if self._keys is None else self._keys.aggregator
        chunks = pieces(pending, indices, self._chunk_bytes, aggregator)
        return [self._voice.say(topic, chunk) for chunk in chunks]

    def _manifest(self, manifest: Manifest, now: float) -> list[Action]:
        self._gate.check_version(manifest.version)
        self.newest_version = manifest.version
        if self.pending is not None and self.pending.lease_id in manifest.counted:
            return self._counted(self.pending, manifest.version, now)
        if self._result is None or self._member is None or not self._member.in_rounds:
            return []
        if manifest.version <= self._work.lease.version:
            return []
        return self._lose_round(now)

    def _lose_round(self, now: float) -> list[Action]:
        """The round that the result was for is over without it."""
        self.counts["leases_lost"] += 1
        self._result = None
        self._step("failed")
        return self._speak(now)

    def _counted(self, pending: Pending, version: int, now: float) -> list[Action]:
        self.counts["receipts"] += 1
        return self._settled("receipt", self._outgoing.counted(pending, version), now)

    def _refused(self, pending: Pending, reason: str, now: float) -> list[Action]:
        self.counts[f"update_refused_{reason}"] += 1
        if reason == refusals.BUSY:
            return []
        layout = None if self._work.plan is None else self._work.plan.trained.layout
        return self._settled("refusal", self._outgoing.refused(pending, reason, layout), now)

    def _settled(self, event: str, stores: list[Action], now: float) -> list[Action]:
        if self.pending is not None:
            return []  # folding needs the plan: asked again when it is here
        self._step(event)
        self._send_at = None
        return [*stores, *self._stock_up(now), *self._speak(now)]

    # --- small things ------------------------------------------------------------------------

    def _step(self, event: str) -> None:
        self.state = after(self.state, event)

    @property
    def _check_in_s(self) -> float:
        plan = self._work.plan
        return DEFAULT_CHECK_IN_S if plan is None else plan.check_in_s
