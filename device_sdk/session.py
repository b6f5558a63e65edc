"""One device in one task: the state machine. No I/O, no clock, no threads, no entropy.

The table in `device_sdk.states` is the design; docs/protocol.md draws it. Whatever arrives in a
state for which it has no entry is old news (MQTT delivers at least once) and changes nothing.

- A newer model does not interrupt training.
- A device that may not train now asks for no lease; why is counted, each time.
- Nor does one whose trainer refused the plan, until there is another plan.
- An update is stored before its first packet leaves, and kept until its receipt or refusal. While
  it has neither, the device asks after it (a check-in that names it) instead of sending it again:
  the answer names the chunks that are missing, if any.
- The residual (contractive codecs only) is committed on the receipt; after a refusal that faults
  nobody the delta is folded into it. The cache that calibrated codecs keep instead is committed on
  the receipt too, and no refusal changes it.

Here events are handed on: `Preparing` brings lease, model and plan together, `Delivery` has what
was trained until its receipt, `Asking` speaks to the aggregator again and again, `Presence` says
that the device is there, and `Member` is its part in a secure task.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from device_sdk.actions import Action, Store
from device_sdk.asking import Asking
from device_sdk.delivery import Delivery
from device_sdk.parts import Parts
from device_sdk.pending import BOOTS, Pending, Residual
from device_sdk.plan import read_plan
from device_sdk.preparing import Preparing
from device_sdk.states import State
from device_sdk.trainer import Trained
from protocol import refusals
from protocol.codec import read
from protocol.errors import RemoteProtocolError
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
from protocol.topics import Address, Kind, Topics

if TYPE_CHECKING:
    from device_sdk.identity import Keys
    from device_sdk.secagg import Member, ToMember

Answer = Lease | ChunksMissing | Held | Receipt | Refusal
ANSWERS: Final[tuple[type[Answer], ...]] = (Lease, ChunksMissing, Held, Receipt, Refusal)
M = TypeVar("M")
_CHUNKS: Final = {Kind.MODEL: (ModelChunk,), Kind.DIFFERENCE: (DifferenceChunk,)}
#: What only members of secure tasks listen to.
_MEMBERS: Final = frozenset({Kind.ROSTER, Kind.SUPPORT, Kind.SHARE})


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
        parts = Parts(
            topics,
            device,
            install_id,
            stored=stored,
            seed=seed,
            birth=birth,
            keys=keys,
            seal=seal,
            stock=stock,
            max_share_bytes=max_share_bytes,
        )
        self.topics = topics
        self.device = device
        self.install_id = install_id
        self.has_keys = keys is not None
        self.counts = parts.counts
        self._alarm = parts.alarm
        self._gate = parts.gate
        self._machine = parts.machine
        self._member = parts.member
        self._num_starts = parts.num_starts
        self._outgoing = parts.outgoing
        self._presence = parts.presence
        self._voice = parts.voice
        self._work = parts.work
        self._newest_start = -1  # of the aggregator
        self._delivery = Delivery(
            parts,
            min_samples=min_samples,
            retry_first_s=retry_first_s,
            retry_cap_s=retry_cap_s,
        )
        self._asking = Asking(
            parts,
            self._delivery,
            num_samples=num_samples,
            declines=declines,
            min_samples=min_samples,
        )
        self._preparing = Preparing(parts, self._asking)

    # --- what people and the shell may see -----------------------------------------------------

    @property
    def state(self) -> State:
        """What the device is doing."""
        return self._machine.state

    @property
    def online(self) -> bool:
        """Whether there is a connection."""
        return self._presence.online

    @property
    def pending(self) -> Pending | None:
        """The update that has no receipt yet."""
        return self._outgoing.pending

    @property
    def residual(self) -> Residual | None:
        """What contractive codecs have not sent so far."""
        return self._outgoing.residual

    @property
    def failure(self) -> str:
        """Why the last training failed; empty after one that did not."""
        return self._delivery.failure

    @property
    def turned_away(self) -> str:
        """Why this device was turned away, the last time."""
        return self._asking.turned_away

    @property
    def newest_version(self) -> int:
        """The newest version there is, as far as it was heard of."""
        return self._work.newest_version

    @property
    def mask_epoch(self) -> int:
        """The epoch that shares and keys are of; all before it are over. 0 without a roster."""
        return 0 if self._member is None else self._member.epoch

    @property
    def timer_at(self) -> float:
        """When `timer` should be called next."""
        at = self._alarm.at
        return at if self._member is None else min(at, self._member.timer_at)

    # --- the connection ----------------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """Return what must be stored before anything is said."""
        self._alarm.at = now
        member = [] if self._member is None else self._member.start()
        return [self._kept_starts(), *member, *self._outgoing.start()]

    def _kept_starts(self) -> Store:
        return Store(BOOTS, self._num_starts.to_bytes(8, "little"))

    def connected(self, max_packet_bytes: int, now: float) -> list[Action]:
        """The bus is there (again): brokers forget, so birth and state are said again."""
        actions = self._presence.connected(max_packet_bytes)
        if self._member is not None:
            actions += self._member.connected(self._presence.chunk_bytes, now)
        if self.state is State.FETCHING:
            return [*actions, *self._preparing.ask(now)]
        self._asking.stay_away()
        return [*actions, *self._delivery.report(now), *self._asking.speak(now)]

    def disconnected(self) -> list[Action]:
        """The bus is gone; training goes on."""
        self._presence.online = False
        self._alarm.off()
        if self._member is not None:
            self._member.disconnected()
        return []

    def asleep(self) -> list[Action]:
        """The device is about to leave on purpose: it says so, and keeps what it holds."""
        return self._presence.asleep()

    # --- messages ----------------------------------------------------------------------------

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
            return self._presence.announce() if payload == b"offline" and self.online else []
        if address.kind is Kind.SHARE and self._member is not None:
            return self._heard(self._member, address, payload, now)  # who floods is not even read
        envelope = self._gate.open(topic, address.kind, payload)
        match address.kind:
            case Kind.IN:
                return self._told(envelope, now)
            case Kind.MANIFEST:
                return self._manifest(self._read(envelope, (Manifest,)), now)
            case Kind.MODEL | Kind.DIFFERENCE:
                return self._preparing.chunk(self._read(envelope, _CHUNKS[address.kind]), now)
            case Kind.PLAN:
                self._work.plan = read_plan(self._read(envelope, (Plan,)))
                self._notice_start(envelope.counter >> COUNTER_START_BITS, now)
                return [*self._gate.kept(), *self._preparing.train(now)]
        if self._member is None or address.kind not in _MEMBERS:
            raise RemoteProtocolError(refusals.WRONG_KIND, f"{address.kind.name} to a device")
        return self._heard(self._member, address, payload, now)

    def _read(self, envelope: Envelope, allowed: tuple[type[M], ...]) -> M:
        return read(envelope, allowed, task=self.topics.task, sender=AGGREGATOR)

    def _notice_start(self, start: int, now: float) -> None:
        """The aggregator (re)started if its counter did: what it has not stored, it forgot."""
        if start == self._newest_start or not self.online:
            return
        self._newest_start = start
        if self._member is not None:
            self._member.say_all_again(now)
        if self.state in {State.IDLE, State.REPORTING, State.AWAY}:  # why it was may be gone
            self._asking.soon(now)

    def _manifest(self, manifest: Manifest, now: float) -> list[Action]:
        self._gate.check_version(manifest.version)
        self._work.newest_version = manifest.version
        pending = self.pending
        if pending is not None and pending.lease_id in manifest.counted:
            return self._settled(self._delivery.counted(pending, manifest.version), now)
        return self._asking.speak(now) if self._delivery.round_over() else []

    def _heard(
        self, member: "Member", address: Address, payload: bytes, now: float
    ) -> list[Action]:
        before = member.epoch
        actions = member.heard(address, payload, now)
        if member.epoch != before and self.online:  # there is a key for the next one
            actions += self._presence.announce()
            self._asking.come_back(now)
        return [*actions, *self._delivery.stock_up(now), *self._delivery.report(now)]

    # --- what the aggregator says to this device alone -----------------------------------------

    def _told(self, envelope: Envelope, now: float) -> list[Action]:
        member = self._member
        if member is None:
            return self._answered(self._read(envelope, ANSWERS), now)
        message: Answer | ToMember = self._read(envelope, (*ANSWERS, *member.told))
        if isinstance(message, Answer):
            return self._answered(message, now)
        return [*member.asked(message), *self._delivery.report(now)]

    def _answered(self, answer: Answer, now: float) -> list[Action]:
        if isinstance(answer, Refusal) and answer.reason == refusals.UNKNOWN_KEY:
            self._asking.is_unknown(now)
        else:
            self._asking.is_known()
        match answer:
            case Lease():
                return self._preparing.leased(answer, now)
            case Refusal(lease_id=b""):
                return self._not_served(answer, now)
        pending = self.pending
        if pending is None or answer.lease_id != pending.lease_id:
            return []
        match answer:
            case ChunksMissing():
                return self._delivery.send(pending, answer.indices)
            case Held():
                return []
            case Receipt():
                return self._settled(self._delivery.counted(pending, answer.version), now)
            case Refusal():
                return self._settled(self._delivery.refused(pending, answer.reason), now)

    def _not_served(self, refusal: Refusal, now: float) -> list[Action]:
        if refusal.reason == refusals.OLD_START:
            return self._count_on(refusal.newest_start, now)
        if refusal.reason != refusals.UNKNOWN_KEY:
            self._asking.turn_away(refusal, now)
        return []

    def _count_on(self, newest_start: int, now: float) -> list[Action]:
        """A copy of this medium, or an older life of it, has counted further: nobody hears us."""
        if newest_start < self._num_starts:
            return []
        self._num_starts = newest_start + 1
        self._voice.count_from(self._num_starts)
        return [self._kept_starts(), *self._asking.speak(now)]

    def _settled(self, stores: list[Action], now: float) -> list[Action]:
        """Go on if an update has been settled; without ``stores`` it has not."""
        if not stores:
            return []
        return [*stores, *self._delivery.stock_up(now), *self._asking.speak(now)]

    # --- time --------------------------------------------------------------------------------

    def timer(self, now: float) -> list[Action]:
        """`timer_at` has come: say again what has not been answered."""
        said = [] if self._member is None else self._member.timer(now)
        return [*said, *self._delivery.stock_up(now), *self._say_again(now)]

    def _say_again(self, now: float) -> list[Action]:
        if now < self._alarm.at:
            return []
        self._alarm.off()
        if self._delivery.waits_for_mask:
            return self._delivery.report(now)
        if self.state is State.AWAY:
            self._machine.step("timer")
        asked = self._preparing.timer(now) if self.state is State.FETCHING else []
        return [*asked, *self._asking.speak(now)]

    # --- training ----------------------------------------------------------------------------

    def trained(self, lease_id: bytes, trained: Trained, now: float) -> list[Action]:
        """Training ended: what leaves the device is on flash before it leaves."""
        return self._delivery.trained(lease_id, trained, now)

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
        return self._delivery.failed(
            lease_id, now, abandoned=abandoned, why=why, is_plan_unfit=is_plan_unfit
        )
