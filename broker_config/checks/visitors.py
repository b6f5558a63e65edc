"""Clients that a check sends to the broker. Every wait has an end."""

import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Self

import nacl.utils

from protocol.topics import Topics
from transport import (
    BrokerSettings,
    Connected,
    Disconnected,
    Event,
    Loop,
    Message,
    PublishRefused,
    Refused,
    SubscribeRefused,
    Will,
)
from transport.interface import Pollable
from transport.paho import PahoTransport

CONNECT_S: Final = 5.0
ANSWER_S: Final = 2.0
QUIET_S: Final = 0.8
MARK: Final = b"mark "
"""How the messages begin that say no more than that they arrive."""

_SESSION_S: Final = 120
_SLICE_S: Final = 0.05
_KNOCK_S: Final = 0.2
_LEAVE_S: Final = 0.5
_MAX_REFUSALS: Final = 3  # a host may have several addresses
_MAX_QUEUED: Final = 10_000


@dataclass(frozen=True, slots=True)
class Side:
    """One end of the bus: how it connects, and whose topics it has.

    ``account`` is the name that the rules know: ``aggregator``, or the device's id.
    """

    name: str
    account: str
    settings: BrokerSettings


@dataclass(frozen=True, slots=True)
class Bench:
    """Both ends of one broker, and the topics of a task that nobody trains."""

    topics: Topics
    aggregator: Side
    device: Side


@dataclass(slots=True, eq=False)
class Visitor:
    """One connection and what came over it.

    ``refusal`` says why the broker did not let us in, ``cuts`` how often it ended the connection,
    ``refused`` the topics and filters that it said no to. With ``acknowledges=False`` messages
    stay the broker's.
    """

    settings: BrokerSettings
    acknowledges: bool = True
    messages: list[Message] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    accepted: Connected | None = None
    refusal: Refused | None = None
    num_refusals: int = 0
    cuts: int = 0
    transport: PahoTransport = field(init=False)

    def __post_init__(self) -> None:
        self.transport = PahoTransport(self.settings, random=random.SystemRandom().random)

    def subscribe(self, *filters: str) -> None:
        """Subscribe with QoS 1."""
        self.transport.subscribe(filters)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Hand a message to the broker. Raises `transport.TransportError` if it cannot be sent."""
        self.transport.publish(topic, payload, qos=qos, retain=retain)

    def heard(self, payload: bytes) -> bool:
        """Whether a message with this payload has come."""
        return any(message.payload == payload for message in self.messages)

    def count(self, topic: str) -> int:
        """Return how many different messages have come on a topic."""
        return len({message.payload for message in self.messages if message.topic == topic})

    def handle(self, event: Event) -> None:
        """Note what happened."""
        match event:
            case Message():
                self.messages.append(event)
                if self.acknowledges:
                    self.transport.acknowledge(event)
            case Connected():
                self.accepted = event
            case Disconnected():
                self.cuts += 1
            case Refused():
                self.refusal = event
                self.num_refusals += 1
            case PublishRefused(topic=refused) | SubscribeRefused(topic_filter=refused):
                self.refused.add(refused)


class Visitors:
    """The visitors of one check, driven together. A context manager: at its end all leave."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._here: dict[Pollable, Visitor] = {}

    def admit(self, settings: BrokerSettings, *, acknowledges: bool = True) -> Visitor:
        """Connect; the visitor's ``accepted`` says whether we were let in within `CONNECT_S`."""
        visitor = Visitor(settings, acknowledges)
        self._here[visitor.transport] = visitor
        self._loop.add(visitor.transport)
        visitor.transport.connect()
        self.wait(lambda: visitor.accepted is not None or _is_final(visitor), CONNECT_S)
        return visitor

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Take in what comes until ``done()``; return whether that was in time."""
        until = time.monotonic() + seconds
        while not done():
            left_s = until - time.monotonic()
            if left_s <= 0:
                return False
            self._take(min(left_s, _SLICE_S))
        return True

    def settle(self, seconds: float) -> None:
        """Take in what comes, for this long."""
        self.wait(lambda: False, seconds)

    def wait_for(self, listener: Visitor, enough: int, seconds: float) -> int:
        """Take in messages until ``enough`` have come or no more do; return how many have."""
        until = time.monotonic() + seconds
        while len(listener.messages) < enough and time.monotonic() < until:
            if not self.wait(partial(_has_more_than, listener, len(listener.messages)), QUIET_S):
                break
        return len(listener.messages)

    def bring_together(self, talker: Visitor, topic: str, listener: Visitor) -> bool:
        """Publish to ``topic`` until the listener hears it; return whether it did in `ANSWER_S`.

        If it did, everything that the listener had subscribed to is in force, and everything that
        the talker had published is with the broker. Who is cut off is waited for no longer.
        """
        if talker.accepted is None or listener.accepted is None:
            return False
        mark = MARK + nacl.utils.random(8)
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            talker.publish(topic, mark)
            if self.wait(lambda: listener.heard(mark) or listener.cuts > 0, _KNOCK_S):
                break
        return listener.heard(mark)

    def break_off(self, visitor: Visitor) -> None:
        """Vanish as at a power cut: without a DISCONNECT, so that the broker publishes the will."""
        descriptor = visitor.transport.fileno()
        if descriptor >= 0:
            with socket.socket(fileno=os.dup(descriptor)) as wire, suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
        self.dismiss(visitor)

    def dismiss(self, visitor: Visitor, seconds: float = _LEAVE_S) -> None:
        """Send what waits, for at most ``seconds``, and leave."""
        if self._here.pop(visitor.transport, None) is not None:
            self._loop.remove(visitor.transport)
            visitor.transport.close(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for visitor in list(self._here.values()):
            self.dismiss(visitor)
        self._loop.close()

    def _take(self, seconds: float) -> None:
        for transport, events in self._loop.wait(seconds):
            for event in events:
                self._here[transport].handle(event)


def _has_more_than(listener: Visitor, number: int) -> bool:
    return len(listener.messages) > number


def _is_final(visitor: Visitor) -> bool:
    if visitor.refusal is None:
        return False
    return visitor.refusal.permanent or visitor.num_refusals >= _MAX_REFUSALS


def visit(
    side: Side, *, client_id: str = "", stays: bool = False, will: Will | None = None
) -> BrokerSettings:
    """Return the settings of a visitor of this side, under a client id of its own.

    With ``stays`` the broker keeps the session, where it speaks MQTT 5 for two minutes.
    """
    return replace(
        side.settings,
        client_id=client_id or drawn_id(),
        clean_start=not stays,
        session_expiry_s=_SESSION_S if stays else 0,
        will=will,
        max_queued=_MAX_QUEUED,
        connect_timeout_s=CONNECT_S,
        backoff_first_s=0.1,
        backoff_cap_s=1.0,
    )


def drawn_id() -> str:
    """Return a client id that nobody has: 23 characters, which every broker takes."""
    return f"fedbus-doctor-{nacl.utils.random(4).hex()}x"
