"""The aggregator's shell: transport, coordinator and store in one selector loop.

The commit rule (docs/adr/0002): everything that one turn of the loop brought is decided first,
then all it stores is committed at once, then what it publishes leaves, and only then are the
messages acknowledged to the broker. If the store fails, everything is dropped and built again from
the store; the broker delivers again what was not acknowledged.
"""

import logging
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

import nacl.utils

from aggregator.actions import Action, Recall, Store
from aggregator.config import AggregatorConfig, load_enrolment, load_trust, read_rosters
from aggregator.coordinator import Coordinator
from aggregator.evaluation import Evaluator
from aggregator.laid_rosters import LaidRosters
from aggregator.monitor import status
from aggregator.monitor.board import Board
from aggregator.records import CounterRecord, Record
from aggregator.store import StoreError, no_fault, open_store
from device_sdk.engine.data import load_npz
from protocol.actions import Publish, Subscribe, Unsubscribe
from protocol.chunks import MIN_PACKET_BYTES
from protocol.errors import ConfigError
from protocol.secagg.messages import SignedRoster
from protocol.topics import Topics
from transport import (
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
from transport.loop import Loop
from transport.paho import PahoTransport

_log = logging.getLogger(__name__)

TICK_S: Final = 1.0
#: Un-acknowledged messages under way: bounds what one group commit can take.
WINDOW: Final = 2_000
QUEUE: Final = 100_000
STORE_RETRY_S: Final = 5.0
COUNTS_S: Final = 10.0
#: How often the folder of rosters is looked through.
ROSTERS_S: Final = 5.0


class Service:
    """One task's aggregator. `run` returns when `stop` was called (from any thread)."""

    def __init__(
        self, config: AggregatorConfig, *, fault: Callable[[str], None] = no_fault
    ) -> None:
        self.config = config
        self._fault = fault
        self._stopping = False
        self._tenure: _Tenure | None = None

    def run(self) -> None:
        """Serve until `stop`. Raises StoreError if the store cannot be opened at the start."""
        first = True
        while not self._stopping:
            try:
                with _Tenure(self.config, self._fault) as self._tenure:
                    first = False
                    self._tenure.serve(lambda: self._stopping)
            except StoreError as error:
                if first:
                    raise
                _log.error("%s; starting again in %.0f s", error, STORE_RETRY_S)
                self._pause(STORE_RETRY_S)

    def stop(self) -> None:
        """Make `run` return soon. From any thread, or a signal handler."""
        self._stopping = True
        if self._tenure is not None:
            self._tenure.loop.wake()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < until:
            time.sleep(0.1)


class _Tenure:
    """From opening the store to closing it: what a store failure throws away."""

    def __init__(self, config: AggregatorConfig, fault: Callable[[str], None]) -> None:
        self._config = config
        self._enrolment = load_enrolment(config)
        trust = load_trust(config)
        root_file = config.task.robust.root_file
        root = load_npz(root_file) if root_file else None
        self._topics = Topics(config.task.prefix, config.task.task)
        self._store = open_store(
            Path(config.state_dir),
            config.task.task,
            config.database or None,
            fault=fault,
            keep_versions=config.task.keep_versions,
            model=config.task.model_digest(),
        )
        try:
            self._coordinator = Coordinator(
                config.task,
                self._store.snapshot(),
                nacl.utils.random(32),
                time.monotonic(),
                self._enrolment,
                trust=trust,
                root=root,
            )
            self.loop = Loop()
            self._evaluator = self._make_evaluator()
            self._transport = self._make_transport()
        except BaseException:
            self._store.close()
            raise
        if told := self._coordinator.privacy.given_up:
            _log.warning("%s", told)
        self._evaluated = -1
        self._monitor_at = 0.0
        self._counts_at = 0.0
        self._judged = 0
        self._rosters_at = 0.0
        self._rosters = LaidRosters()
        self._rosters_problem = ""
        self._kept: dict[str, int] = {}
        self._incomplete = False
        self._board = Board(self._topics)
        self._mqtt = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._evaluator is not None:
            self._evaluator.close()
        self.loop.remove(self._transport)
        self._transport.close()
        self.loop.close()
        self._store.close()

    def _make_evaluator(self) -> Evaluator | None:
        if not self._config.evaluation.file:
            return None
        self._coordinator.watch_groups()
        file = Path(self._config.evaluation.file)
        return Evaluator(self._coordinator.model, file, self.loop.wake)

    def _make_transport(self) -> PahoTransport:
        offline = status.encode(status.aggregator_report("offline"))
        settings = self._config.broker.settings(
            f"{self._config.task.task}-aggregator",
            username="aggregator",
            will=Will(self._topics.monitor("aggregator"), offline),
            window=WINDOW,
            queue=QUEUE,
        )
        return PahoTransport(settings, random=random.SystemRandom().random)

    # --- the loop ----------------------------------------------------------------------------

    def serve(self, stopping: Callable[[], bool]) -> None:
        """Turn until ``stopping()``. Raises StoreError, having said so on ``mon/``."""
        self._perform(self._coordinator.start(time.monotonic()))
        self.loop.add(self._transport)
        self._transport.connect()
        try:
            while not stopping():
                self._turn()
        except StoreError as error:
            self._say_state("store failed", str(error))
            raise
        self._say_state("offline")

    def _turn(self) -> None:
        now = time.monotonic()
        due = min(self._coordinator.timer_at(now), self._monitor_at, now + TICK_S)
        events = [event for _, some in self.loop.wait(max(0.0, due - now)) for event in some]
        self._take(events)
        self._evaluate()
        now = time.monotonic()
        if (num_judged := self._coordinator.conduct.num_judged) != self._judged:
            self._judged, self._monitor_at = num_judged, now  # a flood is not to wait
        if now >= self._monitor_at:
            self._perform(self._coordinator.decreed(self._store.standings()))
            self._show(now)
        if now >= self._counts_at:
            self._keep_counts(now)
        if self._enrolment is not None and now >= self._rosters_at:
            self._look_for_rosters(now)

    def _take(self, events: Sequence[Event]) -> None:
        """Decide everything, commit once, publish, acknowledge."""
        now = time.monotonic()
        actions: list[Action] = []
        messages: list[Message] = []
        for event in events:
            if isinstance(event, Message):
                messages.append(event)
                decided = self._coordinator.message(event.topic, event.payload, now)
            else:
                decided = self._link(event)
            actions += decided
            if decided and isinstance(decided[-1], Recall):
                self._perform(actions)  # the store must know all that was decided before
                actions = []
        if now >= self._coordinator.timer_at(now):
            actions += self._coordinator.timer(now)
        self._perform(actions)
        for message in messages:
            self._transport.acknowledge(message)

    def _link(self, event: Event) -> list[Action]:
        match event:
            case Connected() if event.max_packet_bytes < MIN_PACKET_BYTES:
                _log.error("the broker takes %d bytes a packet: too few", event.max_packet_bytes)
            case Connected():
                _log.info("connected, MQTT %s", event.protocol)
                self._mqtt = event.protocol
                self._board.forget()
                self._say_state("online")
                return self._coordinator.connected(event.max_packet_bytes, time.monotonic())
            case Disconnected():
                _log.warning("disconnected: %s", event.reason)
            case Refused():
                broker = self._config.broker
                where = f"{broker.host}:{broker.port}"
                _log.error("not let in at the broker %s: %s; see [broker]", where, event.reason)
            case PublishRefused():
                _log.error("the broker refused a publish to %s: %s", event.topic, event.reason)
            case SubscribeRefused():
                _log.error("the broker refused %s: %s", event.topic_filter, event.reason)
        return []

    def _perform(self, actions: Sequence[Action]) -> None:
        records: list[Record] = [action.record for action in actions if isinstance(action, Store)]
        if records:  # what is counted is durable with what it counts
            records += self._facts()
        self._store.commit(records)
        for action in actions:
            match action:
                case Publish():
                    self._publish(action)
                case Subscribe(filters, retained):
                    self._transport.subscribe(filters, retained=retained)
                case Unsubscribe(filters):
                    self._transport.unsubscribe(filters)
                case Recall(lease_id, device):
                    record = self._store.lease(lease_id)
                    self._perform(self._coordinator.recalled(device, lease_id, record))

    def _publish(self, publish: Publish) -> None:
        try:
            self._transport.publish(
                publish.topic, publish.payload, qos=publish.qos, retain=publish.retain
            )
        except PacketTooLargeError as error:
            _log.error("not sent: %s", error)
        except QueueFullError as error:
            _log.warning("not sent yet: %s", error)
            self._incomplete = self._incomplete or publish.retain

    # --- evaluation and monitoring -----------------------------------------------------------

    def _evaluate(self) -> None:
        self._try_groups()
        version = self._coordinator.version
        every = max(1, self._config.evaluation.every_versions)
        if self._evaluator is None or version < self._evaluated + every:
            return
        self._evaluated = version
        self._evaluator.evaluate(version, self._coordinator.downlink.hidden)

    def _try_groups(self) -> None:
        """Let the evaluation say how good the groups of masked buffers are, and hand that on."""
        if self._evaluator is None:
            return
        candidates = self._coordinator.candidates()
        if candidates is not None:
            self._evaluator.try_groups(candidates)
        for trials in self._evaluator.trials():
            self._coordinator.groups_tried(trials)

    def _show(self, now: float) -> None:
        """Publish what has changed on ``mon/``, and what a full queue kept back."""
        self._monitor_at = now + self._config.monitor_s
        if not self._transport.connected:
            return
        if self._incomplete:
            self._incomplete = False
            self._perform(self._coordinator.connected(self._transport.max_packet_bytes, now))
        counters = self._transport.counters
        traffic = {"bytes_up": counters.bytes_down, "bytes_down": counters.bytes_up}
        evaluation = {} if self._evaluator is None else self._evaluator.report
        metrics = {**status.metrics_report(self._coordinator, evaluation), **traffic}
        reports: dict[str, status.Report] = {
            "rounds": status.rounds_report(self._coordinator, now),
            "metrics": metrics,
            "devices": status.devices_report(self._coordinator, now),
            "denied": status.denied_report(self._coordinator),
            "alerts": status.alerts_report(self._coordinator),
        }
        for what, report in reports.items():
            self._perform(self._board.show(what, report))

    def _look_for_rosters(self, now: float) -> None:
        """Hand the rosters that the operator has laid down since to the coordinator."""
        self._rosters_at = now + ROSTERS_S
        before, self._rosters_problem = self._rosters_problem, ""
        try:
            found = read_rosters(Path(self._config.secure.rosters))
        except ConfigError as error:
            self._rosters_problem = str(error)
            if before != self._rosters_problem:
                _log.error("%s", error)
            return

        def take(signed: SignedRoster) -> None:
            self._perform(self._coordinator.roster(signed, now))

        for problem in self._rosters.offer(found, self._coordinator.epochs, take):
            _log.error("%s", problem)

    def _facts(self) -> list[Record]:
        """Return the counters, and the evidence, that have changed since they were stored last."""
        return [self._counts(), *self._coordinator.conduct.changed()]

    def _counts(self) -> CounterRecord:
        totals = dict(self._coordinator.counts)
        changed = {name: total for name, total in totals.items() if self._kept.get(name) != total}
        self._kept = totals
        return CounterRecord(changed)

    def _keep_counts(self, now: float) -> None:
        """Store the counters now and then: a refused message alone stores nothing."""
        self._counts_at = now + COUNTS_S
        self._store.commit(self._facts())

    def _say_state(self, state: str, why: str = "") -> None:
        report = status.aggregator_report(state, mqtt=self._mqtt, why=why)
        self._publish(self._board.say("aggregator", report))
