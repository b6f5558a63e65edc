"""Whatever an aggregator asks and whenever the power goes: a mask is in one answer, ever."""

from collections.abc import Mapping
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.actions import Publish
from protocol.codec import decode
from protocol.secagg.messages import Dealt, RecoveryAnswer, RecoveryRequest
from protocol.secagg.requests import request_hash
from tests.support.circle import Circle
from tests.support.handset import Handset
from tests.support.messages import KINDS

pytestmark = pytest.mark.usefixtures("remembered_crypto")

HOLDER = "e"
DEALERS = "abcd"


class Ask(NamedTuple):
    """Ask for a mask of each of some dealers; the power goes after so many actions, if at all."""

    masks: Mapping[int, int]
    power: int | None


class Deal(NamedTuple):
    """A dealer restarts, and deals anew."""

    dealer: str


class Replay(NamedTuple):
    """The broker brings shares again that it has brought before."""

    at: int


class Restart(NamedTuple):
    """The holder restarts, perhaps losing power again while it begins."""

    power: int | None


powers = st.one_of(st.none(), st.integers(0, 6))
asks = st.builds(
    Ask,
    st.dictionaries(st.integers(0, 3), st.integers(0, 5), min_size=3, max_size=4),
    powers,
)
events = st.one_of(
    asks,
    asks,
    st.builds(Deal, st.sampled_from(DEALERS)),
    st.builds(Replay, st.integers(0, 20)),
    st.builds(Restart, powers),
)


class Play:
    """One holder, its dealers, and everything that an aggregator and a broker may do to it."""

    def __init__(self) -> None:
        self.circle = Circle(stock=3)
        self.circle.join()
        self.requests: dict[bytes, Mapping[int, int]] = {}

    @property
    def holder(self) -> Handset:
        return self.circle[HOLDER]

    def ask(self, ask: Ask) -> None:
        masks = {dealer: self.mask(dealer, number) for dealer, number in ask.masks.items()}
        request = self.circle.request(masks)
        self.requests[request_hash(request)] = masks
        self.under_power(ask.power, request)

    def under_power(self, power: int | None, request: RecoveryRequest) -> None:
        if power is None:
            self.holder.hear_in(request)
            return
        self.holder.power = power
        self.holder.hear_in(request)
        self.restart(None)

    def mask(self, dealer: int, number: int) -> int:
        """The ``number``-th mask that a dealer has said it dealt, counted from the newest."""
        counters = [
            counter
            for message in reversed(self.circle.of("abcde"[dealer], Dealt))
            for counter in reversed(message.counters)
        ]
        return counters[number % len(counters)]

    def replay(self, at: int) -> None:
        """Shares that any dealer has ever sent to the holder."""
        sent = [
            action
            for dealer in DEALERS
            for action in self.circle[dealer].log
            if isinstance(action, Publish)
            and action.topic == self.holder.topics.share(HOLDER, dealer)
        ]
        publish = sent[at % len(sent)]
        self.holder.receive(publish.topic, publish.payload)
        self.circle.settle()

    def restart(self, power: int | None) -> None:
        if power is not None:
            self.holder.reboot()
            self.holder.power = power
            self.holder.connect()
        self.circle.restart(HOLDER)

    def play(self, event: Ask | Deal | Replay | Restart) -> None:
        match event:
            case Ask():
                self.ask(event)
            case Deal(dealer):
                self.circle.restart(dealer)
            case Replay(at):
                self.replay(at)
            case Restart(power):
                self.restart(power)

    def answers(self) -> list[RecoveryAnswer]:
        """All that ever left the holder."""
        out = self.holder.topics.out(HOLDER)
        said = [
            decode(action.payload, tuple(KINDS), task="t", sender=HOLDER)
            for action in self.holder.log
            if isinstance(action, Publish) and action.topic == out
        ]
        return [message for message in said if isinstance(message, RecoveryAnswer)]


@settings(max_examples=40, deadline=None)
@given(st.lists(events, min_size=2, max_size=12))
def test_a_mask_is_in_one_answer_ever(history: list[Ask | Deal | Replay | Restart]) -> None:
    play = Play()
    for event in history:
        play.play(event)
    elements: dict[bytes, bytes] = {}
    used: dict[tuple[int, int], bytes] = {}
    for answer in play.answers():
        assert elements.setdefault(answer.request_hash, answer.elements) == answer.elements
        for mask in play.requests[answer.request_hash].items():
            assert used.setdefault(mask, answer.request_hash) == answer.request_hash


def test_the_play_does_answer_and_does_refuse() -> None:
    play = Play()
    play.play(Ask({0: 0, 1: 0, 2: 0}, None))
    play.play(Ask({0: 0, 1: 1, 2: 1}, None))
    play.play(Ask({0: 1, 1: 1, 2: 1}, 2))
    play.play(Replay(0))
    play.play(Ask({0: 1, 1: 1, 2: 1}, None))
    assert len(play.answers()) == 2
    assert play.holder.session.counts["refused_mask_used"] == 1
