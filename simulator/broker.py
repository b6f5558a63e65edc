"""An MQTT broker in memory: retained messages, wills, sessions, at least once, and its faults.

A publish reaches the broker at once; from there each subscriber's copy is a `Flight` that lands
later in virtual time. `Broker.route` decides how long it takes, and so can lose, double, delay or
reorder copies; the same can be done to single flights under way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from simulator.queue import EventQueue, Scheduled
from transport import Message, Will

#: (client id, message) -> seconds until each copy lands: one number normally, none to lose it.
Route = Callable[[str, Message], Sequence[float]]


class Link(Protocol):
    """The broker's end of a connection: what a client takes from it."""

    def land(self, message: Message) -> None:
        """Take a message."""

    def broken(self, reason: str, *, taken_over: bool) -> None:
        """The connection is gone."""


@dataclass(slots=True, eq=False)
class Flight:
    """A message under way from the broker to one client."""

    client_id: str
    message: Message
    landing: Scheduled


@dataclass(slots=True, eq=False)
class _Session:
    """What the broker knows of one client; ``link`` is None while it is not connected."""

    client_id: str
    link: Link | None = None
    clean: bool = False
    will: Will | None = None
    filters: dict[str, None] = field(default_factory=dict)
    unacknowledged: dict[int, Message] = field(default_factory=dict)
    flights: dict[Flight, None] = field(default_factory=dict)


