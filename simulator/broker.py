"""An MQTT broker in memory: retained messages, wills, sessions, at least once, and its faults.

A publish reaches each subscriber as a `Flight` that lands later in virtual time: over the client's
own link, or after the broker's latency. `Broker.route` can decide instead how long it takes, and so
lose, double, delay or reorder copies; the same can be done to single flights under way. With
`BrokerLimits` it holds no more for a client than a real broker does, and drops the rest in silence.
"""

import math
from collections.abc import Callable, Sequence

from simulator.broker_limits import BrokerLimits
from simulator.broker_session import Client, Flight, Session
from simulator.packets import packet_bytes
from simulator.queue import EventQueue
from simulator.retained import Retained
from simulator.subscriptions import Subscriptions
from transport import Message, Will

#: (client id, message) -> seconds until each copy lands: one number normally, none to lose it.
Route = Callable[[str, Message], Sequence[float]]


class Broker:
    """All that is between clients. ``max_packet_bytes`` is what it tells each of them.

    While not ``available`` nobody can connect. ``watch`` is told of every publish. Without
    ``limits`` it holds whatever there is; ``dropped`` counts what it did not.
    """

    def __init__(
        self,
        queue: EventQueue,
        *,
        latency_s: float = 0.05,
        max_packet_bytes: int = 1 << 16,
        limits: BrokerLimits | None = None,
    ) -> None:
        self.max_packet_bytes = max_packet_bytes
        self.limits = limits or BrokerLimits()
        self.available = True
        self.dropped = 0
        self.retained = Retained()
        self.route: Route | None = None
        self.watch: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self._latency_s = latency_s
        self._back_at = 0.0
        self._queue = queue
        self._sessions: dict[str, Session] = {}
        self._subscriptions = Subscriptions()
        self._num_tokens = 0

    @property
    def flights(self) -> list[Flight]:
        """All messages under way, by client."""
        return [flight for session in self._sessions.values() for flight in session.flights]

    def has_session(self, client_id: str) -> bool:
        """Whether there is a session that its client may come back to."""
        session = self._sessions.get(client_id)
        return session is not None and not self._has_expired(session)

    def serves(self, client_id: str, client: Client) -> bool:
        """Whether this very client is connected, and not one that came after it."""
        session = self._sessions.get(client_id)
        return session is not None and session.client is client

    # --- for clients -------------------------------------------------------------------------

    def open(
        self,
        client_id: str,
        client: Client,
        *,
        clean: bool,
        will: Will | None,
        receive_maximum: int = 0,
        session_expiry_s: float = math.inf,
    ) -> bool:
        """Accept a connection; return whether there was a session. An older one is broken off."""
        session = self._sessions.get(client_id)
        if session is not None and session.client is not None:
            self.lose(client_id, "taken over", taken_over=True)
            session = self._sessions.get(client_id)
        if session is not None and (clean or self._has_expired(session)):
            self._forget(session)
            session = None
        present = session is not None
        session = session or self._sessions.setdefault(client_id, Session(client_id))
        session.client, session.clean, session.will = client, clean, will
        session.expiry_s = min(session_expiry_s, self.limits.session_expiry_s)
        most = self.limits.max_inflight_messages
        session.window = min(most, receive_maximum or most) or math.inf
        again, session.waiting, session.num_waiting_bytes = session.waiting or (), None, 0
        for old in again:  # new tokens: what acknowledges the old ones comes too late
            self._take(session, self._message(old.topic, old.payload, retain=old.retain))
        return present

    def leave(self, client_id: str) -> None:
        """A client says goodbye: its will is not published."""
        session = self._sessions.get(client_id)
        if session is None:
            return
        session.end(self._queue.now)
        if session.clean:
            self._forget(session)

    def lose(self, client_id: str, reason: str, *, taken_over: bool = False) -> None:
        """A connection breaks: the client's will is published."""
        session = self._sessions.get(client_id)
        if session is None or session.client is None:
            return
        client, will = session.client, session.will
        self.leave(client_id)
        client.broken(reason, taken_over=taken_over)
        if will is not None:
            self.publish(will.topic, will.payload, qos=will.qos, retain=will.retain)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Keep a message if it is to be retained, and send it to every subscriber."""
        self.watch(topic, payload)
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        for client_id in self._subscriptions.of(topic):
            self._send(self._sessions[client_id], topic, payload, qos)

    def subscribe(self, client_id: str, topic_filter: str) -> None:
        """Add a subscription, and send what is retained for it (again)."""
        session = self._sessions[client_id]
        session.filters[topic_filter] = None
        self._subscriptions.add(client_id, topic_filter)
        for topic in self.retained.taken(topic_filter):
            self._take(session, self._message(topic, self.retained[topic], retain=True))

    def unsubscribe(self, client_id: str, topic_filter: str) -> None:
        """End a subscription."""
        self._sessions[client_id].filters.pop(topic_filter, None)
        self._subscriptions.remove(client_id, topic_filter)

    def acknowledge(self, client_id: str, token: int) -> None:
        """Forget a message that has arrived."""
        session = self._sessions.get(client_id)
        if session is None:
            return
        session.unacknowledged.pop(token, None)
        while session.waiting and (message := session.next_waiting()) is not None:
            session.unacknowledged[message.token] = message
            self._launch(session, message)

    # --- faults ------------------------------------------------------------------------------

    def restart(self, *, down_s: float, forget: bool | None = None) -> None:
        """Go down for ``down_s`` seconds; all connections break.

        Of restarts that overlap, the one that lasts longest counts.
        ``forget``: sessions, their messages and everything retained are lost, as without
        persistence; None: as the limits have it. Wills are not published: the broker did not see
        anybody go.
        """
        forget = not self.limits.persistence if forget is None else forget
        self.available = False
        self._back_at = max(self._back_at, self._queue.now + down_s)
        self._queue.at(self._back_at, self._come_back)
        for session in list(self._sessions.values()):
            client = session.client
            self.leave(session.client_id)
            if client is not None:
                client.broken("the broker went away", taken_over=False)
            if forget:
                self._forget(session)
        if forget:
            self.retained.clear()

    def drop(self, flight: Flight) -> None:
        """Lose a message as stock brokers do: in silence, for good."""
        flight.end()
        self.acknowledge(flight.client_id, flight.message.token)

    def duplicate(self, flight: Flight, delay_s: float) -> None:
        """Let a message arrive once more, ``delay_s`` after the first."""
        at = flight.landing.at + delay_s
        self._launch_at(self._sessions[flight.client_id], flight.message, at)

    def delay(self, flight: Flight, delay_s: float) -> None:
        """Let a message arrive later, and so after others."""
        self.duplicate(flight, delay_s)
        flight.end()

    def land(self, flight: Flight) -> None:
        """Let a message arrive now, and so before others."""
        flight.landing.happen()

    # --- inside ------------------------------------------------------------------------------

    def _come_back(self) -> None:
        self.available = self._queue.now >= self._back_at

    def _has_expired(self, session: Session) -> bool:
        away_s = self._queue.now - session.left_at
        return session.client is None and away_s >= session.expiry_s

    def _message(self, topic: str, payload: bytes, *, retain: bool) -> Message:
        self._num_tokens += 1
        return Message(topic, payload, retain, self._num_tokens)

    def _send(self, session: Session, topic: str, payload: bytes, qos: int) -> None:
        if session.client is None and self._has_expired(session):
            self._forget(session)
        elif qos:
            self._take(session, self._message(topic, payload, retain=False))
        elif session.client is not None:
            self._num_tokens += 1
            self._launch(session, Message(topic, payload, retain=False, token=0))

    def _take(self, session: Session, message: Message) -> None:
        """Send a message with QoS 1 now, later, or never."""
        if session.client is not None and len(session.unacknowledged) < session.window:
            session.unacknowledged[message.token] = message
            self._launch(session, message)
        elif self.limits.has_room(session.num_waiting, session.num_waiting_bytes):
            session.put_off(message)
        else:
            self.dropped += 1

    def _launch(self, session: Session, message: Message) -> None:
        link = None if session.client is None else session.client.link
        if self.route is not None:
            delays = self.route(session.client_id, message)
        else:
            delays = (self._latency_s if link is None else 0.0,)
        for delay_s in delays:
            at = self._queue.now + delay_s
            if link is not None:
                at = link.down(packet_bytes(message.topic, message.payload, message.token), at)
            self._launch_at(session, message, at)
        if not delays:
            session.unacknowledged.pop(message.token, None)

    def _launch_at(self, session: Session, message: Message, at: float) -> None:
        flight = Flight(session, message)
        flight.landing = self._queue.at(at, flight.land)
        session.flights[flight] = None

    def _forget(self, session: Session) -> None:
        for topic_filter in list(session.filters):
            self.unsubscribe(session.client_id, topic_filter)
        self._sessions.pop(session.client_id, None)
