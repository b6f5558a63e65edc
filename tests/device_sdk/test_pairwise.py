"""A device in rounds of `pairwise`: what it says, what it refuses, what survives a restart."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from device_sdk.epochs import ROUND
from device_sdk.pairwise import MAX_BEGUN
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.secagg.messages import (
    RoundAdvertised,
    RoundAnswer,
    RoundCertificate,
    RoundDealers,
    RoundKeys,
    RoundOpened,
    RoundOutcome,
    RoundShares,
    RoundSignature,
    RoundTold,
)
from protocol.secagg.pairwise import OUTCOME, VIEW
from protocol.secagg.pairwise_keys import ADVERTISEMENT, PAIR_BYTES, Publics, keys_message
from tests.support.rounds import NUMBER, Ring

pytestmark = pytest.mark.usefixtures("remembered_crypto")


def refused(ring: Ring, index: int, message: RoundTold) -> str:
    """The reason why a device does not go along, having stored nothing."""
    before = dict(ring.flash[index])
    with pytest.raises(RemoteProtocolError) as caught:
        ring.tell(index, message)
    assert ring.flash[index] == before
    return caught.value.reason


# --- the whole round ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_devices", [3, 5, 10])
def test_a_round_gives_the_exact_sum(num_devices: int) -> None:
    ring = Ring(num_devices)
    ring.until_signed()
    ring.answer()
    np.testing.assert_array_equal(ring.aggregator.unmask(), ring.sum(ring.everybody))


def test_whoever_drops_out_at_any_stage_the_sum_is_that_of_the_survivors() -> None:
    ring = Ring(12)
    ring.advertise(*range(11))  # 11 never comes
    ring.deal(*range(10))  # 10 has advertised only
    ring.know_dealers()
    ring.upload(*range(9))  # 9 has dealt only
    ring.sign_outcome(*range(8))  # 8 has sent its update only
    ring.answer(*range(7))  # 7 has signed only
    np.testing.assert_array_equal(ring.aggregator.unmask(), ring.sum(range(9)))


def test_in_a_sparse_graph_the_sum_is_exact_too() -> None:
    ring = Ring(64)
    degree = ring.aggregator.round.graph.degree
    assert degree < 63
    ring.advertise(*range(62))
    ring.deal(*range(60))
    ring.know_dealers()
    ring.upload(*range(56))
    assert ring.aggregator.can_close
    ring.sign_outcome(*range(50))
    ring.answer(*range(48))
    assert ring.aggregator.has_enough_answers
    np.testing.assert_array_equal(ring.aggregator.unmask(), ring.sum(range(56)))
    held = PAIR_BYTES * (degree + 1)
    assert all(len(flash.get(ROUND, b"")) <= 250 + held for flash in ring.flash)


def test_the_same_message_gets_the_same_bytes() -> None:
    ring = Ring()
    opened = ring.to_say(0, RoundOpened)
    first = ring.tell(0, opened)
    assert isinstance(first, RoundKeys)
    assert ring.tell(0, opened) == first
    ring.advertise()
    ring.aggregator.deal()
    advertised = ring.to_say(0, RoundAdvertised)
    dealt = ring.tell(0, advertised)
    assert isinstance(dealt, RoundShares)
    assert ring.tell(0, advertised) == dealt
    ring.converse(ring.everybody)
    ring.know_dealers()
    dealers = ring.to_say(0, RoundDealers)
    assert ring.tell(0, dealers) is None
    ring.upload()
    ring.sign_outcome()
    announced = ring.to_say(0, RoundOutcome)
    signed = ring.tell(0, announced)
    assert isinstance(signed, RoundSignature)
    assert signed.signature == ring.aggregator.signatures[0]
    ring.answer()
    certificate = ring.to_say(0, RoundCertificate)
    answer = ring.tell(0, certificate)
    assert isinstance(answer, RoundAnswer)
    assert ring.tell(0, certificate) == answer
    assert ring.tell(0, announced) == signed


# --- what must never happen --------------------------------------------------------------------


def test_a_round_has_one_mask() -> None:
    ring = Ring()
    ring.until_uploaded()
    assert ring.devices[0].take() is None
    assert ring.tell(0, RoundOpened(ring.roster.hash, NUMBER)) is None
    assert refused(ring, 0, RoundAdvertised(NUMBER, (), b"")) == refusals.SHARES_MISSING
    assert ring.tell(0, ring.to_say(0, RoundDealers)) is None
    assert ring.devices[0].take() is None


def test_there_is_no_mask_before_the_dealers_are_known() -> None:
    ring = Ring()
    ring.advertise()
    ring.deal()
    assert all(device.take() is None for device in ring.devices)


def test_a_restart_before_the_mask_draws_other_secrets() -> None:
    ring = Ring()
    ring.advertise()
    before = ring.aggregator.keys[0]
    ring.restart(0)
    after = ring.tell(0, ring.to_say(0, RoundOpened))
    assert isinstance(after, RoundKeys)
    assert len({before.keys[at : at + 32] for at in (0, 32, 64)}) == 3
    pieces = [said.keys[at : at + 32] for said in (before, after) for at in (0, 32, 64)]
    assert len(set(pieces)) == 6


@pytest.mark.parametrize("masked", [False, True])
def test_a_restart_leaves_no_second_mask(*, masked: bool) -> None:
    ring = Ring()
    ring.advertise()
    ring.deal()
    ring.know_dealers()
    if masked:
        ring.upload()
    ring.restart(0)
    assert ring.devices[0].take() is None
    assert ring.tell(0, RoundOpened(ring.roster.hash, NUMBER)) is None
    assert ring.devices[0].take() is None


def test_no_secret_of_a_round_is_ever_stored() -> None:
    ring = Ring()
    ring.advertise()
    part = ring.devices[0]._part
    assert part is not None
    own = part.secrets
    seen: list[bytes] = []
    for step in (ring.deal, ring.know_dealers, ring.upload, ring.sign_outcome, ring.answer):
        step()
        seen += ring.flash[0].values()
    assert seen
    for secret in (own.box_key, own.mask_key, own.self_seed, own.share_seed):
        assert all(secret not in data for data in seen)


def test_after_the_mask_its_secrets_are_gone() -> None:
    ring = Ring()
    ring.until_uploaded()
    assert ring.devices[0]._part is None
    assert ring.devices[0]._seen is None


def test_one_outcome_is_signed_and_no_other_even_after_a_restart() -> None:
    ring = Ring(10)
    ring.until_signed(9)
    other = replace(
        ring.to_say(0, RoundOutcome),
        survivors=tuple(range(8)),
        views=b"".join(ring.aggregator.views[index] for index in range(8)),
    )
    assert refused(ring, 0, other) == refusals.MASK_USED
    ring.restart(0)
    assert refused(ring, 0, other) == refusals.MASK_USED
    assert ring.counts["conflicting_outcomes"] == 2
    said = ring.tell(0, ring.to_say(0, RoundOutcome))
    assert said == RoundSignature(NUMBER, ring.aggregator.signatures[0])


@pytest.mark.parametrize("num_first", range(1, 10))
def test_two_outcomes_never_both_find_a_quorum(num_first: int) -> None:
    """N, t, T = 10, 1, 5: the aggregator shows different ones, and device 0 signs both."""
    ring = Ring(10)
    ring.until_uploaded()
    outcomes = (of_survivors(ring, *range(9)), of_survivors(ring, *range(8), 9))
    signed: list[dict[int, bytes]] = [{}, {}]
    for index in range(1, 10):
        order = outcomes if index <= num_first else outcomes[::-1]
        for outcome in order:
            if index not in outcome.survivors:
                continue
            if index in signed[0] or index in signed[1]:
                assert refused(ring, index, outcome) == refusals.MASK_USED
                continue
            said = ring.tell(index, outcome)
            assert isinstance(said, RoundSignature)
            signed[outcomes.index(outcome)][index] = said.signature
    assert not signed[0].keys() & signed[1].keys()
    quorum = ring.aggregator.round.quorum
    assert sum(len(signatures) + 1 >= quorum for signatures in signed) <= 1


def test_an_answer_never_has_both_shares_of_a_device() -> None:
    ring = Ring(10)
    ring.until_signed(8, 9)
    ring.aggregator.certify()
    kept = ring.devices[0]._kept
    assert kept is not None
    held = kept.held
    said = ring.tell(0, ring.to_say(0, RoundCertificate))
    assert isinstance(said, RoundAnswer)
    for dealer in range(10):
        pair = held[PAIR_BYTES * dealer :][:PAIR_BYTES]
        of_key, of_seed = pair[:36], pair[36:]
        given, kept_back = (of_key, of_seed) if dealer in (8, 9) else (of_seed, of_key)
        assert said.shares[36 * dealer :][:36] == given
        assert kept_back not in said.shares
        assert kept_back not in ring.flash[0][ROUND]


def test_what_was_answered_is_all_that_is_left() -> None:
    ring = Ring()
    ring.until_signed()
    ring.answer()
    ring.restart(0)
    kept = ring.devices[0]._kept
    assert kept is not None
    assert kept.held == b""
    said = ring.tell(0, ring.to_say(0, RoundCertificate))
    assert isinstance(said, RoundAnswer)
    assert said.shares == kept.answer


def test_a_storage_that_is_an_old_copy_masks_nothing_again() -> None:
    ring = Ring()
    ring.advertise()
    ring.deal()
    ring.know_dealers()
    old = dict(ring.flash[0])
    ring.upload()
    ring.flash[0] = old
    ring.restart(0)
    assert ring.devices[0].take() is None


# --- restarts ----------------------------------------------------------------------------------


def test_a_survivor_that_restarts_still_signs_and_answers() -> None:
    ring = Ring(5)
    ring.until_uploaded()
    for index in ring.everybody:
        ring.restart(index)
    ring.sign_outcome()
    for index in ring.everybody:
        ring.restart(index)
    ring.answer()
    np.testing.assert_array_equal(ring.aggregator.unmask(), ring.sum(ring.everybody))


def test_the_next_round_takes_the_place_of_the_one_before() -> None:
    ring = Ring()
    ring.until_uploaded()
    announced = RoundOutcome(NUMBER, tuple(ring.everybody), b"")
    ring.new_round(NUMBER + 1)
    ring.until_signed()
    ring.answer()
    np.testing.assert_array_equal(ring.aggregator.unmask(), ring.sum(ring.everybody))
    assert refused(ring, 0, announced) == refusals.SHARES_MISSING
    assert ring.flash[0].keys() == {ROUND}


def test_a_round_that_has_not_come_so_far_leaves_the_one_before() -> None:
    ring = Ring()
    ring.until_uploaded()
    first = ring.aggregator
    ring.new_round(NUMBER + 1)
    ring.advertise()
    ring.deal()
    ring.aggregator = first
    ring.sign_outcome()
    ring.answer()
    np.testing.assert_array_equal(first.unmask(), ring.sum(ring.everybody))


def test_old_openings_do_not_bring_an_old_round_back() -> None:
    ring = Ring()
    for number in range(MAX_BEGUN):
        assert ring.tell(0, RoundOpened(ring.roster.hash, number)) is not None
    assert all(
        ring.tell(0, RoundOpened(ring.roster.hash, number)) is None
        for number in range(MAX_BEGUN - 1)
    )


# --- what it refuses ---------------------------------------------------------------------------


def test_a_round_of_another_roster_is_refused() -> None:
    ring = Ring()
    assert refused(ring, 0, RoundOpened(bytes(32), 1)) == refusals.WRONG_ROSTER


@pytest.mark.parametrize(
    "message",
    [
        RoundAdvertised(5, (0, 1), b""),
        RoundDealers(5, (0, 1), b""),
        RoundOutcome(5, (0, 1), b""),
        RoundCertificate(5, (0, 1), b""),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_word_of_another_round_is_refused(message: RoundTold) -> None:
    ring = Ring()
    ring.until_uploaded()
    assert refused(ring, 0, message) == refusals.SHARES_MISSING


def with_key(ring: Ring, said: RoundAdvertised, index: int, keys: bytes) -> RoundAdvertised:
    """What is said if one device's keys are others, signed by itself."""
    publics = Publics.from_bytes(keys)
    message = keys_message(ring.aggregator.round, index, publics)
    piece = keys + ring.sign(index, ADVERTISEMENT, message)
    at = 160 * said.members.index(index)
    return replace(said, keys=said.keys[:at] + piece + said.keys[at + 160 :])


