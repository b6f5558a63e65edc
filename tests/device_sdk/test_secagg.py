"""Devices of a secure task: what they deal, hold and mask."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from device_sdk.abilities import MASKED_CODECS
from device_sdk.holding import SHARE
from device_sdk.pending import PENDING
from device_sdk.states import State
from protocol import refusals
from protocol.actions import Publish, Subscribe
from protocol.codec import decode, encode, unpack
from protocol.messages import MAX_STOCK, CheckIn, Receipt, Refusal, UpdateChunk
from protocol.secagg.common import coordinates, num_named
from protocol.secagg.consistency import COMMITMENT_BYTES, consistent_holders, root, witness
from protocol.secagg.messages import Dealt, Holdings, MaskedUpdate, Shares, SharesWanted, Support
from protocol.secagg.sealing import ShareBatch, open_shares, seal
from protocol.secagg.shares import RecoveryError
from protocol.vectors.sparse import encode_indices
from tests.support.circle import NAMES, Circle
from tests.support.handset import SIZE, Handset

pytestmark = pytest.mark.usefixtures("remembered_crypto")

#: A share of one mask: 512 columns (U - T = 2) and 4 of the dealers' test, 4 bytes each.
ROW_BYTES = 516 * 4
DELTA = [0.5, -0.25, 0.125, 0.0, 1.0, -1.0]


def joined(codec: str = "dense/seedmask", *, stock: int = 2) -> Circle:
    circle = Circle(codec=codec, stock=stock)
    circle.join()
    return circle


def dealt(circle: Circle, name: str) -> tuple[int, ...]:
    """The masks that a device has at hand, oldest first, as it said last."""
    message = circle.of(name, Dealt)[-1]
    return message.counters


def held(circle: Circle, name: str) -> set[tuple[int, int]]:
    """The masks that a device said it holds, since it last said all."""
    found: set[tuple[int, int]] = set()
    for message in circle.of(name, Holdings):
        if message.whole:
            found.clear()
        found |= set(zip(message.dealers, message.counters, strict=True))
    return found


def stored_shares(handset: Handset) -> int:
    return sum(key.startswith(SHARE) for key in handset.flash)


# --- dealing and holding -------------------------------------------------------------------------


def test_everybody_deals_a_stock_and_everybody_holds_all_of_it() -> None:
    circle = joined(stock=3)
    everything = {(circle.index(name), mask) for name in NAMES for mask in dealt(circle, name)}
    assert len(everything) == 3 * len(NAMES)
    for name in NAMES:
        assert held(circle, name) == everything
        assert stored_shares(circle[name]) == len(everything)


def test_receipts_prove_that_the_shares_are_consistent_and_are_the_committed_ones() -> None:
    circle = joined()
    given = circle.cohort.roster.parameters
    committed = {}
    for name in NAMES:
        message = circle.of(name, Dealt)[-1]
        for at, counter in enumerate(message.counters):
            size = COMMITMENT_BYTES * len(NAMES)
            committed[circle.index(name), counter] = message.commitments[at * size :][:size]
    receipts: dict[tuple[int, int], dict[int, bytes]] = {mask: {} for mask in committed}
    for name in NAMES:
        for said in circle.of(name, Holdings):
            num_bytes = len(said.receipts) // max(1, len(said.counters))
            for at, mask in enumerate(zip(said.dealers, said.counters, strict=True)):
                receipt = said.receipts[at * num_bytes :][:num_bytes]
                size = COMMITMENT_BYTES
                pieces = [
                    committed[mask][at : at + size] for at in range(0, len(committed[mask]), size)
                ]
                drawn = root(circle.cohort.roster.mask_id(*mask), pieces)
                own = pieces[circle.index(name)]
                assert receipt[-COMMITMENT_BYTES:] == witness(own, drawn)
                receipts[mask][circle.index(name)] = receipt[:-COMMITMENT_BYTES]
    sharing = circle.scheme.sharing(given)
    for by_holder in receipts.values():
        assert consistent_holders(by_holder, sharing) == frozenset(range(len(NAMES)))


def test_shares_are_stored_before_they_are_receipted() -> None:
    circle = Circle()
    for handset in circle.handsets:
        handset.connect()
        handset.hear_plan(circle.codec)
    circle.hear_roster(circle["a"])
    circle.hear_roster(circle["b"])
    circle.settle()
    receipted = held(circle, "b")
    circle["b"].reboot()
    circle["b"].connect()
    circle.settle()
    assert held(circle, "b") == receipted


def test_what_is_held_is_said_again_after_a_restart_of_either_side() -> None:
    circle = joined()
    before = held(circle, "a")
    circle.said.clear()
    circle["a"].hear_plan(circle.codec, start=2)
    circle.settle()
    assert held(circle, "a") == before
    assert dealt(circle, "a")
    circle.said.clear()
    circle.restart("a")
    assert held(circle, "a") > before  # and shares of the masks that it has dealt anew


def test_masks_at_hand_are_lost_in_a_restart_and_never_dealt_again() -> None:
    circle = joined()
    before = set(dealt(circle, "a"))
    circle.restart("a")
    assert not before & set(dealt(circle, "a"))


def test_the_oldest_mask_is_used_once_and_the_stock_filled_up_after_the_receipt() -> None:
    circle = joined()
    masks = dealt(circle, "a")
    assert circle.reports("a", DELTA).counter == masks[0]
    assert dealt(circle, "a") == masks  # nothing is said while the update is under way
    circle["a"].hear_in(Receipt(circle.pending("a"), 2))
    circle.settle()
    assert dealt(circle, "a")[0] == masks[1]
    assert len(dealt(circle, "a")) == 2
    assert circle.reports("a", DELTA, number=2).counter == masks[1]


def test_nothing_is_dealt_while_an_update_waits_for_its_receipt() -> None:
    circle = joined()
    circle.reports("a", DELTA)
    circle.said.clear()
    circle.restart("a")
    assert circle.of("a", Dealt) == []
    assert circle["a"].session.state is State.REPORTING
    lease_id = circle.pending("a")
    circle["a"].hear_in(Refusal(lease_id, refusals.TOO_STALE, ""))
    circle.settle()
    assert len(dealt(circle, "a")) == 2


def test_wanted_shares_are_dealt_again_as_they_were() -> None:
    circle = Circle()
    for name in "abcd":
        circle[name].connect()
        circle[name].hear_plan(circle.codec)
        circle.hear_roster(circle[name])
    for name in "abcd":
        circle[name].published = [
            publish
            for publish in circle[name].published
            if circle[name].topics.parse(publish.topic).to != "e"
        ]
    circle.settle()
    circle["e"].connect()
    circle.hear_roster(circle["e"])
    circle.settle()
    wanted = dealt(circle, "a")
    assert not {(0, mask) for mask in wanted} & held(circle, "e")
    circle["a"].hear_in(SharesWanted(circle.cohort.roster.hash, circle.index("e"), wanted))
    circle.settle()
    assert {(0, mask) for mask in wanted} <= held(circle, "e")
    receipts = [message for message in circle.of("e", Holdings) if 0 in message.dealers]
    assert receipts


def test_shares_of_a_used_mask_are_not_dealt_again() -> None:
    circle = joined()
    used = circle.reports("a", DELTA).counter
    roster = circle.cohort.roster
    circle["a"].hear_in(SharesWanted(roster.hash, 1, (used,)))
    assert circle["a"].published == []
    circle["a"].hear_in(SharesWanted(bytes(32), 1, (used,)))
    circle["a"].hear_in(SharesWanted(roster.hash, circle.index("a"), (used,)))
    circle["a"].hear_in(SharesWanted(roster.hash, 77, (used,)))
    assert circle["a"].published == []
    assert circle["a"].session.counts["refused_wrong_roster"] == 1
    assert circle["a"].session.counts["refused_wrong_members"] == 2


# --- shares that are not what they seem ----------------------------------------------------------


def shares_topic(circle: Circle, holder: str, dealer: str) -> str:
    return circle[holder].topics.share(holder, dealer)


def deliver(circle: Circle, shares: Shares, *, dealer: str, holder: str) -> None:
    payload = encode(shares, task="t", sender=dealer, counter=1 << 40)
    circle[holder].receive(shares_topic(circle, holder, dealer), payload)


def caught(names: str = "ab") -> tuple[Circle, Shares]:
    """A circle, and the sealed shares that ``a`` dealt to ``b``; they have not arrived."""
    circle = Circle()
    for name in names:
        circle[name].connect()
        circle[name].hear_plan(circle.codec)
        circle.hear_roster(circle[name])
    topic = shares_topic(circle, "b", "a")
    (sent,) = [publish for publish in circle["a"].published if publish.topic == topic]
    for name in names:
        circle[name].published.clear()
    return circle, decode(sent.payload, (Shares,), task="t", sender="a")


def batch_of(circle: Circle, shares: Shares) -> ShareBatch:
    secret = circle.cohort.epoch_secret("b")
    return open_shares(circle.cohort.roster, shares, dealer=0, holder=1, epoch_secret=secret)


def sealed(circle: Circle, batch: ShareBatch, *, by: str = "a") -> Shares:
    return seal(
        circle.cohort.roster,
        batch,
        identity=circle.cohort.identity(by),
        epoch_secret=circle.cohort.epoch_secret(by),
        nonce=bytes(24),
    )


def test_the_same_shares_again_are_receipted_again() -> None:
    circle, shares = caught()
    deliver(circle, shares, dealer="a", holder="b")
    circle.settle()
    circle.said.clear()
    deliver(circle, shares, dealer="a", holder="b")
    circle.settle()
    assert {dealer for dealer, _ in held(circle, "b")} == {0}
    assert not any(key.startswith("refused") for key in circle["b"].session.counts)


def test_shares_of_one_dealer_presented_as_another_s_are_refused() -> None:
    circle, shares = caught()
    before = stored_shares(circle["b"])
    deliver(circle, shares, dealer="c", holder="b")
    assert circle["b"].session.counts["refused_bad_signature"] == 1
    assert stored_shares(circle["b"]) == before


def test_shares_presented_to_another_holder_are_refused() -> None:
    circle, shares = caught("abc")
    before = stored_shares(circle["c"])
    deliver(circle, shares, dealer="a", holder="c")
    assert circle["c"].session.counts["refused_bad_signature"] == 1
    assert stored_shares(circle["c"]) == before


def test_shares_that_another_member_sealed_in_a_dealer_s_name_are_refused() -> None:
    circle, shares = caught()
    batch = batch_of(circle, shares)
    deliver(circle, sealed(circle, batch, by="c"), dealer="a", holder="b")
    deliver(circle, sealed(circle, batch, by="c"), dealer="c", holder="b")
    assert circle["b"].session.counts["refused_bad_signature"] == 2


def test_shares_from_a_stranger_or_of_another_roster_are_refused() -> None:
    circle, shares = caught()
    deliver(circle, shares, dealer="zoe", holder="b")
    deliver(circle, shares, dealer="b", holder="b")
    deliver(circle, replace(shares, roster_hash=bytes(32)), dealer="a", holder="b")
    assert circle["b"].session.counts["refused_wrong_sender"] == 2
    assert circle["b"].session.counts["refused_wrong_roster"] == 1


def test_another_share_of_a_known_mask_is_refused() -> None:
    circle, shares = caught()
    batch = batch_of(circle, shares)
    deliver(circle, shares, dealer="a", holder="b")
    flash = dict(circle["b"].flash)
    rows = bytes(4) + batch.rows[4:]
    deliver(circle, sealed(circle, replace(batch, rows=rows)), dealer="a", holder="b")
    roots = bytes(len(batch.roots))
    deliver(circle, sealed(circle, replace(batch, roots=roots)), dealer="a", holder="b")
    assert circle["b"].session.counts["refused_mask_used"] == 2
    assert circle["b"].flash == flash


def test_shares_of_a_mask_that_was_summed_are_refused() -> None:
    circle = Circle()
    circle.join()
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    topic = shares_topic(circle, "b", "a")
    (shares,) = [
        decode(action.payload, (Shares,), task="t", sender="a")
        for action in circle["a"].log
        if isinstance(action, Publish) and action.topic == topic
    ]
    circle.ask("b", circle.request({index: one.counter for index, one in updates.items()}))
    before = stored_shares(circle["b"])
    deliver(circle, shares, dealer="a", holder="b")
    assert circle["b"].session.counts["refused_mask_used"] == 1
    assert stored_shares(circle["b"]) == before


@pytest.mark.parametrize("change", ["short", "long", "high"])
def test_shares_of_another_shape_are_refused(change: str) -> None:
    circle, shares = caught()
    batch = batch_of(circle, shares)
    rows = {
        "short": batch.rows[:-4],
        "long": batch.rows + bytes(4),
        "high": b"\xff\xff\xff\xff" + batch.rows[4:],
    }[change]
    deliver(circle, sealed(circle, replace(batch, rows=rows)), dealer="a", holder="b")
    assert circle["b"].session.counts["refused_malformed"] == 1


def test_of_a_dealer_that_keeps_restarting_the_newest_masks_are_held() -> None:
    circle = joined()
    for _ in range(MAX_STOCK):
        circle.restart("a")
    of_a = sorted(mask for dealer, mask in held(circle, "b") if dealer == 0)
    flash = [key for key in circle["b"].flash if key.startswith(f"{SHARE}0-")]
    assert len(flash) == MAX_STOCK
    assert set(dealt(circle, "a")) <= set(of_a)
    assert circle["b"].session.counts["shares_forgotten"] == 2 * (MAX_STOCK + 1) - MAX_STOCK


@pytest.mark.parametrize("capacity", [5, 7, 12])
def test_storage_is_never_exceeded_and_each_dealer_gets_its_part(capacity: int) -> None:
    circle = Circle(stock=3, max_share_bytes=capacity * ROW_BYTES + 1)
    circle.join()
    for _ in range(3):
        for name in NAMES:
            circle.restart(name)
            for handset in circle.handsets:
                assert stored_shares(handset) <= capacity
    for handset in circle.handsets:
        held_of = Counter(key.split("-")[1] for key in handset.flash if key.startswith(SHARE))
        assert len(held_of) == len(NAMES)
        assert stored_shares(handset) == capacity


def test_shares_that_find_no_room_are_refused_and_counted() -> None:
    circle = Circle(max_share_bytes=ROW_BYTES - 1)
    circle.join()
    for handset in circle.handsets:
        assert stored_shares(handset) == 0
        assert handset.session.counts["shares_without_room"] == 2 * len(NAMES)
        assert handset.session.counts["refused_busy"] == len(NAMES)


def test_a_stock_is_said_in_messages_that_fit_a_small_broker() -> None:
    circle = Circle(stock=8)
    for handset in circle.handsets:
        handset.connect(max_packet_bytes=8_000)
        handset.hear_plan(circle.codec)
        circle.hear_roster(handset)
    sent = [publish for handset in circle.handsets for publish in handset.published]
    circle.settle()
    assert max(len(publish.payload) for publish in sent) < 8_000
    for name in NAMES:
        assert len(held(circle, name)) == 8 * len(NAMES)


def test_no_more_masks_are_at_hand_than_one_message_of_a_small_broker_names() -> None:
    """What is not named counts as lost: so several messages could not name one stock."""
    circle = Circle("abcdefghijkl", codec="dense/lightsecagg", stock=8)
    for handset in circle.handsets:
        handset.connect(max_packet_bytes=1_500)
        handset.hear_plan(circle.codec)
        circle.hear_roster(handset)
    sent = [publish for handset in circle.handsets for publish in handset.published]
    circle.settle()
    assert max(len(publish.payload) for publish in sent) < 1_500
    (first,) = circle.of("a", Dealt)
    assert len(first.counters) == 4
    circle.said.clear()
    circle["a"].connect(max_packet_bytes=1_024)  # another broker
    circle.hear_roster(circle["a"])
    circle.settle()
    (dealt,) = circle.of("a", Dealt)
    assert dealt.counters == first.counters[:2]  # no one waits for the others
    circle.said.clear()
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    assert updates[0].counter == dealt.counters[0]


def test_a_broker_that_is_too_small_to_name_one_mask_is_not_dealt_through() -> None:
    circle = Circle([f"d{number}" for number in range(40)], codec="dense/lightsecagg", stock=1)
    circle.handsets[0].connect(max_packet_bytes=1_024)
    circle.hear_roster(circle.handsets[0])
    assert circle.handsets[0].session.counts["dealing_refused_oversize"] == 1
    assert circle.handsets[0].session.counts["masks_dealt"] == 0


def test_what_is_held_is_said_in_messages_that_fit_a_small_broker() -> None:
    circle = joined(stock=8)
    before = held(circle, "a")
    circle["a"].connect(max_packet_bytes=1_500)
    circle.said.clear()
    circle["a"].wait()
    assert all(len(publish.payload) < 1_500 for publish in circle["a"].published)
    circle.settle()
    assert [message.whole for message in circle.of("a", Holdings)] == [1, 0, 0]
    assert held(circle, "a") == before


# --- masking -------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["dense/seedmask", "dense/lightsecagg"])
def test_the_sum_of_masked_updates_is_the_sum_of_the_deltas(codec: str) -> None:
    circle = joined(codec)
    deltas = {name: np.array(DELTA) * (1 + at) / 8 for at, name in enumerate("abc")}
    updates = {
        circle.index(name): circle.reports(name, list(delta)) for name, delta in deltas.items()
    }
    given = circle.cohort.roster.parameters
    sums = circle.sums(updates)
    assert given.weight_of(int(sums[-1])) == 3
    np.testing.assert_allclose(sums[:-1] / given.scale, sum(deltas.values()), atol=1e-3)


def test_the_update_is_stored_before_it_is_sent_and_sent_again_as_it_was() -> None:
    circle = joined()
    update = circle.reports("a", DELTA)
    stored = [getattr(action, "key", "") for action in circle["a"].log]
    topics = [getattr(action, "topic", "") for action in circle["a"].log]
    sent = next(at for at, topic in enumerate(topics) if "/up/" in topic)
    assert PENDING in stored[:sent]
    circle.restart("a")
    pending = circle["a"].session.pending
    assert pending is not None
    assert unpack(pending.update, MaskedUpdate) == update


def test_after_a_refusal_the_next_update_has_another_mask() -> None:
    circle = joined()
    first = circle.reports("a", DELTA)
    refusal = Refusal(circle.pending("a"), refusals.RECOVERY_FAILED, "")
    circle["a"].hear_in(refusal)
    circle.settle()
    second = circle.reports("a", DELTA, number=2)
    assert second.counter != first.counter
    assert second.body != first.body


def test_values_beyond_the_clip_are_cut_and_counted() -> None:
    circle = joined()
    updates = {circle.index(name): circle.reports(name, [2.0, -3.0, 0, 0, 0, 0]) for name in "abc"}
    given = circle.cohort.roster.parameters
    assert circle["a"].session.counts["saturated_values"] == 2
    sums = circle.sums(updates)
    np.testing.assert_allclose(sums[:2] / given.scale, [3.0, -3.0], atol=1e-3)


def test_a_check_in_says_the_number_of_samples_to_a_power_of_two_only() -> None:
    circle = joined()
    (check_in, *_) = circle.of("a", CheckIn)
    assert check_in.num_samples == 8  # it has 5
    assert check_in.codecs == MASKED_CODECS


# --- nothing in the open -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "mask_epoch", "reason"),
    [
        ("dense/float32", 1, refusals.WRONG_CODEC),
        ("topk-0.5/int8", 1, refusals.WRONG_CODEC),
        ("dense/lightsecagg", 1, refusals.WRONG_CODEC),
        ("dense/seedmask", 0, refusals.WRONG_ROSTER),
        ("dense/seedmask", 2, refusals.WRONG_ROSTER),
    ],
)
def test_a_device_with_keys_refuses_any_lease_but_a_masked_one_of_its_epoch(
    codec: str, mask_epoch: int, reason: str
) -> None:
    circle = joined()
    params = np.zeros(SIZE, np.float32)
    lease = circle["a"].lease(params, codec=codec, mask_epoch=mask_epoch)
    circle["a"].hear_in(lease)
    circle["a"].deliver_model(lease, params)
    assert circle["a"].training is None
    assert circle["a"].session.state is State.IDLE
    assert circle["a"].session.counts[f"refused_{reason}"] == 1
    assert circle["a"].session.counts["unmasked_leases"] == (codec[-1] in "28")


def test_a_device_with_keys_takes_no_lease_before_it_has_a_roster() -> None:
    circle = Circle()
    circle["a"].connect()
    circle["a"].hear_plan(circle.codec)
    circle["a"].hear_in(circle["a"].lease(np.zeros(SIZE, np.float32), codec=circle.codec))
    assert circle["a"].session.counts["refused_wrong_roster"] == 1
    assert circle["a"].session.state is State.IDLE


def test_a_device_without_keys_refuses_a_masked_lease() -> None:
    handset = Handset()
    handset.connect()
    handset.hear_plan("dense/seedmask")
    handset.hear_in(handset.lease(np.zeros(SIZE, np.float32), codec="dense/seedmask"))
    assert handset.session.counts["refused_wrong_codec"] == 1
    assert handset.session.state is State.IDLE


def test_a_device_without_keys_has_no_ear_for_secure_messages() -> None:
    handset = Handset()
    handset.connect()
    handset.hear("fedbus/1/t/support", Support(1, b""))
    handset.hear_in(SharesWanted(bytes(32), 1, (1,)))
    assert handset.session.counts["refused_wrong_kind"] == 2


# --- waiting for a mask --------------------------------------------------------------------------


def test_after_its_first_connection_a_member_asks_for_the_roster_alone() -> None:
    handset = Circle()["a"]
    asked = []
    for _ in range(3):
        begun = len(handset.log)
        handset.connect()
        told = [act for act in handset.log[begun:] if isinstance(act, Subscribe)]
        asked.append({topic for act in told for topic in act.filters})
        handset.session.disconnected()
    roster = {topic for topic in asked[0] if "/roster/" in topic}
    assert len(roster) == 1
    assert len(asked[0]) == 7
    assert asked[1] == asked[2] == roster


def test_what_was_trained_offline_waits_for_the_first_mask() -> None:
    circle = Circle()
    handset = circle["a"]
    handset.connect()
    handset.hear_plan(circle.codec)
    params = np.zeros(SIZE, np.float32)
    circle.hear_roster(handset)
    handset.session._member._membership.seat.dealer._stock.clear()  # type: ignore[union-attr] # it has one
    lease = handset.lease(params, codec=circle.codec, mask_epoch=1)
    handset.hear_in(lease)
    handset.deliver_model(lease, params)
    handset.session.disconnected()
    handset.trains(DELTA)
    handset.connect()
    assert handset.session.pending is None
    circle.hear_roster(handset)
    assert handset.session.pending is not None


def test_what_never_gets_a_mask_is_given_up_when_the_lease_has_ended() -> None:
    circle = Circle(codec="randk-0.5/seedmask", size=4)
    circle.join()
    handset = circle["a"]
    handset.reports(DELTA, codec=circle.codec, mask_epoch=1)
    assert handset.session.pending is None
    assert handset.session.timer_at == pytest.approx(handset.now + 600, abs=10)
    handset.now = handset.session.timer_at
    handset.perform(handset.session.timer(handset.now))
    assert handset.session.state is State.IDLE
    assert handset.session.counts["leases_lost"] == 1
    hear_support(circle, 1)  # too late
    assert handset.session.pending is None
    assert circle.of("a", UpdateChunk) == []


# --- coordinates in common -----------------------------------------------------------------------


def hear_support(circle: Circle, number: int, named: bytes = b"") -> None:
    for handset in circle.handsets:
        handset.hear(handset.topics.support(), Support(number, named))
    circle.settle()


def test_rand_k_sends_the_drawn_coordinates_and_keeps_no_residual() -> None:
    circle = Circle(codec="randk-0.5/seedmask", size=4)
    circle.join()
    hear_support(circle, 7)
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    assert {update.support for update in updates.values()} == {7}
    where = coordinates("t", 7, np.zeros(0, np.int64), SIZE, 3)
    given = circle.cohort.roster.parameters
    sums = circle.sums(updates)
    np.testing.assert_allclose(sums[:-1] / given.scale, 3 * np.array(DELTA)[where], atol=1e-3)
    pending = circle["a"].session.pending
    assert pending is not None
    assert pending.residual == pending.sent == b""


#: What the plan's support names, of three that travel.
NAMED = encode_indices(np.array([4][: num_named(3)]), SIZE)


def plan_circle() -> tuple[Circle, list[int]]:
    circle = Circle(codec="plan-0.5/seedmask", size=4)
    circle.join()
    hear_support(circle, 3, NAMED)
    return circle, list(coordinates("t", 3, np.array([4]), SIZE, 3))


def test_plan_sends_the_named_coordinates_and_keeps_the_rest_as_residual() -> None:
    circle, where = plan_circle()
    assert 4 in where
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    given = circle.cohort.roster.parameters
    sums = circle.sums(updates, NAMED)
    np.testing.assert_allclose(sums[:-1] / given.scale, 3 * np.array(DELTA)[where], atol=1e-3)
    circle["a"].hear_in(Receipt(circle.pending("a"), 2))
    residual = circle["a"].session.residual
    assert residual is not None
    unsent = np.frombuffer(residual.values, "<f4")
    expected = np.array(DELTA)
    expected[where] = 0
    np.testing.assert_allclose(unsent, expected, atol=1e-5)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_refused_plan_update_is_folded_and_added_to_the_next(restarts: bool) -> None:  # noqa: FBT001
    circle, where = plan_circle()
    circle.reports("a", DELTA)
    if restarts:
        circle.restart("a")
        hear_support(circle, 3, NAMED)
    lease_id = circle.pending("a")
    circle["a"].hear_in(Refusal(lease_id, refusals.RECOVERY_FAILED, ""))
    circle.settle()
    residual = circle["a"].session.residual
    assert residual is not None
    np.testing.assert_allclose(np.frombuffer(residual.values, "<f4"), DELTA, atol=1e-6)
    updates = {0: circle.reports("a", [0.0] * SIZE, number=2)}
    updates |= {circle.index(name): circle.reports(name, [0.0] * SIZE) for name in "bc"}
    given = circle.cohort.roster.parameters
    sums = circle.sums(updates, NAMED)
    np.testing.assert_allclose(sums[:-1] / given.scale, np.array(DELTA)[where], atol=1e-3)


def test_who_was_told_other_coordinates_is_in_no_sum_with_the_rest() -> None:
    """Else one device could be told those that are nothing to the others, and stand alone."""
    circle, _ = plan_circle()
    other = encode_indices(np.array([2]), SIZE)
    circle["c"].hear(circle["c"].topics.support(), Support(3, other))
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    assert {update.support for update in updates.values()} == {3}
    with pytest.raises(RecoveryError):
        circle.sums(updates, NAMED)


def test_a_refusal_that_faults_the_update_drops_its_delta() -> None:
    circle, _ = plan_circle()
    circle.reports("a", DELTA)
    circle["a"].hear_in(Refusal(circle.pending("a"), refusals.MASK_USED, ""))
    residual = circle["a"].session.residual
    assert residual is not None
    assert residual.values == b""


def test_a_roster_for_a_model_of_another_size_masks_nothing() -> None:
    circle = Circle(size=SIZE)
    circle.join()
    circle["a"].reports(DELTA, codec=circle.codec, mask_epoch=1)
    assert circle["a"].session.counts["refused_wrong_shape"] == 1
    assert circle["a"].session.state is State.IDLE
    circle.settle()
    assert circle.of("a", UpdateChunk) == []


def test_weights_travel_with_the_sum() -> None:
    circle = Circle(samples_cap=10)
    circle.join()
    updates = {circle.index(name): circle.reports(name, DELTA) for name in "abc"}
    given = circle.cohort.roster.parameters
    sums = circle.sums(updates)
    weight = given.weight_of(int(sums[-1]))
    assert weight == pytest.approx(3 * 5 / 10, rel=0.01)
    np.testing.assert_allclose(sums[:-1] / given.scale / weight, DELTA, atol=2e-3)


def test_a_device_weighs_what_it_masks_late_by_the_manifest_it_has_seen() -> None:
    """One heard of three versions while it trained, one of none: half the weight."""
    circle = Circle(staleness="polynomial-0.5", samples_cap=0)
    circle.join()
    params = np.zeros(SIZE, np.float32)
    updates, deltas = {}, {"a": [1.0] * SIZE, "b": [-0.5] * SIZE, "c": [0.25] * SIZE}
    for name, delta in deltas.items():
        handset = circle[name]
        lease = handset.lease(params, codec=circle.codec, mask_epoch=1)
        handset.hear_in(lease)
        handset.deliver_model(lease, params)
        if name == "a":
            handset.hear_manifest(lease.version + 3)
        handset.trains(delta)
        circle.settle()
        chunk = circle.of(name, UpdateChunk)[-1]
        updates[circle.index(name)] = unpack(chunk.data, MaskedUpdate)
    given = circle.cohort.roster.parameters
    sums = circle.sums(updates)
    weight = given.weight_of(int(sums[-1]))
    assert weight == pytest.approx(0.5 + 1 + 1, abs=1 / given.levels)
    mean = (0.5 * 1.0 - 0.5 + 0.25) / 2.5
    np.testing.assert_allclose(sums[:-1] / given.scale / weight, mean, atol=2e-3)