class Broker:
    """All that is between clients. ``max_packet_bytes`` is what it tells each of them.

    While not ``available`` nobody can connect. ``watch`` is told of every publish.
    """

    def __init__(
        self, queue: EventQueue, *, latency_s: float = 0.05, max_packet_bytes: int = 1 << 16
    ) -> None:
        self.max_packet_bytes = max_packet_bytes
        self.available = True
        self.retained: dict[str, bytes] = {}
        self._constant = (latency_s,)
        self.route: Route = lambda _client_id, _message: self._constant
        self.watch: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self._queue = queue
        self._sessions: dict[str, _Session] = {}
        self._exact: dict[str, dict[str, None]] = {}
        self._wild: dict[str, dict[str, None]] = {}
        self._num_tokens = 0

    @property
    def flights(self) -> list[Flight]:
        """All messages under way, by client."""
        return [flight for session in self._sessions.values() for flight in session.flights]

    # --- for clients -------------------------------------------------------------------------

    def open(self, client_id: str, link: Link, *, clean: bool, will: Will | None) -> bool:
        """Accept a connection; return whether there was a session. An older one is broken off."""
        session = self._sessions.get(client_id)
        if session is not None and session.link is not None:
            self.lose(client_id, "taken over", taken_over=True)
            session = self._sessions.get(client_id)
        if session is not None and clean:
            self._forget(session)
            session = None
        present = session is not None
        session = session or self._sessions.setdefault(client_id, _Session(client_id))
        session.link, session.clean, session.will = link, clean, will
        again, session.unacknowledged = session.unacknowledged, {}
        for old in again.values():  # new tokens: what acknowledges the old ones comes too late
            self._send(session, old.topic, old.payload, 1, retain=old.retain)
        return present

    def leave(self, client_id: str) -> None:
        """A client says goodbye: its will is not published."""
        session = self._sessions.get(client_id)
        if session is None:
            return
        session.link = session.will = None
        for flight in list(session.flights):
            self._end(flight)
        if session.clean:
            self._forget(session)

    def lose(self, client_id: str, reason: str, *, taken_over: bool = False) -> None:
        """A connection breaks: the client's will is published."""
        session = self._sessions.get(client_id)
        if session is None or session.link is None:
            return
        link, will = session.link, session.will
        self.leave(client_id)
        link.broken(reason, taken_over=taken_over)
        if will is not None:
            self.publish(will.topic, will.payload, qos=will.qos, retain=will.retain)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Keep a message if it is to be retained, and send it to every subscriber."""
        self.watch(topic, payload)
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for client_id in self._subscribers(topic):
            self._send(self._sessions[client_id], topic, payload, qos, retain=False)

    def subscribe(self, client_id: str, topic_filter: str) -> None:
        """Add a subscription, and send what is retained for it (again)."""
        session = self._sessions[client_id]
        session.filters[topic_filter] = None
        self._clients_by(topic_filter).setdefault(topic_filter, {})[client_id] = None
        for topic in [topic for topic in self.retained if matches(topic_filter, topic)]:
            self._send(session, topic, self.retained[topic], 1, retain=True)

    def unsubscribe(self, client_id: str, topic_filter: str) -> None:
        """End a subscription."""
        self._sessions[client_id].filters.pop(topic_filter, None)
        clients = self._clients_by(topic_filter)
        subscribed = clients.get(topic_filter, {})
        subscribed.pop(client_id, None)
        if not subscribed:
            clients.pop(topic_filter, None)

    def acknowledge(self, client_id: str, token: int) -> None:
        """Forget a message that has arrived."""
        session = self._sessions.get(client_id)
        if session is not None:
            session.unacknowledged.pop(token, None)

    # --- faults ------------------------------------------------------------------------------

    def restart(self, *, forget: bool, down_s: float) -> None:
        """Go down for ``down_s`` seconds; all connections break.

        ``forget``: sessions, their messages and everything retained are lost, as without
        persistence. Wills are not published: the broker did not see anybody go.
        """
        self.available = False
        self._queue.after(down_s, self._come_back)
        for session in list(self._sessions.values()):
            link = session.link
            self.leave(session.client_id)
            if link is not None:
                link.broken("the broker went away", taken_over=False)
            if forget:
                self._forget(session)
        if forget:
            self.retained.clear()

    def drop(self, flight: Flight) -> None:
        """Lose a message as stock brokers do: in silence, for good."""
        self._end(flight)
        self.acknowledge(flight.client_id, flight.message.token)

    def duplicate(self, flight: Flight, delay_s: float) -> None:
        """Let a message arrive once more, ``delay_s`` after the first."""
        at = flight.landing.at + delay_s
        self._launch_at(self._sessions[flight.client_id], flight.message, at)

    def delay(self, flight: Flight, delay_s: float) -> None:
        """Let a message arrive later, and so after others."""
        self.duplicate(flight, delay_s)
        self._end(flight)

    def land(self, flight: Flight) -> None:
        """Let a message arrive now, and so before others."""
        flight.landing.happen()

    # --- inside ------------------------------------------------------------------------------

    def _come_back(self) -> None:
        self.available = True

    def _subscribers(self, topic: str) -> list[str]:
        found = dict(self._exact.get(topic, {}))
        for topic_filter, clients in self._wild.items():
            if matches(topic_filter, topic):
                found |= clients
        return list(found)

    def _clients_by(self, topic_filter: str) -> dict[str, dict[str, None]]:
        """Return the table that a filter belongs to: client ids by filter."""
        return self._wild if "+" in topic_filter or "#" in topic_filter else self._exact

    def _send(
        self, session: _Session, topic: str, payload: bytes, qos: int, *, retain: bool
    ) -> None:
        if session.link is None and not qos:
            return
        self._num_tokens += 1
        message = Message(topic, payload, retain, self._num_tokens if qos else 0)
        if qos:
            session.unacknowledged[message.token] = message
        if session.link is not None:
            self._launch(session, message)

    def _launch(self, session: _Session, message: Message) -> None:
        delays = self.route(session.client_id, message)
        for delay_s in delays:
            self._launch_at(session, message, self._queue.now + delay_s)
        if not delays:
            session.unacknowledged.pop(message.token, None)

    def _launch_at(self, session: _Session, message: Message, at: float) -> None:
        def land() -> None:
            del session.flights[flight]
            if session.link is not None:
                session.link.land(message)

        flight = Flight(session.client_id, message, self._queue.at(at, land))
        session.flights[flight] = None

    def _end(self, flight: Flight) -> None:
        flight.landing.cancel()
        self._sessions[flight.client_id].flights.pop(flight, None)

    def _forget(self, session: _Session) -> None:
        for topic_filter in list(session.filters):
            self.unsubscribe(session.client_id, topic_filter)
        self._sessions.pop(session.client_id, None)


@lru_cache(maxsize=1 << 16)
def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter takes a topic: ``+`` is any one level, ``#`` all that follow."""
    pattern, levels = topic_filter.split("/"), topic.split("/")
    if pattern[-1] == "#":
        pattern, levels = pattern[:-1], levels[: len(pattern) - 1]
    if len(pattern) != len(levels):
        return False
    return all(wanted in ("+", level) for wanted, level in zip(pattern, levels, strict=True))
