"""Recovery requests: what a holder may answer, checked from the request and the roster alone."""

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.codec import encode, pack
from protocol.errors import RemoteProtocolError
from protocol.identity import ENVELOPE
from protocol.messages import AGGREGATOR, CHUNK_BYTES, MAX_COHORT
from protocol.secagg import keys
from protocol.secagg.messages import RecoveryRequest
from protocol.secagg.requests import _Body, check_request, make_request, request_hash
from tests.support.enrolment import cohort
from tests.support.messages import of_class

DEVICES = tuple("abcdefghij")
COHORT = cohort(DEVICES, min_contributors=4, max_contributors=8)
ROSTER = COHORT.roster
MASKS = {0: 7, 3: 1, 4: (1 << 63) - 1, 9: 0}
REQUEST = make_request(ROSTER, MASKS, COHORT.aggregator)


def asked(**changes: object) -> RecoveryRequest:
    """Return a request signed by the aggregator, with fields of any value."""
    fields: dict[str, object] = {
        "task": "t",
        "roster_hash": ROSTER.hash,
        "epoch": 1,
        "members": [0, 3, 4, 9],
        "counters": [7, 1, (1 << 63) - 1, 0],
        "weights": [1, 1, 1, 1],
    }
    return signed(msgpack.packb(list({**fields, **changes}.values())))


def signed(body: bytes) -> RecoveryRequest:
    return RecoveryRequest(body, keys.sign(COHORT.aggregator, keys.REQUEST, body))


def reason(request: RecoveryRequest) -> str:
    with pytest.raises(RemoteProtocolError) as refused:
        check_request(request, ROSTER)
    return refused.value.reason


@given(st.dictionaries(st.integers(0, 9), st.integers(0, (1 << 63) - 1), min_size=4, max_size=8))
def test_a_holder_reads_which_masks_are_asked_for(masks: Mapping[int, int]) -> None:
    assert check_request(make_request(ROSTER, masks, COHORT.aggregator), ROSTER) == masks


def test_the_fields_spelled_here_are_those_of_a_request() -> None:
    assert asked() == REQUEST


def test_the_order_in_which_masks_were_named_makes_no_other_request() -> None:
    backwards = dict(reversed(MASKS.items()))
    assert make_request(ROSTER, backwards, COHORT.aggregator) == REQUEST


@pytest.mark.parametrize("num_members", [0, 1, 3, 9, 10])
def test_too_few_members_and_too_many_are_refused(num_members: int) -> None:
    masks = dict.fromkeys(range(num_members), 1)
    assert reason(make_request(ROSTER, masks, COHORT.aggregator)) == refusals.WRONG_MEMBERS


@pytest.mark.parametrize(
    "changes",
    [
        {"members": [3, 0, 4, 9]},
        {"members": [0, 0, 4, 9]},
        {"members": [0, 3, 3, 3]},
        {"members": [0, 3, 4, 10]},
        {"members": [0, 3, 4, 127]},
        {"members": [0, 3, 4]},
        {"members": [0, 3, 4, 8, 9]},
        {"counters": [7, 1, 2]},
        {"counters": [7, 1, 2, 3, 4]},
        {"weights": [1, 1, 1]},
        {"weights": [1, 1, 1, 1, 1]},
        {"weights": [1, 1, 1, 0]},
        {"weights": [1, 1, 1, 2]},
        {"weights": [1, 1, 1, -1]},
        {"weights": [1000, 1, 1, 1]},
        {"weights": []},
        {"members": [], "counters": [], "weights": []},
    ],
)
def test_members_out_of_order_twice_unknown_or_weighted_are_refused(
    changes: dict[str, object],
) -> None:
    assert reason(asked(**changes)) == refusals.WRONG_MEMBERS


@pytest.mark.parametrize(
    "changes", [{"task": "u"}, {"roster_hash": bytes(32)}, {"epoch": 2}, {"epoch": 1 << 31}]
)
def test_a_request_for_another_roster_is_refused(changes: dict[str, object]) -> None:
    assert reason(asked(**changes)) == refusals.WRONG_ROSTER


@pytest.mark.parametrize(
    "changes",
    [
        {"members": [0, 3, 4, 128]},
        {"members": [-1, 3, 4, 9]},
        {"members": [False, 3, 4, 9]},
        {"members": "abcd"},
        {"counters": [7, 1, 1 << 63, 0]},
        {"counters": [7, 1, -1, 0]},
        {"weights": [1, 1, 1, 1.0]},
        {"weights": [1, 1, 1, True]},
        {"epoch": 0},
        {"roster_hash": bytes(31)},
        {"group": -1},
        {"group": 129},
        {"group": 0, "more": 1},
    ],
)
def test_a_request_outside_its_limits_is_malformed(changes: dict[str, object]) -> None:
    assert reason(asked(**changes)) == refusals.MALFORMED


def test_the_aggregator_alone_asks() -> None:
    for secret in (COHORT.identity("a"), bytes(32)):
        assert reason(make_request(ROSTER, MASKS, secret)) == refusals.BAD_SIGNATURE


def test_a_signature_for_another_purpose_is_none() -> None:
    for purpose in (ENVELOPE, keys.EPOCH_KEY, keys.SHARES, keys.ROSTER):
        signature = keys.sign(COHORT.aggregator, purpose, REQUEST.body)
        assert reason(replace(REQUEST, signature=signature)) == refusals.BAD_SIGNATURE


def test_a_request_of_one_epoch_is_none_of_the_next() -> None:
    later = cohort(DEVICES, epoch=2, min_contributors=4, max_contributors=8).roster
    with pytest.raises(RemoteProtocolError) as refused:
        check_request(REQUEST, later)
    assert refused.value.reason == refusals.WRONG_ROSTER


@given(st.data())
def test_no_byte_of_a_request_can_be_changed(data: Any) -> None:
    field = data.draw(st.sampled_from(("body", "signature")))
    raw = bytearray(getattr(REQUEST, field))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert reason(replace(REQUEST, **{field: bytes(raw)})) == refusals.BAD_SIGNATURE


def test_requests_are_told_apart_by_what_they_ask_for() -> None:
    others = [
        make_request(ROSTER, {**MASKS, 0: 8}, COHORT.aggregator),
        make_request(ROSTER, {**MASKS, 1: 7}, COHORT.aggregator),
        asked(epoch=2),
        asked(weights=[1, 1, 1, 2]),
    ]
    assert len({request_hash(request) for request in (REQUEST, *others)}) == 5
    assert request_hash(replace(REQUEST, signature=bytes(64))) == request_hash(REQUEST)


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_raises_nothing_else(body: bytes) -> None:
    assert reason(signed(body)) == refusals.MALFORMED
    assert reason(RecoveryRequest(body, bytes(64))) == refusals.BAD_SIGNATURE


@given(of_class(_Body), st.booleans())
def test_any_signed_request_is_answered_or_refused(body: _Body, ours: bool) -> None:  # noqa: FBT001
    if ours:
        body = replace(body, task="t", roster_hash=ROSTER.hash, epoch=1)
    with contextlib.suppress(RemoteProtocolError):
        check_request(signed(pack(body)), ROSTER)


def test_the_largest_request_fits_a_packet() -> None:
    largest = cohort([f"device-{number:03}" for number in range(MAX_COHORT)])
    masks = dict.fromkeys(range(MAX_COHORT), (1 << 63) - 1)
    request = make_request(largest.roster, masks, largest.aggregator)
    data = encode(request, task="t" * 64, sender=AGGREGATOR, counter=1)
    assert len(data) < CHUNK_BYTES
    assert check_request(request, largest.roster) == masks
