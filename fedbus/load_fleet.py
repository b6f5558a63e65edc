"""Thousands of devices in one process: one selector loop, one queue of what is due, no threads."""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

from device_sdk.actions import Train
from device_sdk.trainer import Trainer
from fedbus.load_client import Common, LoadClient
from fedbus.load_ledger import Ledger
from protocol.codec import decode
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, Manifest
from protocol.topics import Topics
from simulator.queue import EventQueue
from transport import Event, Message
from transport.config import BrokerConfig
from transport.interface import Pollable
from transport.loop import Loop

#: Nothing but what is due is done for at most so long; then the sockets are looked at again.
SLICE_S: Final = 0.02
#: Saying goodbye takes no longer for one client, and for all together.
GOODBYE_S: Final = 0.5
GOODBYES_S: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast things go. ``connects_per_s`` new connections are begun; 0: all at once.

    Trainings take ``train_s`` seconds on average, uniform from half of that to half as much again;
    at most ``updates_per_s`` of them end in a second, 0: as many as there are.
    """

    connects_per_s: float = 500.0
    train_s: float = 0.0
    updates_per_s: float = 0.0


class Fleet:
    """One client for each of ``brokers`` (device -> where to connect, as whom).

    Each asks for work until ``num_updates`` of its updates are settled. Only where it
    ``can_reboot`` do clients keep what they store. A context manager: on the way out, clients clear
    what they retained at the broker, and leave.
    """

    def __init__(
        self,
        topics: Topics,
        brokers: Mapping[str, BrokerConfig],
        trainer: Trainer,
        *,
        num_updates: int,
        pace: Pace | None = None,
        seed: int = 0,
        can_reboot: bool = False,
        retry_first_s: float = 10.0,
        retry_cap_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = Ledger()
        self.problems: Counter[str] = Counter()
        self._pace = pace or Pace()
        self._topics = topics
        self._trainer = trainer
        self._clock = clock
        self._random = random.Random(seed)  # noqa: S311 - how long trainings take
        self._loop = Loop(clock)
        self._queue = EventQueue()
        self._queue.run_until(clock())
        self._slot_at = 0.0
        self._is_over = False
        self._can_reboot = can_reboot
        self._manifest = b""
        self._owners: dict[Pollable, LoadClient] = {}
        common = Common(
            topics,
            self._loop,
            self.ledger,
            trainer.num_samples,
            self._train,
            self._note,
            lambda num_settled: self._is_over or num_settled >= num_updates,
            int(time.time()),  # storage lives as long as we do, and starts must count up
            can_reboot,
            retry_first_s,
            retry_cap_s,
        )
        self.clients = tuple(LoadClient(name, broker, common) for name, broker in brokers.items())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        until = self._clock() + GOODBYES_S
        for client in self.clients:
            client.leave(max(0.0, min(GOODBYE_S, until - self._clock())))
        self._loop.close()

    # --- what it is told to do ---------------------------------------------------------------

    def ramp(self) -> None:
        """Let all clients start, spread over time, each a little off its turn."""
        rate = self._pace.connects_per_s
        now = self._clock()
        for index, client in enumerate(self.clients):
            turn_s = 0.0 if rate == 0 else (index + self._random.random()) / rate
            self.at(now + turn_s, partial(self.start, client))

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Do something at a time of the clock."""
        self._queue.at(when, what)

    def ask_no_more(self) -> None:
        """Let clients settle what they hold, and ask for no more work."""
        self._is_over = True

    def start(self, client: LoadClient) -> None:
        """Switch a client on."""
        client.start(self._clock())
        if client.transport is not None:
            self._owners[client.transport] = client
        self._schedule(client)

    def reboot(self, clients: Sequence[LoadClient], within_s: float) -> None:
        """Cut the power of these, all at once; each is back at a random moment ``within_s``."""
        if not self._can_reboot:
            raise RuntimeError("made without can_reboot: what these clients store is not kept")
        now = self._clock()
        for client in clients:
            if client.transport is not None:
                self._owners.pop(client.transport, None)
            client.lose_power()
            self._schedule(client)
            self.at(now + within_s * self._random.random(), partial(self.start, client))

    def turn(self, timeout_s: float) -> None:
        """Take what comes and do what is due, for at most about ``timeout_s``."""
        now = self._clock()
        until = min(now + timeout_s, self._queue.next_at())
        for transport, events in self._loop.wait(max(0.0, until - now)):
            client = self._owners.get(transport)
            if client is not None:
                self._hear(client, events)
        self._do_what_is_due()

    # --- how it stands -----------------------------------------------------------------------

    @property
    def num_connected(self) -> int:
        """How many clients the broker has accepted."""
        return sum(client.connected for client in self.clients)

    @property
    def num_reconnects(self) -> int:
        """How often one came back."""
        return sum(max(0, client.num_connects - 1) for client in self.clients)

    @property
    def num_done(self) -> int:
        """How many clients have settled all that they were asked to."""
        return sum(client.is_done for client in self.clients)

    @property
    def num_lost(self) -> int:
        """How many updates have no verdict, and nobody holds them to send them again."""
        return len(set(self.ledger.unanswered) - {client.held for client in self.clients})

    @property
    def bytes_up(self) -> int:
        """Bytes of all PUBLISH packets that clients have sent."""
        return sum(client.bytes_up for client in self.clients)

    @property
    def bytes_down(self) -> int:
        """Bytes of all PUBLISH packets that clients have got."""
        return sum(client.bytes_down for client in self.clients)

    # --- inside ------------------------------------------------------------------------------

    def _hear(self, client: LoadClient, events: list[Event]) -> None:
        client.handle(events, self._clock())
        for event in events:
            if isinstance(event, Message) and event.topic == self._topics.manifest():
                self._look_at(event.payload)
        self._schedule(client)

    def _look_at(self, manifest: bytes) -> None:
        """Every client gets every manifest: look at one copy only."""
        if manifest == self._manifest:
            return
        self._manifest = manifest
        try:
            told = decode(manifest, (Manifest,), task=self._topics.task, sender=AGGREGATOR)
        except RemoteProtocolError as error:
            self._note(f"manifest: {error}")
            return
        self.ledger.counted(told)

    def _do_what_is_due(self) -> None:
        begun = now = self._clock()
        while self._queue.next_at() <= now and self._clock() - begun < SLICE_S:
            self._queue.step()

    def _schedule(self, client: LoadClient) -> None:
        scheduled, at = client.scheduled, client.timer_at
        if scheduled is not None and scheduled.waiting:
            if scheduled.at == at:
                return
            scheduled.cancel()
        client.scheduled = None
        if at < float("inf"):
            client.scheduled = self._queue.at(at, partial(self._time, client))

    def _time(self, client: LoadClient) -> None:
        client.time(self._clock())
        self._schedule(client)

    def _train(self, client: LoadClient, train: Train) -> None:
        """Let the training end when it is its turn; until then it costs nothing."""
        pace, now = self._pace, self._clock()
        at = now + pace.train_s * self._random.uniform(0.5, 1.5)
        if pace.updates_per_s > 0:
            at = self._slot_at = max(at, self._slot_at + 1.0 / pace.updates_per_s)
        self._queue.at(at, partial(self._trained, client, train))

    def _trained(self, client: LoadClient, train: Train) -> None:
        client.trained(train, self._trainer.train(train.assignment), self._clock())
        self._schedule(client)

    def _note(self, problem: str) -> None:
        self.problems[problem[:200]] += 1
