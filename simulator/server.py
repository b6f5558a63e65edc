"""The aggregator's shell in virtual time: the production coordinator, a store in memory."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from aggregator.actions import Action, Recall, Store
from aggregator.coordinator import Coordinator
from aggregator.gate import Trust
from aggregator.records import Record
from aggregator.secure_config import Enrolment
from aggregator.store_errors import StoreError
from aggregator.task_config import TaskConfig
from device_sdk.engine.data import Block
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.secagg.messages import SignedRoster
from protocol.stream import derive
from simulator.broker import Broker
from simulator.memory_store import MemoryStore
from simulator.power import Power, PowerLost
from simulator.queue import EventQueue, Scheduled
from simulator.transport import MemoryTransport
from transport import BrokerSettings, Connected, Event, Message

#: As in `aggregator.service`: after the store failed, all is built again this much later.
STORE_RETRY_S = 5.0
#: As there: messages that the broker may have under way to it.
WINDOW = 2_000


class SimulatedServer:
    """One task's aggregator. ``turn_s``: what arrives within it is committed together.

    The commit rule is the service's: decide everything, commit once, publish, acknowledge. ``root``
    are the data of ``robust.root_file``.
    """

    def __init__(
        self,
        queue: EventQueue,
        broker: Broker,
        config: TaskConfig,
        seed: bytes,
        *,
        turn_s: float = 0.02,
        enrolment: Enrolment | None = None,
        trust: Trust | None = None,
        root: Block | None = None,
    ) -> None:
        self._enrolment = enrolment
        self._trust = trust
        self._root = root
        self.config = config
        self.store = MemoryStore(config.keep_versions)
        self.coordinator: Coordinator | None = None
        self.transport: MemoryTransport | None = None
        self._queue = queue
        self._broker = broker
        self._seed = seed
        self._turn_s = turn_s
        self._num_starts = 0
        self._counts_before: Counter[str] = Counter()
        self._power = Power()
        self._timer: Scheduled | None = None
        self._down_s = STORE_RETRY_S
        self._back_at = 0.0

    @property
    def counts(self) -> Counter[str]:
        """What all its coordinators counted, the present one included."""
        present = Counter() if self.coordinator is None else self.coordinator.counts
        return self._counts_before + present

    def lay_down(self, signed: SignedRoster) -> None:
        """Let the operator add a roster to its folder; it is looked at now, and at every start."""
        if self._enrolment is not None:
            rosters = (*self._enrolment.rosters, signed)
            self._enrolment = replace(self._enrolment, rosters=rosters)
        if self.coordinator is not None:
            self._act_on(self.coordinator.roster(signed, self._queue.now), [])

    # --- power -------------------------------------------------------------------------------

    def start(self) -> None:
        """Build it from the store and connect; nothing if it runs, or is to stay down."""
        if self.transport is not None or self._queue.now < self._back_at:
            return
        self._power.restore()
        self._num_starts += 1
        self.store.reopen()
        seed = derive(self._seed, "start", self._num_starts)
        self.coordinator = Coordinator(
            self.config,
            self.store.snapshot(),
            seed,
            self._queue.now,
            self._enrolment,
            trust=self._trust,
            root=self._root,
        )
        settings = BrokerSettings(
            client_id=f"{self.config.task}-aggregator", receive_maximum=WINDOW
        )
        self.transport = MemoryTransport(self._broker, self._queue, settings, self._turn_soon)
        self._act_on(self.coordinator.start(self._queue.now), [])
        if self.transport is not None:
            self.transport.connect()

    def lose_power(self, *, after: int = 0, down_s: float = 1.0) -> None:
        """Kill it: now, or when it has committed or published ``after`` more times.

        It starts again ``down_s`` later; of cuts that overlap, the one that lasts longest counts.
        """
        self._down_s = down_s
        if after == 0:
            self._die(down_s)
        else:
            self._power.cut_after(after)

    def _die(self, down_s: float) -> None:
        self._back_at = max(self._back_at, self._queue.now + down_s)
        self._queue.at(self._back_at, self.start)
        if self.transport is None:
            return
        self.transport.vanish()
        self._counts_before = self.counts
        self._counts_before["starts"] = 0  # stored, and counted on from
        self.transport = None
        self.coordinator = None
        self._set_timer()

    # --- the loop ----------------------------------------------------------------------------

    def _turn_soon(self) -> None:
        self._queue.after(self._turn_s, self._turn)

    def _turn(self) -> None:
        """Decide everything that has come, commit once, publish, acknowledge."""
        if self.transport is None or self.coordinator is None:
            return
        events = self.transport.events()
        actions: list[Action] = []
        for event in events:
            decided = self._decide(self.coordinator, event)
            actions += decided
            if any(isinstance(action, Recall) for action in decided):
                if not self._act_on(actions, []):
                    return
                actions = []
        now = self._queue.now
        if now >= self.coordinator.timer_at(now):
            actions += self.coordinator.timer(now)
        self._act_on(actions, [event for event in events if isinstance(event, Message)])

    def _decide(self, coordinator: Coordinator, event: Event) -> Sequence[Action]:
        match event:
            case Message(topic, payload):
                return coordinator.message(topic, payload, self._queue.now)
            case Connected(max_packet_bytes=limit):
                return coordinator.connected(limit, self._queue.now)
        return []

    def _act_on(self, actions: Sequence[Action], messages: Sequence[Message]) -> bool:
        """Perform and acknowledge; return False if it died of it."""
        try:
            self._perform(actions)
            for message in messages:
                if self.transport is not None:
                    self.transport.acknowledge(message)
        except PowerLost:
            self._die(self._down_s)
            return False
        except StoreError:
            self._die(STORE_RETRY_S)
            return False
        self._set_timer()
        return True

    def _perform(self, actions: Sequence[Action]) -> None:
        if self.transport is None or self.coordinator is None:
            return
        records: list[Record] = [action.record for action in actions if isinstance(action, Store)]
        if records:
            self._power.use()
            self.store.commit(records)
        for action in actions:
            match action:
                case Publish(topic, payload, retain, qos):
                    self._power.use()
                    self.transport.publish(topic, payload, qos=qos, retain=retain)
                case Subscribe(filters, retained):
                    self.transport.subscribe(filters, retained=retained)
                case Unsubscribe(filters):
                    self.transport.unsubscribe(filters)
                case Recall(lease_id, device):
                    record = self.store.lease(lease_id)
                    self._perform(self.coordinator.recalled(device, lease_id, record))

    def _set_timer(self) -> None:
        at = inf if self.coordinator is None else self.coordinator.timer_at(self._queue.now)
        if self._timer is not None and self._timer.waiting:
            if self._timer.at == at:
                return
            self._timer.cancel()
        self._timer = self._queue.at(at, self._turn) if at < inf else None
