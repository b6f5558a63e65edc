"""A session in rounds of `pairwise`: when it masks, what it stores first, what it gives up."""

import json
from collections.abc import Iterable

import numpy as np
import pytest

from aggregator.cohorts import Cohort, Offer
from aggregator.pairwise_round import PairwiseRound
from device_sdk.actions import Store
from device_sdk.epochs import ROUND
from device_sdk.identity import parse_keys
from device_sdk.pending import PENDING
from device_sdk.states import State
from protocol import refusals
from protocol.actions import Publish
from protocol.codec import decode, unpack
from protocol.identity import check_envelope
from protocol.messages import CheckIn, UpdateChunk
from protocol.secagg.messages import MaskedUpdate, RoundSaid, SharesWanted
from protocol.topics import Kind
from tests.support.enrolment import cohort
from tests.support.handset import SIZE, Handset
from tests.support.messages import KINDS

NAMES = ("a", "b", "c", "d", "e")
CODEC = "dense/pairwise"
NUMBER = 12


class Hall:
    """Five sessions, and an aggregator's round that hears all they say."""

    def __init__(self) -> None:
        self.enrolled = cohort(NAMES, scheme="pairwise", size=SIZE + 1)
        self.handsets = [
            Handset(name=name, keys=parse_keys(json.dumps(self.enrolled.keys[name])))
            for name in NAMES
        ]
        offer = Offer(self.enrolled.signed, self.enrolled.roster)
        self.round = PairwiseRound(Cohort(offer, 0.0), NUMBER, 0)
        self.updates: dict[int, list[MaskedUpdate]] = {}
        for index in range(len(NAMES)):
            self.join(index)

    def join(self, index: int) -> None:
        """A device connects, hears plan and roster."""
        handset = self.handsets[index]
        handset.connect()
        handset.hear_plan(CODEC)
        handset.hear(handset.topics.roster("all"), self.enrolled.signed)
        handset.said()

    def converse(self, who: Iterable[int] = range(5)) -> None:
        """The aggregator tells them what there is to say, and hears the answers."""
        for index in who:
            for message in self.round.to_say(index):
                self.handsets[index].hear_in(message)
            self.collect(index)

    def collect(self, index: int) -> None:
        """What a device has published reaches the aggregator."""
        handset = self.handsets[index]
        published, handset.published = handset.published, []
        for publish in published:
            if handset.topics.parse(publish.topic).kind in {Kind.OUT, Kind.UPDATE}:
                self.hear(index, publish)

    def hear(self, index: int, publish: Publish) -> None:
        """A device's word arrives; its signature holds."""
        message = decode(publish.payload, tuple(KINDS), task="t", sender=NAMES[index])
        match message:
            case UpdateChunk():
                update = unpack(message.data, MaskedUpdate)
                self.updates.setdefault(index, []).append(update)
                self.round.take(index, message.lease_id, update)
            case CheckIn():
                pass
            case _:
                identity = self.enrolled.roster.members[index].identity
                check_envelope(identity, publish.payload, topic=publish.topic, prefix="fedbus/1")
                assert isinstance(message, RoundSaid)
                self.round.hear(index, message)

    def until_dealt(self) -> None:
        """Keys and shares are exchanged."""
        self.converse()
        self.round.deal()
        self.converse()
        self.round.mask()

    def train(self, index: int, number: int = 1) -> None:
        """A device gets a lease, and trains."""
        delta = [0.1 * (index + 1)] * SIZE
        self.handsets[index].reports(delta, codec=CODEC, number=number, mask_epoch=1)


def test_what_was_trained_waits_for_the_dealers() -> None:
    hall = Hall()
    hall.converse()
    hall.train(0)
    assert not hall.updates
    hall.round.deal()
    hall.converse()
    hall.round.mask()
    assert hall.handsets[0].session.pending is None
    hall.converse([0])
    assert [update.counter for update in hall.updates[0]] == [NUMBER]
    assert hall.handsets[0].session.state is State.REPORTING


