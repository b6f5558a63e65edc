"""One device of a load: the product's session and transport, with a dictionary for storage."""

import random
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import nacl.utils

from device_sdk.abilities import CODECS
from device_sdk.actions import Action, Delete, Store, Train
from device_sdk.pending import BOOTS, PENDING, unpack_pending
from device_sdk.session import Session
from device_sdk.states import State
from device_sdk.trainer import Trained
from fedbus.load_ledger import Ledger
from protocol import refusals
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.messages import INSTALL_ID_BYTES, WIRE_VERSION
from protocol.stream import derive
from protocol.topics import Topics
from simulator.queue import Scheduled
from transport import (
    BrokerSettings,
    Connected,
    Disconnected,
    Event,
    Message,
    PacketTooLargeError,
    PublishRefused,
    QueueFullError,
    Refused,
    SubscribeRefused,
    Will,
)
from transport.config import BrokerConfig
from transport.loop import Loop
from transport.paho import PahoTransport

#: As in `device_sdk.device`.
WINDOW: Final = 20
QUEUE: Final = 2_000
#: Keys of a session's counts.
_COUNTED: Final = "receipts"
_REFUSED: Final = "update_refused_"
_WORKING: Final = frozenset({State.FETCHING, State.TRAINING})
_draw: Final = random.SystemRandom().random


def _birth() -> Mapping[str, object]:
    return {"sdk": "load", "wire": WIRE_VERSION, "codecs": list(CODECS)}


def _is_final_refusal(key: str) -> bool:
    """Whether a session counts there updates that will not be used; ``busy`` asks to try again."""
    return key.startswith(_REFUSED) and key != _REFUSED + refusals.BUSY


@dataclass(frozen=True, slots=True)
class Common:
    """What all clients of a load share. ``train`` is told of each training to be done.

    ``has_enough`` says of a number of settled updates whether a client stops asking for more;
    ``boots`` counts their starts from a number that grows from run to run; ``problem`` gets what
    went wrong. Without ``stores`` nothing is kept for a client that loses power: it costs memory.
    """

    topics: Topics
    loop: Loop
    ledger: Ledger
    num_samples: Callable[[], int]
    train: "Callable[[LoadClient, Train], None]"
    problem: Callable[[str], None]
    has_enough: Callable[[int], bool]
    boots: int
    stores: bool = True
    retry_first_s: float = 10.0
    retry_cap_s: float = 600.0
    birth: Mapping[str, object] = field(default_factory=_birth)