ADVERTISED: dict[str, tuple[Callable[[Ring, RoundAdvertised], RoundAdvertised], str]] = {
    "a signature of nobody's": (
        lambda _, said: replace(said, keys=said.keys[:-1] + b"\x7f"),
        refusals.BAD_SIGNATURE,
    ),
    "keys of the aggregator's": (
        lambda _, said: replace(said, keys=bytes(96) + said.keys[96:]),
        refusals.BAD_SIGNATURE,
    ),
    "a byte more": (lambda _, said: replace(said, keys=said.keys + b"x"), refusals.MALFORMED),
    "without us": (
        lambda _, said: replace(said, members=said.members[1:], keys=said.keys[160:]),
        refusals.WRONG_MEMBERS,
    ),
    "with other keys of ours": (
        lambda ring, said: with_key(ring, said, 0, said.keys[160:256]),
        refusals.WRONG_MEMBERS,
    ),
    "too few": (
        lambda _, said: replace(said, members=said.members[:3], keys=said.keys[:480]),
        refusals.WRONG_MEMBERS,
    ),
    "one of them twice": (
        lambda _, said: replace(said, members=(0, *said.members[:-1])),
        refusals.WRONG_MEMBERS,
    ),
    "out of order": (
        lambda _, said: replace(said, members=said.members[::-1]),
        refusals.WRONG_MEMBERS,
    ),
    "one who is no member": (
        lambda _, said: replace(said, members=(*said.members[:-1], 5)),
        refusals.WRONG_MEMBERS,
    ),
}


