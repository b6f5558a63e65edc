"""Whatever arrives at a device of a secure task: it is understood, or counted, and goes on."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.errors import RemoteProtocolError
from protocol.messages import AGGREGATOR, UpdateChunk
from protocol.secagg import keys
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import RecoveryAnswer, RecoveryRequest, SharesWanted, Support
from protocol.secagg.sealing import Boxes, Committed, ShareBatch, commit
from tests.support.circle import Circle
from tests.support.messages import messages, of_class

DELTA = [0.5, -0.25, 0.125, 0.0, 1.0, -1.0]
TOPICS = ("in", "roster", "support", "share", "share by a stranger")


@pytest.fixture(scope="module")
def circle() -> Circle:
    made = Circle()
    made.join()
    made.reports("b", DELTA)
    return made


def topic(circle: Circle, which: str) -> str:
    topics = circle["a"].topics
    return {
        "in": topics.into("a"),
        "roster": topics.roster("all"),
        "support": topics.support(),
        "share": topics.share("a", "b"),
        "share by a stranger": topics.share("a", "zoe"),
    }[which]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(TOPICS),
    st.one_of(
        st.binary(max_size=200),
        st.tuples(messages, st.sampled_from((AGGREGATOR, "b", "zoe"))),
    ),
)
def test_garbage_makes_a_member_say_nothing_in_the_open(
    circle: Circle, which: str, data: bytes | tuple[Message, str]
) -> None:
    if isinstance(data, bytes):
        payload = data
    else:
        payload = encode(data[0], task="t", sender=data[1], counter=1)
    circle["a"].receive(topic(circle, which), payload)
    assert circle.of("a", UpdateChunk) == []


@settings(max_examples=100, deadline=None)
@given(st.one_of(of_class(SharesWanted), of_class(Support), of_class(RecoveryRequest)))
def test_what_the_aggregator_may_send_is_taken_whatever_it_holds(
    circle: Circle, message: Message
) -> None:
    where = circle["a"].topics.support() if isinstance(message, Support) else topic(circle, "in")
    circle["a"].hear(where, message)


@settings(max_examples=100, deadline=None)
@given(of_class(ShareBatch), st.booleans())
def test_a_member_may_seal_what_it_likes(
    circle: Circle,
    batch: ShareBatch,
    names_us: bool,  # noqa: FBT001 - drawn
) -> None:
    roster = circle.cohort.roster
    fields = {name: getattr(batch, name) for name in ShareBatch.__slots__}
    fields |= {"dealer": 1, "holder": 0}
    if names_us:
        fields |= {"task": "t", "roster_hash": roster.hash, "epoch": roster.epoch}
    committed = Committed(ShareBatch(**fields), ())
    with contextlib.suppress(RemoteProtocolError):  # rows of different lengths
        committed = commit(roster, committed.batch)
    shares = Boxes(roster, 1, circle.cohort.epoch_secret("b")).seal(
        committed, identity=circle.cohort.identity("b"), nonce=bytes(24)
    )
    before = dict(circle["a"].flash)
    circle["a"].now += 60  # else its budget is used up, and nothing is opened
    payload = encode(shares, task="t", sender="b", counter=1)
    circle["a"].receive(topic(circle, "share"), payload)
    assert circle["a"].flash == before


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_an_aggregator_may_sign_what_it_likes(circle: Circle, body: bytes) -> None:
    signature = keys.sign(circle.cohort.aggregator, keys.REQUEST, body)
    circle["a"].published.clear()
    circle["a"].hear_in(RecoveryRequest(body, signature))
    assert not [said for said in circle["a"].said() if isinstance(said, RecoveryAnswer)]