def test_the_sum_of_sessions_is_exact() -> None:
    hall = Hall()
    hall.until_dealt()
    hall.converse()
    for index in range(5):
        hall.train(index)
        hall.collect(index)
    hall.round.close()
    hall.converse()
    hall.round.certify()
    hall.converse()
    given = hall.enrolled.roster.parameters
    plain = [given.encode(np.full(SIZE, 0.1 * (index + 1), np.float32), 5)[0] for index in range(5)]
    np.testing.assert_array_equal(hall.round.unmask(), np.sum(plain, axis=0))


def test_shares_are_stored_before_the_update_and_that_before_it_leaves() -> None:
    hall = Hall()
    hall.until_dealt()
    hall.train(0)
    handset = hall.handsets[0]
    handset.log.clear()
    hall.converse([0])
    stored = [action.key for action in handset.log if isinstance(action, Store)]
    assert stored == [ROUND, PENDING]
    first_out = next(at for at, action in enumerate(handset.log) if isinstance(action, Publish))
    last_stored = max(at for at, action in enumerate(handset.log) if isinstance(action, Store))
    assert last_stored < first_out


@pytest.mark.parametrize("stage", ["outcome", "answer"])
def test_what_is_said_once_is_stored_before_it_is_said(stage: str) -> None:
    hall = Hall()
    hall.until_dealt()
    hall.converse()
    for index in range(5):
        hall.train(index)
        hall.collect(index)
    hall.round.close()
    if stage == "answer":
        hall.converse()
        hall.round.certify()
    handset = hall.handsets[0]
    handset.log.clear()
    hall.converse([0])
    assert [type(action) for action in handset.log] == [Store, Publish]


def test_a_result_whose_round_went_on_without_it_is_given_up() -> None:
    hall = Hall()
    hall.converse()
    hall.train(0)
    handset = hall.handsets[0]
    handset.said()
    handset.hear_manifest(1)
    assert not handset.said()
    handset.hear_manifest(2)
    assert handset.session.state is State.IDLE
    assert handset.session.counts["leases_lost"] == 1
    assert [type(message) for message in handset.said()] == [CheckIn]


def test_the_next_epoch_erases_the_round() -> None:
    hall = Hall()
    hall.until_dealt()
    hall.converse()
    handset = hall.handsets[0]
    assert ROUND in handset.flash
    following = cohort(NAMES, scheme="pairwise", size=SIZE + 1, epoch=2)
    handset.hear(handset.topics.roster("all"), following.signed)
    assert ROUND not in handset.flash


def test_a_round_of_an_epoch_that_is_over_is_erased_at_the_start() -> None:
    hall = Hall()
    hall.until_dealt()
    hall.converse()
    handset = hall.handsets[0]
    stale = handset.flash[ROUND]
    following = cohort(NAMES, scheme="pairwise", size=SIZE + 1, epoch=2)
    handset.hear(handset.topics.roster("all"), following.signed)
    handset.flash[ROUND] = stale
    handset.reboot()
    assert ROUND not in handset.flash


def test_what_belongs_to_other_schemes_is_refused() -> None:
    hall = Hall()
    handset = hall.handsets[0]
    handset.hear_in(SharesWanted(hall.enrolled.roster.hash, 1, (1,)))
    assert handset.session.counts[f"refused_{refusals.WRONG_KIND}"] == 1
    lease = handset.lease(np.zeros(SIZE, np.float32), codec="dense/seedmask", mask_epoch=1)
    handset.hear_in(lease)
    assert handset.session.state is State.IDLE
    assert handset.session.counts[f"refused_{refusals.WRONG_CODEC}"] == 1


def test_rounds_are_refused_where_shares_are_handed_out_beforehand() -> None:
    enrolled = cohort(NAMES, size=SIZE + 1)
    handset = Handset(name="a", keys=parse_keys(json.dumps(enrolled.keys["a"])))
    handset.connect()
    handset.hear(handset.topics.roster("all"), enrolled.signed)
    hall = Hall()
    for message in hall.round.to_say(0):
        handset.hear_in(message)
    assert handset.session.counts[f"refused_{refusals.WRONG_KIND}"] == 1