@pytest.mark.parametrize("name", ADVERTISED)
def test_keys_that_cannot_be_are_refused(name: str) -> None:
    spoil, reason = ADVERTISED[name]
    ring = Ring(5)
    ring.advertise()
    ring.aggregator.deal()
    right = ring.to_say(0, RoundAdvertised)
    assert refused(ring, 0, spoil(ring, right)) == reason
    assert ring.tell(0, right) is not None


def test_a_second_list_of_keys_is_refused() -> None:
    ring = Ring(10)
    ring.advertise()
    ring.deal()
    said = ring.to_say(0, RoundAdvertised)
    other = replace(said, members=said.members[:-1], keys=said.keys[:-160])
    assert refused(ring, 0, other) == refusals.WRONG_MEMBERS


DEALERS: dict[str, tuple[Callable[[RoundDealers], RoundDealers], str]] = {
    "one byte of a box": (
        lambda told: replace(told, sealed=told.sealed[:-1] + b"\x7f"),
        refusals.BAD_SIGNATURE,
    ),
    "two boxes exchanged": (
        lambda told: replace(
            told, sealed=told.sealed[88:176] + told.sealed[:88] + told.sealed[176:]
        ),
        refusals.BAD_SIGNATURE,
    ),
    "a box less": (lambda told: replace(told, sealed=told.sealed[:-88]), refusals.MALFORMED),
    "without us": (
        lambda told: replace(told, dealers=told.dealers[1:]),
        refusals.WRONG_MEMBERS,
    ),
    "too few": (
        lambda told: replace(told, dealers=told.dealers[:5], sealed=told.sealed[: 4 * 88]),
        refusals.WRONG_MEMBERS,
    ),
    "one who did not advertise": (
        lambda told: replace(told, dealers=(*told.dealers, 9)),
        refusals.WRONG_MEMBERS,
    ),
    "out of order": (
        lambda told: replace(told, dealers=told.dealers[::-1]),
        refusals.WRONG_MEMBERS,
    ),
}


