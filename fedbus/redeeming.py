"""Answering devices that redeem tokens: what the operator's machine reads of whom, and says of it.

Any device may write to the operator's share topics, as often as it likes. So each account has a
budget, and what is refused is counted and told of once a minute.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from fedbus.tokens import Desk
from fedbus.view import printable
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.joining import NEWCOMER, OPERATOR
from protocol.topics import Topics
from transport import BrokerSettings, Connected, Event, Message, Refused
from transport.loop import Loop
from transport.paho import PahoTransport

#: What an account may ask a minute; a device that waits for its answer asks each 3 s.
BUDGET: Final = 60
#: So many accounts are counted; of more, nothing is read until the minute is over.
MAX_ACCOUNTS: Final = 10_000
MINUTE_S: Final = 60.0
_SLICE_S: Final = 0.5
Say = Callable[[str], None]


class Intake:
    """Reads requests within a budget. Has no clock: ``now`` is a monotonic time in seconds."""

    def __init__(self, desk: Desk, topics: Topics) -> None:
        self._desk = desk
        self._topics = topics
        self._heard: Counter[str] = Counter()
        self._heard_since = 0.0
        self._refused = 0
        self._why = ""
        self._told_at = -MINUTE_S
        self._answered: set[str] = set()

    def answer(self, topic: str, payload: bytes, now: float) -> tuple[str, bytes] | None:
        """Return the topic and the bytes of an answer; None if it gets none, and is counted."""
        try:
            account = self._topics.parse(topic).device
            self._admit(account, now)
            return self._topics.share(account, OPERATOR), self._asked(account, payload)
        except RemoteProtocolError as error:
            self._refused += 1
            self._why = printable(error.detail)
        except ConfigError as error:  # one file that is damaged or cannot be written
            self._refused += 1
            self._why = str(error)
        return None

    def is_first(self, topic: str) -> bool:
        """Whether an answer to this topic is the first one."""
        is_first = topic not in self._answered
        self._answered.add(topic)
        return is_first

    def complaint(self, now: float) -> str:
        """Return what to say of what was refused; empty if nothing was, or within a minute."""
        if not self._refused or now - self._told_at < MINUTE_S:
            return ""
        told = f"refused {self._refused}, the last one: {self._why}"
        self._refused, self._told_at = 0, now
        return told

    def _admit(self, account: str, now: float) -> None:
        if now - self._heard_since >= MINUTE_S:
            self._heard.clear()
            self._heard_since = now
        if len(self._heard) >= MAX_ACCOUNTS and account not in self._heard:
            raise RemoteProtocolError("over_budget", f"{account}: too many accounts ask")
        self._heard[account] += 1
        if self._heard[account] > BUDGET:
            raise RemoteProtocolError(
                "over_budget", f"{account}: more than {BUDGET} messages a minute"
            )

    def _asked(self, account: str, payload: bytes) -> bytes:
        if not account.startswith(NEWCOMER):
            raise RemoteProtocolError("malformed", f"{account}: no account of a token")
        return self._desk.asked(account, payload)


def answer_devices(
    desk: Desk, settings: BrokerSettings, topics: Topics, until: float, say: Say
) -> None:
    """Answer until ``until`` (monotonic; infinite: until Ctrl-C), or a moment after the last token.

    A broker that is away is waited for. Raises ConfigError if it refuses the operator for good.
    """
    transport, loop = PahoTransport(settings, random=random.SystemRandom().random), Loop()
    loop.add(transport)
    transport.subscribe((topics.shares_to(OPERATOR),))
    transport.connect()
    intake, outage = Intake(desk, topics), Outage(say)
    tidy_at = time.monotonic() + MINUTE_S
    lingering_until = until
    try:
        while (now := time.monotonic()) < min(until, lingering_until):
            for _, events in loop.wait(_SLICE_S):
                for event in events:
                    outage.saw(event)
                    if isinstance(event, Message):
                        _handle(intake, transport, event, say)
            if complaint := intake.complaint(now):
                say(complaint)
            if until < float("inf") and not desk.outstanding:
                lingering_until = min(lingering_until, now + 2 * _SLICE_S)
            if now >= tidy_at:
                tidy_at = now + MINUTE_S
                desk.tidy()
    except KeyboardInterrupt:
        return
    finally:
        loop.remove(transport)
        transport.close(timeout_s=_SLICE_S)
        loop.close()


class Outage:
    """Says once that the broker does not answer, until it does."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._is_told = False

    def saw(self, event: Event) -> None:
        """Take notice of an event. Raises ConfigError for a refusal that waiting does not mend."""
        if isinstance(event, Connected):
            self._is_told = False
        if not isinstance(event, Refused):
            return
        if event.permanent:
            raise ConfigError(f"the broker refuses the operator: {event.reason}")
        if not self._is_told:
            self._say(f"no answer of the broker ({event.reason}): it is tried again")
            self._is_told = True


def _handle(intake: Intake, transport: PahoTransport, message: Message, say: Say) -> None:
    answer = intake.answer(message.topic, message.payload, time.monotonic())
    if answer is not None:
        topic, said = answer
        transport.publish(topic, said)
        if intake.is_first(topic):
            account = message.topic.rpartition("/")[2]
            say(f"{account.removeprefix(NEWCOMER)}: answered")
    transport.acknowledge(message)
