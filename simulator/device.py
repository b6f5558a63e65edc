"""A device's shell in virtual time: the production session, a dictionary for storage."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from device_sdk.actions import Action, Delete, Store, Train
from device_sdk.identity import Keys
from device_sdk.pending import Pending
from device_sdk.session import Session
from device_sdk.trainer import Assignment, Trained, Trainer, TrainingError
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.stream import derive
from protocol.topics import Topics
from simulator.broker import Broker
from simulator.power import Power, PowerLost
from simulator.queue import EventQueue, Scheduled
from simulator.transport import MemoryTransport
from transport import BrokerSettings, Connected, Counters, Disconnected, Event, Message, Will

#: As in `device_sdk.device`: after a write that failed, the session begins anew this much later.
STORAGE_RETRY_S = 10.0


class _StorageError(Exception):
    """A write was told to fail."""


class SimulatedDevice:
    """One device. ``duration`` says how long (virtual seconds) each training takes.

    ``storage`` outlives `lose_power`. ``closed`` is told of each update that got its receipt (True)
    or a refusal (False), before that is stored. ``retry_first_s``, ``retry_cap_s``, ``keys`` (of a
    secure task), ``stock`` and ``max_share_bytes`` are the session's.
    """

    def __init__(
        self,
        name: str,
        trainer: Trainer,
        duration: Callable[[Assignment], float],
        *,
        queue: EventQueue,
        broker: Broker,
        topics: Topics,
        seed: bytes,
        storage: dict[str, bytes],
        retry_first_s: float = 10.0,
        retry_cap_s: float = 600.0,
        keys: Keys | None = None,
        stock: int = 2,
        max_share_bytes: int = 4 << 20,
        counters: Counters | None = None,
    ) -> None:
        self.name = name
        #: What went over its connections, all of them: others may share it.
        self.counters = Counters() if counters is None else counters
        self._counts_before: Counter[str] = Counter()
        self.storage = storage
        self.session: Session | None = None
        self.closed: Callable[[Pending, bool], None] = lambda _pending, _counted: None
        self.install_id = derive(seed, "install")[:16]
        self.transport: MemoryTransport | None = None
        self._queue = queue
        self._broker = broker
        self._topics = topics
        self._trainer = trainer
        self._duration = duration
        self._seed = seed
        self._retry_first_s = retry_first_s
        self._retry_cap_s = retry_cap_s
        self._keys = keys
        self._stock = stock
        self._max_share_bytes = max_share_bytes
        self._num_starts = 0
        self._down_s: float | None = None
        self._fails_next_write = False
        self._power = Power()
        self._timer: Scheduled | None = None

    @property
    def counts(self) -> Counter[str]:
        """What all its sessions counted, the present one included."""
        return self._counts_before + (Counter() if self.session is None else self.session.counts)

    @property
    def running(self) -> bool:
        """It has power."""
        return self.transport is not None

    # --- power -------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch it on; nothing if it is on."""
        if self.transport is not None:
            return
        self._power.restore()
        settings = BrokerSettings(
            client_id=f"{self._topics.task}-{self.name}",
            will=Will(self._topics.state(self.name), b"offline"),
        )
        self.transport = MemoryTransport(
            self._broker, self._queue, settings, self._turn_soon, self.counters
        )
        self._begin()
        self.transport.connect()

    def lose_power(self, *, after: int = 0, down_s: float | None = None) -> None:
        """Cut its power: now, or when it has written or published ``after`` more times.

        It starts again ``down_s`` after the cut; None: never.
        """
        self._down_s = down_s
        if after == 0:
            self._die()
        else:
            self._power.cut_after(after)

    def leave(self) -> None:
        """Say goodbye and switch off."""
        if self.session is not None:
            self._perform(self.session.asleep())
        if self.transport is not None:
            self.transport.close()
        self._forget()

    def fail_next_write(self) -> None:
        """Let the next write to storage fail."""
        self._fails_next_write = True

    def _die(self) -> None:
        if self.transport is None:
            return
        self.transport.vanish()
        self._forget()
        if self._down_s is not None:
            self._queue.after(self._down_s, self.start)

    def _forget(self) -> None:
        self._counts_before = self.counts
        self.transport = None
        self.session = None
        self._set_timer()

    def _begin_anew(self, transport: MemoryTransport | None) -> None:
        if self.session is None and self.transport is transport:
            self._begin()

    # --- the loop ----------------------------------------------------------------------------

    def _begin(self) -> None:
        """Make a session from what storage holds."""
        if self.transport is None:
            return
        self._num_starts += 1
        self.session = Session(
            self._topics,
            self.name,
            self.install_id,
            stored=self.storage,
            seed=derive(self._seed, "start", self._num_starts),
            birth={"boot": self._num_starts, "sdk": "simulated"},
            num_samples=self._trainer.num_samples,
            retry_first_s=self._retry_first_s,
            retry_cap_s=self._retry_cap_s,
            keys=self._keys,
            stock=self._stock,
            max_share_bytes=self._max_share_bytes,
        )
        actions = self.session.start(self._queue.now)
        if self.transport.connected:
            actions += self.session.connected(self.transport.max_packet_bytes, self._queue.now)
        self._perform(actions)

    def _turn_soon(self) -> None:
        self._queue.at(self._queue.now, self._turn)

    def _turn(self) -> None:
        """Take what the transport has."""
        transport = self.transport
        if transport is None:
            return
        for event in transport.events():
            self._perform(self._decide(event))
            if isinstance(event, Message) and self.transport is transport:
                transport.acknowledge(event)

    def _decide(self, event: Event) -> Sequence[Action]:
        if self.session is None:
            return []
        now = self._queue.now
        match event:
            case Message(topic, payload):
                return self._message(self.session, topic, payload)
            case Connected(max_packet_bytes=limit):
                return self.session.connected(limit, now)
            case Disconnected():
                return self.session.disconnected()
        return []

    def _message(self, session: Session, topic: str, payload: bytes) -> Sequence[Action]:
        before, receipts = session.pending, session.counts["receipts"]
        actions = session.message(topic, payload, self._queue.now)
        if before is not None and session.pending is not before:
            self.closed(before, session.counts["receipts"] > receipts)
        return actions

    def _perform(self, actions: Sequence[Action]) -> None:
        try:
            for action in actions:
                self._act(action)
        except PowerLost:
            self._die()
        except _StorageError:
            self._counts_before = self.counts
            self.session = None  # memory is ahead of the medium
            self._queue.after(STORAGE_RETRY_S, partial(self._begin_anew, self.transport))
        self._set_timer()

    def _act(self, action: Action) -> None:
        if self.transport is None:
            return
        match action:
            case Store(key, data):
                self._write()
                self.storage[key] = data
            case Delete(key):
                self._write()
                self.storage.pop(key, None)
            case Publish(topic, payload, retain, qos):
                self._power.use()
                self.transport.publish(topic, payload, qos=qos, retain=retain)
            case Subscribe(filters):
                self.transport.subscribe(filters)
            case Unsubscribe(filters):
                self.transport.unsubscribe(filters)
            case Train():
                delay_s = self._duration(action.assignment)
                self._queue.after(delay_s, partial(self._trained, action, self.transport))

    def _write(self) -> None:
        self._power.use()
        if self._fails_next_write:
            self._fails_next_write = False
            raise _StorageError

    def _trained(self, train: Train, transport: MemoryTransport) -> None:
        """Training ended; its result is lost if there was no power meanwhile."""
        if self.session is None or self.transport is not transport:
            return
        trained = self.train(train.assignment)
        now = self._queue.now
        if trained is None:
            self._perform(self.session.failed(train.lease_id, now))
        else:
            self._perform(self.session.trained(train.lease_id, trained, now))

    def train(self, assignment: Assignment) -> Trained | None:
        """Train at once; None if that failed."""
        try:
            return self._trainer.train(assignment)
        except TrainingError:
            return None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.session is not None and self.session.timer_at < float("inf"):
            self._timer = self._queue.at(self.session.timer_at, self._time)

    def _time(self) -> None:
        self._timer = None
        if self.session is not None:
            self._perform(self.session.timer(self._queue.now))