@pytest.mark.parametrize("name", DEALERS)
def test_dealers_that_cannot_be_are_refused_and_nothing_is_masked(name: str) -> None:
    spoil, reason = DEALERS[name]
    ring = Ring(10)
    ring.advertise(*range(9))
    ring.deal()
    ring.aggregator.mask()
    right = ring.to_say(0, RoundDealers)
    assert refused(ring, 0, spoil(right)) == reason
    assert ring.devices[0].take() is None
    ring.tell(0, right)
    assert ring.devices[0].take() is not None


def test_a_second_list_of_dealers_is_refused() -> None:
    ring = Ring(10)
    ring.advertise()
    ring.deal()
    ring.know_dealers()
    told = ring.to_say(0, RoundDealers)
    other = replace(told, dealers=told.dealers[:-1], sealed=told.sealed[:-88])
    assert refused(ring, 0, other) == refusals.WRONG_MEMBERS
    ring.restart(0)
    assert refused(ring, 0, other) == refusals.WRONG_MEMBERS


def of_survivors(ring: Ring, *survivors: int) -> RoundOutcome:
    """What is announced if these are the survivors, with their own signatures."""
    views = b"".join(ring.aggregator.views[index] for index in survivors)
    return RoundOutcome(NUMBER, survivors, views)


