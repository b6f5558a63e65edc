"""What a broker knows of one client, connected or not."""

from collections import deque
from typing import Protocol

from simulator.links import Link
from simulator.queue import Scheduled
from transport import Message, Will


class Client(Protocol):
    """The broker's end of a connection: what a client takes from it."""

    @property
    def link(self) -> Link | None:
        """What is between them; None: nothing that takes time but the broker's own latency."""

    def land(self, message: Message) -> None:
        """Take a message."""

    def broken(self, reason: str, *, taken_over: bool) -> None:
        """The connection is gone."""


class Flight:
    """A message under way from the broker to one client."""

    __slots__ = ("_session", "landing", "message")

    landing: Scheduled

    def __init__(self, session: "Session", message: Message) -> None:
        self._session = session
        self.message = message

    @property
    def client_id(self) -> str:
        """Whom it goes to."""
        return self._session.client_id

    def land(self) -> None:
        """Arrive."""
        session = self._session
        del session.flights[self]
        if session.client is not None:
            session.client.land(self.message)

    def end(self) -> None:
        """Arrive nowhere."""
        self.landing.cancel()
        self._session.flights.pop(self, None)


class Session:
    """``client`` is None while it is not connected, since ``left_at``; it may stay away so long.

    With QoS 1, ``unacknowledged`` are under way to the client or were; the others are ``waiting``.
    """

    __slots__ = (
        "clean",
        "client",
        "client_id",
        "expiry_s",
        "filters",
        "flights",
        "left_at",
        "num_waiting_bytes",
        "unacknowledged",
        "waiting",
        "will",
        "window",
    )

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.client: Client | None = None
        self.clean = False
        self.will: Will | None = None
        self.window: float = 0
        self.left_at = 0.0
        self.expiry_s: float = 0
        self.filters: dict[str, None] = {}
        self.unacknowledged: dict[int, Message] = {}
        self.flights: dict[Flight, None] = {}
        self.waiting: deque[Message] | None = None
        self.num_waiting_bytes = 0

    @property
    def num_waiting(self) -> int:
        """How many messages wait."""
        return 0 if self.waiting is None else len(self.waiting)

    def put_off(self, message: Message) -> None:
        """Let a message wait."""
        if self.waiting is None:  # most sessions never need one
            self.waiting = deque()
        self.waiting.append(message)
        self.num_waiting_bytes += len(message.payload)

    def next_waiting(self) -> Message | None:
        """Take the message that has waited longest, if the window has room for it."""
        if not self.waiting or len(self.unacknowledged) >= self.window:
            return None
        message = self.waiting.popleft()
        self.num_waiting_bytes -= len(message.payload)
        return message

    def end(self, now: float) -> None:
        """The client is gone: what it has not acknowledged waits again, in front."""
        self.client = self.will = None
        self.left_at = now
        for flight in list(self.flights):
            flight.end()
        old, later = self.unacknowledged, self.waiting or ()
        self.waiting, self.num_waiting_bytes, self.unacknowledged = None, 0, {}
        for message in (*old.values(), *later):
            self.put_off(message)
