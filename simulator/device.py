"""A device's shell in virtual time: the production session, a dictionary for storage."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from device_sdk.actions import Action, Delete, Keep, Store, Train
from device_sdk.identity import Keys
from device_sdk.pending import Pending
from device_sdk.session import Session
from device_sdk.trainer import Assignment, Trained, Trainer, TrainingError
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.stream import derive
from protocol.topics import Topics
from simulator.availability import Availability
from simulator.broker import Broker
from simulator.draws import Draws
from simulator.links import Link, LinkProfile
from simulator.power import Power, PowerLost
from simulator.queue import EventQueue, Scheduled
from simulator.remote import TrainRemote
from simulator.retries import jittered
from simulator.transport import MemoryTransport
from transport import (
    BrokerSettings,
    Connected,
    Counters,
    Disconnected,
    Event,
    Message,
    QueueFullError,
    Will,
)

#: As in `device_sdk.device`: after a write that failed, the session begins anew this much later.
STORAGE_RETRY_S = 10.0


class _StorageError(Exception):
    """A write was told to fail."""


@lru_cache(maxsize=64)
def _shared(data: bytes) -> bytes:
    """Devices that keep the same model keep the same bytes: memory would not do for all."""
    return data


class SimulatedDevice:
    """One device. ``duration`` says how long (virtual seconds) each training takes.

    ``storage`` outlives `lose_power`. ``closed`` is told of each update that got its receipt (True)
    or a refusal (False), before that is stored. ``retry_first_s``, ``retry_cap_s``, ``keys`` (of a
    secure task), ``stock`` and ``max_share_bytes`` are the session's.

    With a ``link`` everything takes its time both ways, with an ``availability`` it is there at its
    hours (`follow_hours`) and goes early when ``updates_per_wake`` updates have their receipts (0:
    never). With either, it comes back to a broker with the product's jitter. ``remote`` trains in
    place of ``trainer``.
    """

    __slots__ = (
        "_availability",
        "_broker",
        "_counts_before",
        "_dark_until",
        "_down_s",
        "_drops",
        "_duration",
        "_fails_next_write",
        "_is_on",
        "_keys",
        "_link",
        "_max_share_bytes",
        "_num_starts",
        "_power",
        "_queue",
        "_remote",
        "_retry_cap_s",
        "_retry_first_s",
        "_seed",
        "_stock",
        "_timer",
        "_topics",
        "_trainer",
        "_updates_per_wake",
        "closed",
        "counters",
        "install_id",
        "name",
        "num_connects",
        "num_not_sent",
        "session",
        "storage",
        "transport",
    )

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
        link: LinkProfile | None = None,
        availability: Availability | None = None,
        updates_per_wake: int = 0,
        remote: TrainRemote | None = None,
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
        self._link = None if link is None else Link(link, derive(seed, "link"))
        self._availability = availability
        #: Whether these are its hours; rounding could say otherwise of the moment they change in.
        self._is_on = availability is None or not availability.next_change(queue.now).is_on
        self._drops = Draws(derive(seed, "drops"))
        self._updates_per_wake = updates_per_wake
        self._remote = remote
        #: Publishes that found their queue full, as on a device whose link is too slow.
        self.num_not_sent = 0
        #: Connections it has had, all that ended included.
        self.num_connects = 0
        self._num_starts = 0
        self._down_s: float | None = None
        self._dark_until = 0.0  # no hours bring power back before
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
        """Switch it on, by hand; nothing if it is on, or not at its hours."""
        if self.transport is not None or not self._is_on:
            return
        self._power.restore()
        settings = BrokerSettings(
            client_id=f"{self._topics.task}-{self.name}",
            will=Will(self._topics.state(self.name), b"offline"),
        )
        retries = None
        if self._link is not None or self._availability is not None:
            retries = jittered(settings, derive(self._seed, "retries", self._num_starts))
        self.transport = MemoryTransport(
            self._broker,
            self._queue,
            settings,
            self._turn_soon,
            self.counters,
            link=self._link,
            retries=retries,
        )
        self._begin()
        self.transport.connect()

    def follow_hours(self) -> None:
        """Start if it is time, then go and come as its availability says."""
        self._start_if_powered()
        if self._availability is None:
            return
        change = self._availability.next_change(self._queue.now)
        if change.at < math.inf:
            self._queue.at(change.at, partial(self._change, is_on=change.is_on))

    def lose_power(self, *, after: int = 0, down_s: float | None = None) -> None:
        """Cut its power: now, or when it has written or published ``after`` more times.

        It starts again ``down_s`` after the cut, at its hours; None: never.
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

    def _change(self, *, is_on: bool) -> None:
        self._is_on = is_on
        if not is_on and self._drops.next() < self._share_of_drops():
            self.lose_power(down_s=0.0)  # it has power again, and no hours
        elif not is_on:
            self.leave()
        self.follow_hours()

    def _share_of_drops(self) -> float:
        return 0.0 if self._availability is None else self._availability.drops

    def _has_done_enough(self) -> bool:
        if not self._updates_per_wake or self.session is None:
            return False
        return self.session.counts["receipts"] >= self._updates_per_wake

    def _declines(self) -> str:
        return "rested" if self._has_done_enough() else ""

    def _die(self) -> None:
        if self.transport is None:
            return
        self.transport.vanish()
        self._forget()
        self._dark_until = math.inf if self._down_s is None else self._queue.now + self._down_s
        if self._down_s is not None:
            self._queue.at(self._dark_until, self._start_if_powered)

    def _start_if_powered(self) -> None:
        if self._queue.now >= self._dark_until:
            self.start()

    def _forget(self) -> None:
        self._note_counts()
        self.transport = None
        self.session = None
        self._set_timer()

    def _note_counts(self) -> None:
        if self.session is not None:
            self._counts_before.update(self.session.counts)

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
            declines=self._declines,
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
            self.num_connects += isinstance(event, Connected)
            self._perform(self._decide(event))
            if isinstance(event, Message) and self.transport is transport:
                transport.acknowledge(event)
        if self._has_done_enough():
            self.leave()

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
            self._note_counts()
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
            case Keep(key, data):  # no fault that is to come is spent on what nothing rests on
                self.storage[key] = _shared(data)
            case Delete(key):
                self._write()
                self.storage.pop(key, None)
            case Publish(topic, payload, retain, qos):
                self._power.use()
                self._publish(self.transport, topic, payload, qos=qos, retain=retain)
            case Subscribe(filters, retained):
                self.transport.subscribe(filters, retained=retained)
            case Unsubscribe(filters):
                self.transport.unsubscribe(filters)
            case Train():
                delay_s = self._duration(action.assignment)
                handle = self._submit(action.assignment)
                self._queue.after(delay_s, partial(self._trained, action, self.transport, handle))

    def _publish(
        self, transport: MemoryTransport, topic: str, payload: bytes, *, qos: int, retain: bool
    ) -> None:
        try:
            transport.publish(topic, payload, qos=qos, retain=retain)
        except QueueFullError:  # as on a device: it is said again later
            self.num_not_sent += 1

    def _write(self) -> None:
        self._power.use()
        if self._fails_next_write:
            self._fails_next_write = False
            raise _StorageError

    def _submit(self, assignment: Assignment) -> object:
        return None if self._remote is None else self._remote.submit(self.name, assignment)

    def _trained(self, train: Train, transport: MemoryTransport, handle: object) -> None:
        """Training ended; its result is lost if there was no power meanwhile."""
        if self.session is None or self.transport is not transport:
            return
        remote = self._remote
        trained = self.train(train.assignment) if remote is None else remote.result(handle)
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
        at = math.inf if self.session is None else self.session.timer_at
        if self._timer is not None:
            if self._timer.at == at:
                return
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            self._timer = self._queue.at(at, self._time)

    def _time(self) -> None:
        self._timer = None
        if self.session is not None:
            self._perform(self.session.timer(self._queue.now))