OUTCOMES: dict[str, tuple[Callable[[Ring], RoundOutcome], str]] = {
    "too few": (lambda ring: of_survivors(ring, 0, 1, 2, 3, 4), refusals.WRONG_MEMBERS),
    "without us": (lambda ring: of_survivors(ring, *range(1, 9)), refusals.WRONG_MEMBERS),
    "one of them twice": (
        lambda ring: of_survivors(ring, 0, 0, 1, 2, 3, 4, 5),
        refusals.WRONG_MEMBERS,
    ),
    "a view signed by another": (
        lambda ring: replace(
            of_survivors(ring, *range(7)),
            views=b"".join(ring.aggregator.views[index] for index in (0, 1, 2, 3, 4, 5, 7)),
        ),
        refusals.BAD_SIGNATURE,
    ),
    "another view than ours": (
        lambda ring: replace(
            of_survivors(ring, *range(7)),
            views=of_survivors(ring, *range(6)).views + ring.sign(6, VIEW, bytes(32)),
        ),
        refusals.BAD_SIGNATURE,
    ),
    "one that did not send": (
        lambda ring: replace(
            of_survivors(ring, *range(8)),
            survivors=(*range(8), 9),
            views=of_survivors(ring, *range(8)).views + bytes(64),
        ),
        refusals.BAD_SIGNATURE,
    ),
    "a signature less": (
        lambda ring: replace(of_survivors(ring, *range(8)), views=bytes(64)),
        refusals.MALFORMED,
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_outcome_that_cannot_be_is_not_signed(name: str) -> None:
    spoil, reason = OUTCOMES[name]
    ring = Ring(10)
    ring.until_uploaded(9)
    assert refused(ring, 0, spoil(ring)) == reason
    assert ring.tell(0, of_survivors(ring, *range(9))) is not None


def test_a_device_that_has_masked_nothing_signs_no_outcome() -> None:
    ring = Ring(10)
    ring.until_uploaded(0)
    views = bytes(64) + b"".join(ring.aggregator.views[index] for index in range(1, 10))
    outcome = RoundOutcome(NUMBER, tuple(range(10)), views)
    assert refused(ring, 0, outcome) == refusals.BAD_SIGNATURE


def certificate(ring: Ring, *signers: int) -> RoundCertificate:
    """What is shown if these have signed."""
    signed = b"".join(ring.aggregator.signatures[index] for index in signers)
    return RoundCertificate(NUMBER, signers, signed)


CERTIFICATES: dict[str, tuple[Callable[[Ring], RoundCertificate], str]] = {
    "too few signers": (lambda ring: certificate(ring, 0, 1, 2, 3, 4), refusals.WRONG_MEMBERS),
    "one of them twice": (
        lambda ring: certificate(ring, 0, 1, 2, 3, 4, 4),
        refusals.WRONG_MEMBERS,
    ),
    "a signature of another's": (
        lambda ring: replace(certificate(ring, *range(6)), signers=(0, 1, 2, 3, 4, 6)),
        refusals.BAD_SIGNATURE,
    ),
    "a signature of another outcome": (
        lambda ring: replace(
            certificate(ring, *range(6)),
            signatures=certificate(ring, *range(5)).signatures + ring.sign(5, OUTCOME, bytes(32)),
        ),
        refusals.BAD_SIGNATURE,
    ),
    "a signer who dropped out": (
        lambda ring: replace(certificate(ring, *range(6)), signers=(0, 1, 2, 3, 4, 9)),
        refusals.WRONG_MEMBERS,
    ),
    "a byte less": (
        lambda ring: replace(certificate(ring, *range(6)), signatures=bytes(63)),
        refusals.MALFORMED,
    ),
}


@pytest.mark.parametrize("name", CERTIFICATES)
def test_without_a_quorum_for_its_outcome_a_device_does_not_answer(name: str) -> None:
    spoil, reason = CERTIFICATES[name]
    ring = Ring(10)
    ring.until_signed(9)
    assert refused(ring, 0, spoil(ring)) == reason
    assert ring.tell(0, certificate(ring, *range(6))) is not None


def test_a_device_that_has_signed_nothing_does_not_answer() -> None:
    ring = Ring(10)
    ring.until_uploaded()
    ring.sign_outcome(*range(1, 10))
    assert refused(ring, 0, certificate(ring, *range(1, 8))) == refusals.WRONG_MEMBERS