class LoadClient:
    """Connects when `start` is called. Time is an argument, in monotonic seconds.

    ``broker`` says where to and as whom. Its storage survives `lose_power`, nothing else does.
    """

    __slots__ = (
        "_broker",
        "_common",
        "_leased_at",
        "_past_down",
        "_past_up",
        "_refusals",
        "_session",
        "_settled_before",
        "_storage",
        "_transport",
        "name",
        "num_connects",
        "num_settled",
        "scheduled",
    )

    def __init__(self, name: str, broker: BrokerConfig, common: Common) -> None:
        self.name = name
        self.num_settled = 0
        self.num_connects = 0
        self.scheduled: Scheduled | None = None
        self._broker = broker
        self._common = common
        self._storage: dict[str, bytes] = {BOOTS: common.boots.to_bytes(8, "little")}
        self._session: Session | None = None
        self._transport: PahoTransport | None = None
        self._leased_at = 0.0
        self._refusals: dict[str, int] = {}
        self._settled_before = 0
        self._past_up = self._past_down = 0

    @property
    def transport(self) -> PahoTransport | None:
        """Its connection; None while it has no power."""
        return self._transport

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted it."""
        return self._transport is not None and self._transport.connected

    @property
    def is_done(self) -> bool:
        """Whether it has settled as many updates as it was asked to, and holds none."""
        return self._common.has_enough(self.num_settled) and not self.holds_update

    @property
    def holds_update(self) -> bool:
        """Whether an update of it has neither receipt nor refusal."""
        return self._session is not None and self._session.pending is not None

    @property
    def held(self) -> bytes:
        """The id of the update that it holds, in memory or without power; empty: none."""
        if self._session is None:
            stored = self._storage.get(PENDING)
            return b"" if stored is None else unpack_pending(stored).lease_id
        return b"" if self._session.pending is None else self._session.pending.lease_id

    @property
    def timer_at(self) -> float:
        """When `time` wants to be called."""
        return float("inf") if self._session is None else self._session.timer_at

    @property
    def bytes_up(self) -> int:
        """Bytes of all PUBLISH packets that it has sent."""
        return self._past_up + (0 if self._transport is None else self._transport.counters.bytes_up)

    @property
    def bytes_down(self) -> int:
        """Bytes of all PUBLISH packets that it has got."""
        now = 0 if self._transport is None else self._transport.counters.bytes_down
        return self._past_down + now

    # --- power and links ---------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Switch it on; nothing if it is on."""
        if self._transport is not None:
            return
        self._session = self._new_session()
        self._transport = PahoTransport(self._settings(), random=_draw)
        self._perform(self._session.start(now))
        self._common.loop.add(self._transport)
        self._transport.connect()

    def lose_power(self) -> None:
        """Cut its power: the connection breaks without a word, and memory is gone."""
        if self._transport is None:
            return
        self.flap()
        self._common.loop.remove(self._transport)
        self._transport.close(0.0)
        self._account(self._transport)
        self._transport = self._session = None

    def flap(self) -> None:
        """Break its connection as a bad link would: neither side says goodbye."""
        if self._transport is None or self._transport.fileno() < 0:
            return
        with socket.fromfd(self._transport.fileno(), socket.AF_INET, socket.SOCK_STREAM) as twin:
            try:
                twin.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it was broken already

    def leave(self, timeout_s: float) -> None:
        """Clear what it has retained at the broker, and disconnect."""
        if self._transport is None:
            return
        topics = self._common.topics
        for topic in (topics.info(self.name), topics.state(self.name)):
            self._publish(Publish(topic, b"", retain=True))
        self._common.loop.remove(self._transport)
        self._transport.close(timeout_s)
        self._account(self._transport)
        self._transport = self._session = None

    # --- events ------------------------------------------------------------------------------

    def handle(self, events: Sequence[Event], now: float) -> None:
        """Take what the transport has."""
        for event in events:
            if self._session is None or self._transport is None:
                return
            self._take(self._session, self._transport, event, now)

    def time(self, now: float) -> None:
        """`timer_at` has come."""
        if self._session is not None and now >= self._session.timer_at:
            self._follow(self._session, lambda session: session.timer(now), now)

    def trained(self, train: Train, trained: Trained, now: float) -> None:
        """A training ended; nothing if the client has lost its power since."""
        if self._session is not None:
            self._follow(
                self._session, lambda session: session.trained(train.lease_id, trained, now), now
            )

    def _take(self, session: Session, transport: PahoTransport, event: Event, now: float) -> None:
        match event:
            case Message(topic, payload):
                self._follow(session, lambda session: session.message(topic, payload, now), now)
                transport.acknowledge(event)
            case Connected(max_packet_bytes=limit):
                self.num_connects += 1
                self._perform(session.connected(limit, now))
            case Disconnected():
                self._perform(session.disconnected())
            case Refused(reason) | PublishRefused(reason=reason) | SubscribeRefused(reason=reason):
                self._common.problem(reason)

    def _follow(
        self, session: Session, step: Callable[[Session], Sequence[Action]], now: float
    ) -> None:
        """Let the session take a step, and note what it means for its update."""
        state, pending, receipts = session.state, session.pending, session.counts[_COUNTED]
        actions = step(session)
        if state is State.IDLE and session.state in _WORKING:
            self._leased_at = now
        if state is not State.AWAY and session.state is State.AWAY:
            self._common.problem(f"turned away: {session.turned_away}")
        if pending is None and session.pending is not None:
            self._common.ledger.sent(session.pending.lease_id, self._leased_at, now)
        if pending is not None and session.pending is not pending:
            self.num_settled += 1
            if session.counts[_COUNTED] > receipts:
                self._common.ledger.receipt(pending.lease_id, now)
            elif reason := self._reason(session):
                self._common.ledger.refusal(pending.lease_id, reason, now)
            # else it let go without a word: without a verdict and held by nobody, it is lost
        self._perform(actions)

    def _reason(self, session: Session) -> str:
        """Return why the last update was refused: the reason whose count has grown; empty: none."""
        counts = {key: total for key, total in session.counts.items() if _is_final_refusal(key)}
        grown = [key for key, total in counts.items() if total > self._refusals.get(key, 0)]
        self._refusals = counts
        return grown[0].removeprefix(_REFUSED) if grown else ""

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            self._act(action)

    def _act(self, action: Action) -> None:
        match action:
            case Store(key, data) if self._common.stores:
                self._storage[key] = data
            case Delete(key):
                self._storage.pop(key, None)
            case Publish():
                self._publish(action)
            case Subscribe(filters, retained) if self._transport is not None:
                self._transport.subscribe(filters, retained=retained)
            case Unsubscribe(filters) if self._transport is not None:
                self._transport.unsubscribe(filters)
            case Train():
                self._common.train(self, action)

    def _publish(self, publish: Publish) -> None:
        if self._transport is None:
            return
        try:
            self._transport.publish(
                publish.topic, publish.payload, qos=publish.qos, retain=publish.retain
            )
        except (PacketTooLargeError, QueueFullError) as error:
            self._common.problem(f"not sent: {error}")

    # --- making and accounting ---------------------------------------------------------------

    def _new_session(self) -> Session:
        common = self._common
        self._refusals = {}
        self._settled_before = self.num_settled
        return Session(
            common.topics,
            self.name,
            self._install_id,
            stored=self._storage,
            seed=nacl.utils.random(32),
            birth=common.birth,
            num_samples=common.num_samples,
            declines=self._declines,
            retry_first_s=common.retry_first_s,
            retry_cap_s=common.retry_cap_s,
        )

    def _declines(self) -> str:
        """Asked by the session right after it has settled an update, before `_follow` knows."""
        counts = Counter() if self._session is None else self._session.counts
        settled = sum(
            total for key, total in counts.items() if key == _COUNTED or _is_final_refusal(key)
        )
        return "done" if self._common.has_enough(self._settled_before + settled) else ""

    @property
    def _install_id(self) -> bytes:
        """The same in every run, so that an aggregator that knows the name lets it in again."""
        return derive(bytes(32), "load", self.name)[:INSTALL_ID_BYTES]

    def _settings(self) -> BrokerSettings:
        topics = self._common.topics
        return self._broker.settings(
            f"{topics.task}-{self.name}-{self._install_id.hex()[:8]}",
            username=self.name,
            will=Will(topics.state(self.name), b"offline"),
            window=WINDOW,
            queue=QUEUE,
        )

    def _account(self, transport: PahoTransport) -> None:
        """Keep what a connection that is given up has counted."""
        self._past_up += transport.counters.bytes_up
        self._past_down += transport.counters.bytes_down
