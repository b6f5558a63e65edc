"""The aggregator gets the exact sum of the survivors' values or nothing, and no secret twice."""

import contextlib
import json
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.bindings import randombytes_buf_deterministic

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secagg import keys, pairwise, pairwise_keys
from protocol.secagg.field import Q31
from protocol.secagg.pairwise import Outcome
from protocol.secagg.pairwise_keys import PAIR_BYTES, Part, Publics, Round
from protocol.secagg.shamir import SHARE_BYTES
from protocol.secagg.shares import RecoveryError
from protocol.stream import derive
from tests.support.pairwise import SEED, World, identity, parameters, roster, world
from tests.vectors import make_pairwise

#: N, t, U. With three devices and one of them malicious nobody may drop out.
COHORTS = ((3, 1, 3), (10, 1, 7), (50, 5, 35), (100, 10, 70))
TEN = world(10, 1, 7)
HUNDRED = world(100, 10, 70)
STAGES = ("before dealing", "before uploading", "before answering", "at every stage")


def unmasked(world: World, outcome: Outcome, num_absent: int = 0) -> npt.NDArray[np.int64]:
    total, answers = world.total(outcome), world.answers(outcome, num_absent)
    return pairwise.unmask(world.round, world.publics, outcome, total, answers)


def refused(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(RemoteProtocolError, match=f"^{reason}: ")


@pytest.mark.parametrize(
    ("cohort", "percent", "stage"),
    [
        *((cohort, 0, STAGES[0]) for cohort in COHORTS),
        *((cohort, 30, stage) for cohort in COHORTS[1:3] for stage in STAGES),
        (COHORTS[1], 10, STAGES[2]),
        (COHORTS[2], 10, STAGES[3]),
        (COHORTS[3], 30, STAGES[3]),
    ],
)
def test_the_sum_is_exact(cohort: tuple[int, int, int], percent: int, stage: str) -> None:
    num_devices = cohort[0]
    num_dropped = num_devices * percent // 100
    gone = [num_dropped if stage == name else 0 for name in STAGES[:3]]
    if stage == STAGES[3]:
        gone = [(num_dropped + place) // 3 for place in range(3)]
    at = world(*cohort, num_absent=gone[0])
    outcome = at.outcome(*range(num_devices - gone[1], num_devices))
    pairwise.check_outcome(at.part(outcome.survivors[-1]), outcome, at.views(outcome))
    assert np.array_equal(unmasked(at, outcome, gone[2]), at.sum(outcome))


@settings(deadline=None, max_examples=25)
@given(st.sets(st.integers(0, 9), max_size=5), st.integers(0, 6))
def test_there_is_the_exact_sum_or_none(dropped: set[int], num_silent: int) -> None:
    outcome = TEN.outcome(*dropped)
    num_answers = len(outcome.survivors) - num_silent
    quorum_missing = len(outcome.survivors) < TEN.round.quorum
    if quorum_missing:
        with refused(refusals.WRONG_MEMBERS):
            TEN.answers(outcome)
    elif num_answers < TEN.round.graph.threshold:
        with pytest.raises(RecoveryError):
            unmasked(TEN, outcome, num_silent)
    else:
        assert np.array_equal(unmasked(TEN, outcome, num_silent), TEN.sum(outcome))


def test_three_devices_can_lose_one_where_nobody_is_malicious() -> None:
    at = world(3, 0, 2)
    for gone in at.dealers:
        outcome = at.outcome(gone)
        assert np.array_equal(unmasked(at, outcome), at.sum(outcome))


def test_more_updates_than_cannot_overflow_are_not_unmasked() -> None:
    strict = replace(TEN.round.roster.parameters, max_contributors=8)
    at = World(Round(roster(strict), 1), TEN.dealers)
    for outcome, check in (
        (at.outcome(8, 9), contextlib.nullcontext()),
        (at.outcome(9), pytest.raises(LocalProtocolError)),
    ):
        with check:
            assert np.array_equal(unmasked(at, outcome), at.sum(outcome))


@pytest.mark.parametrize("sign", [-1, 1])
def test_nothing_overflows_at_the_limit(sign: int) -> None:
    given = TEN.round.roster.parameters
    values = np.full(given.size, sign * given.limit, np.int64)
    total = np.zeros(given.size, np.uint32)
    for index in TEN.dealers:
        pairwise.add(total, pairwise.mask(TEN.part(index), TEN.publics, TEN.view, values))
    outcome = TEN.outcome()
    result = pairwise.unmask(TEN.round, TEN.publics, outcome, total, TEN.answers(outcome))
    assert np.array_equal(result, values * 10)


@pytest.mark.parametrize("value", [1, -1, None])
def test_values_beyond_the_limit_are_not_masked(value: int | None) -> None:
    given = TEN.round.roster.parameters
    values = np.zeros(given.size, np.int64)
    values[3] = np.iinfo(np.int64).min if value is None else value * (given.limit + 1)
    for wrong in (values, values[:-1] * 0):
        with pytest.raises(LocalProtocolError):
            pairwise.mask(TEN.part(0), TEN.publics, TEN.view, wrong)


# --- the slow way ---------------------------------------------------------------------------------


def slow_words(seed: bytes, size: int) -> list[int]:
    """A mask, as the specification spells it."""
    pages = -(-size // pairwise.PAGE_WORDS)
    data = b"".join(
        randombytes_buf_deterministic(4 * pairwise.PAGE_WORDS, derive(seed, page))
        for page in range(pages)
    )
    return [int.from_bytes(data[4 * at : 4 * at + 4], "little") for at in range(size)]


def slow_mask(at: World, index: int, values: npt.NDArray[np.int64]) -> bytes:
    part = at.part(index)
    size = values.size
    total = [int(value) for value in values]
    masks = [(1, part.secrets.self_seed)]
    for other in at.dealers:
        if other != index and other in at.round.graph.holders(index):
            low, high = sorted((index, other))
            context = ("pairwise", "mask", *at.round.context, low, high)
            public = at.publics[other].mask_key
            sign = 1 if index < other else -1
            masks.append((sign, keys.agree(part.secrets.mask_key, public, *context)))
    for sign, seed in masks:
        total = [
            have + sign * word for have, word in zip(total, slow_words(seed, size), strict=True)
        ]
    return b"".join((number % (1 << 32)).to_bytes(4, "little") for number in total)


@pytest.mark.parametrize("size", [2, 40, pairwise.PAGE_WORDS + 1])
def test_masks_are_what_the_slow_way_makes(size: int) -> None:
    at = World(Round(roster(parameters(4, 1, 3, size=size)), 1), (0, 1, 2, 3))
    for index in (0, 2):
        body = pairwise.mask(at.part(index), at.publics, at.view, at.values(index))
        assert body == slow_mask(at, index, at.values(index))


def test_the_slow_way_agrees_on_a_sparse_graph() -> None:
    assert HUNDRED.round.graph.degree == 38
    assert HUNDRED.body(7) == slow_mask(HUNDRED, 7, HUNDRED.values(7))


# --- keys and shares ------------------------------------------------------------------------------


def test_both_ends_agree_and_nobody_else() -> None:
    one, two = TEN.part(1), TEN.part(2)
    seeds = {
        pairwise_keys.pair_seed(TEN.round, 1, one.secrets.mask_key, 2, TEN.publics[2]),
        pairwise_keys.pair_seed(TEN.round, 2, two.secrets.mask_key, 1, TEN.publics[1]),
    }
    assert len(seeds) == 1


def test_seeds_differ_by_all_they_are_for() -> None:
    secret, public = TEN.part(1).secrets.mask_key, TEN.publics[2].mask_key
    other_task = Round(replace(TEN.round.roster, task="other"), 1)
    other_epoch = Round(replace(TEN.round.roster, epoch=2), 1)
    seeds = [
        pairwise_keys.agree(where, secret, public, purpose, pair)
        for where in (TEN.round, Round(TEN.round.roster, 2), other_task, other_epoch)
        for purpose in ("mask", "box")
        for pair in ((1, 2), (2, 1), (1, 3))
    ]
    assert len(set(seeds)) == len(seeds) == 24


def test_secrets_of_a_round_are_unrelated() -> None:
    secrets = pairwise_keys.make_keys(SEED)
    again = pairwise_keys.make_keys(derive(SEED, "next"))
    every = [getattr(which, name) for which in (secrets, again) for name in secrets.__slots__]
    assert len(set(every)) == 8


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31), b"short", b""])
def test_keys_that_no_honest_device_has_are_refused(public: bytes) -> None:
    with refused(refusals.MALFORMED):
        pairwise_keys.agree(TEN.round, TEN.part(0).secrets.mask_key, public, "mask", (0, 1))


def test_sealed_shares_open_where_they_belong_and_nowhere_else() -> None:
    dealer, holder = TEN.part(1), TEN.part(2)
    pair = TEN.held[2][1]
    sealed = pairwise_keys.seal(dealer, 2, TEN.publics[2], pair)
    assert pair not in sealed
    assert pairwise_keys.open_sealed(holder, 1, TEN.publics[1], sealed) == pair
    later = Part(Round(TEN.round.roster, 2), 2, holder.secrets)
    for part, origin in ((TEN.part(3), 1), (holder, 3), (later, 1)):
        with refused(refusals.BAD_SIGNATURE):
            pairwise_keys.open_sealed(part, origin, TEN.publics[origin], sealed)
    for garbage in (b"", sealed[:-1], sealed + b"\0", bytes(len(sealed))):
        with refused(refusals.BAD_SIGNATURE):
            pairwise_keys.open_sealed(holder, 1, TEN.publics[1], garbage)


@pytest.mark.parametrize("pair", [b"", bytes(PAIR_BYTES - 1), Q31.to_bytes(4, "little") * 18])
def test_sealed_garbage_is_malformed(pair: bytes) -> None:
    sealed = pairwise_keys.seal(TEN.part(1), 2, TEN.publics[2], pair)
    with refused(refusals.MALFORMED):
        pairwise_keys.open_sealed(TEN.part(2), 1, TEN.publics[1], sealed)


def test_a_round_can_be_continued_from_its_seed_alone() -> None:
    assert pairwise_keys.make_shares(TEN.part(4)) == pairwise_keys.make_shares(TEN.part(4))
    assert TEN.body(4) == TEN.body(4)


def test_an_advertisement_is_for_one_round_and_device() -> None:
    messages = {
        pairwise_keys.keys_message(where, device, TEN.publics[device_keys])
        for where in (TEN.round, Round(TEN.round.roster, 2))
        for device in (1, 2)
        for device_keys in (1, 2)
    }
    assert len(messages) == 8


# --- what an aggregator that lies may try ---------------------------------------------------------


def test_an_answer_has_one_share_of_each_dealer() -> None:
    outcome = TEN.outcome(2, 5)
    answer = TEN.answer(0, outcome, TEN.signatures(outcome))
    parts = [answer[at : at + SHARE_BYTES] for at in range(0, len(answer), SHARE_BYTES)]
    for dealer, part in zip(TEN.dealers, parts, strict=True):
        of_key, of_seed = TEN.held[0][dealer][:SHARE_BYTES], TEN.held[0][dealer][SHARE_BYTES:]
        assert part == (of_key if dealer in (2, 5) else of_seed)


@pytest.mark.parametrize(
    "survivors",
    [
        (0, 1, 2, 3, 4, 5, 6, 6),
        (0, 0, 1, 2, 3, 4, 5, 6),
        (0, 1, 2, 3, 4, 5, 7, 6),
        (0, 1, 2, 3, 4, 5, 10),
        (-1, 0, 1, 2, 3, 4, 5),
        (1, 2, 3, 4, 5, 6, 7),
        (),
    ],
)
def test_no_survivor_is_there_twice_or_from_nowhere(survivors: tuple[int, ...]) -> None:
    honest, outcome = TEN.outcome(), Outcome(TEN.view, survivors)
    with refused(refusals.WRONG_MEMBERS):
        pairwise.check_outcome(TEN.part(0), outcome, TEN.views(honest))
    with refused(refusals.WRONG_MEMBERS):
        TEN.answer(0, outcome, TEN.signatures(honest))


@given(st.sets(st.integers(0, 9)))
def test_no_device_survived_and_dropped(survivors: set[int]) -> None:
    outcome = Outcome(TEN.view, tuple(sorted(survivors)))
    assert sorted(outcome.survivors + outcome.dropped) == list(TEN.dealers)


def test_an_answer_needs_a_quorum_of_survivors() -> None:
    outcome = TEN.outcome(9)
    signatures = TEN.signatures(outcome, num_absent=3)
    assert len(signatures) == TEN.round.quorum
    TEN.answer(0, outcome, signatures)
    too_few = {index: signatures[index] for index in list(signatures)[1:]}
    with refused(refusals.WRONG_MEMBERS):
        TEN.answer(0, outcome, too_few)
    of_a_dropout = {9: keys.sign(identity(9), pairwise.OUTCOME, outcome.message)}
    with refused(refusals.WRONG_MEMBERS):
        TEN.answer(0, outcome, too_few | of_a_dropout)
    for forged in (signatures[0], bytes(64), b""):
        with refused(refusals.BAD_SIGNATURE):
            TEN.answer(0, outcome, signatures | {5: forged})


def test_signatures_of_one_outcome_are_none_of_another() -> None:
    told = TEN.outcome(8)
    for asked in (TEN.outcome(9), TEN.outcome(), TEN.outcome(7, 8)):
        signatures = {
            index: signature
            for index, signature in TEN.signatures(told).items()
            if index in asked.survivors
        }
        with refused(refusals.BAD_SIGNATURE):
            TEN.answer(0, asked, signatures)


@pytest.mark.parametrize("cohort", COHORTS)
def test_no_two_outcomes_can_both_have_a_quorum(cohort: tuple[int, int, int]) -> None:
    """Honest devices sign one, malicious ones both."""
    num_devices, num_malicious, _ = cohort
    assert 2 * world(*cohort).round.quorum > num_devices + num_malicious


def test_too_few_survivors_are_refused() -> None:
    for num_dropped, enough in ((4, True), (5, False)):
        outcome = TEN.outcome(*range(10 - num_dropped, 10))
        assert (len(outcome.survivors) >= TEN.round.quorum) is enough
        check = contextlib.nullcontext() if enough else refused(refusals.WRONG_MEMBERS)
        with check:
            pairwise.check_outcome(TEN.part(0), outcome, TEN.views(outcome))


def test_min_contributors_bind_beyond_the_quorum() -> None:
    strict = replace(TEN.round.roster.parameters, min_contributors=9)
    at = World(Round(roster(strict), 1), TEN.dealers)
    nine, eight = at.outcome(9), at.outcome(8, 9)
    pairwise.check_outcome(at.part(0), nine, at.views(nine))
    with refused(refusals.WRONG_MEMBERS):
        pairwise.check_outcome(at.part(0), eight, at.views(eight))


def test_a_dropout_does_not_sign() -> None:
    outcome = TEN.outcome(3)
    with refused(refusals.WRONG_MEMBERS):
        pairwise.check_outcome(TEN.part(3), outcome, TEN.views(outcome))


def test_a_survivor_with_another_view_is_noticed_by_all() -> None:
    """Told of few dealers, a device masks with few: the others must not open its self mask."""
    outcome = TEN.outcome()
    other_view = pairwise.view(TEN.round, TEN.publics, (0, 1, 2, 3, 4, 5))
    swapped = {**TEN.publics, 3: TEN.publics[4]}
    for view in (other_view, pairwise.view(TEN.round, swapped, TEN.dealers)):
        views = TEN.views(outcome) | {5: keys.sign(identity(5), pairwise.VIEW, view.message)}
        with refused(refusals.BAD_SIGNATURE):
            pairwise.check_outcome(TEN.part(0), outcome, views)
    missing = {index: view for index, view in TEN.views(outcome).items() if index != 5}
    with refused(refusals.BAD_SIGNATURE):
        pairwise.check_outcome(TEN.part(0), outcome, missing)


@pytest.mark.parametrize("dealers", [(0, 1, 2, 3, 4), (0, 2, 1, 3, 4, 5), (0,) * 7, (5, 10)])
def test_dealers_that_cannot_be_are_refused(dealers: tuple[int, ...]) -> None:
    with refused(refusals.WRONG_MEMBERS):
        pairwise.view(TEN.round, TEN.publics, dealers)


def test_who_did_not_deal_does_not_mask() -> None:
    seen = pairwise.view(TEN.round, TEN.publics, (1, 2, 3, 4, 5, 6))
    with refused(refusals.WRONG_MEMBERS):
        pairwise.mask(TEN.part(0), TEN.publics, seen, TEN.values(0))


def parted() -> tuple[tuple[int, ...], Outcome]:
    """A few neighbours in the ring, and an outcome in which all around them have dropped out."""
    ring, half = HUNDRED.round.graph.ring, HUNDRED.round.graph.degree // 2
    few, dropped = ring[half : half + 13], ring[:half] + ring[half + 13 : 2 * half + 13]
    return few, HUNDRED.outcome(*dropped)


def test_parting_the_survivors_is_refused() -> None:
    _, outcome = parted()
    assert len(outcome.survivors) >= HUNDRED.round.quorum
    with refused(refusals.WRONG_MEMBERS):
        pairwise.check_outcome(HUNDRED.part(outcome.survivors[0]), outcome, HUNDRED.views(outcome))


def test_without_that_check_the_sum_of_a_few_was_laid_open() -> None:
    """Positive control: everybody signs and answers without `check_outcome`."""
    few, outcome = parted()
    at, secrets = HUNDRED.round, pairwise._rebuild(HUNDRED.round, outcome, HUNDRED.answers(outcome))
    left = np.zeros(at.roster.parameters.size, np.uint32)
    for one in few:
        pairwise.add(left, HUNDRED.body(one))
        pairwise._add_mask(left, secrets[one], np.subtract)
        for gone in set(outcome.dropped) & set(at.graph.holders(one)):
            public = HUNDRED.publics[one]
            seed = pairwise_keys.pair_seed(at, gone, secrets[gone], one, public)
            pairwise._add_mask(left, seed, np.subtract if one < gone else np.add)
    assert np.array_equal(left.view(np.int32), sum(HUNDRED.values(one) for one in few))


def test_a_holder_without_the_shares_says_so() -> None:
    outcome = TEN.outcome(1)
    held = {dealer: pair for dealer, pair in TEN.held[0].items() if dealer != 4}
    with refused(refusals.SHARES_MISSING):
        pairwise.unmask_answer(TEN.part(0), held, outcome, TEN.signatures(outcome))


# --- what a device that lies may try --------------------------------------------------------------


def test_fewer_answers_than_the_threshold_raise() -> None:
    for at in (TEN, HUNDRED):
        outcome = at.outcome(1)
        num_absent = len(outcome.survivors) - at.round.graph.threshold + 1
        with pytest.raises(RecoveryError):
            unmasked(at, outcome, num_absent)


def test_a_wrong_answer_is_put_right_with_two_to_spare() -> None:
    outcome = TEN.outcome(1, 7)
    answers = TEN.answers(outcome)
    assert len(answers) == TEN.round.graph.threshold + 2
    answers[4] = (answers[4] + 1) % Q31
    result = pairwise.unmask(TEN.round, TEN.publics, outcome, TEN.total(outcome), answers)
    assert np.array_equal(result, TEN.sum(outcome))


@pytest.mark.parametrize("num_spare", [0, 1])
def test_a_wrong_answer_is_never_taken(num_spare: int) -> None:
    outcome = TEN.outcome(1, 7)
    answers = TEN.answers(outcome, 2 - num_spare)
    answers[4][5, 0] ^= 1
    with pytest.raises(RecoveryError, match="inconsistent"):
        pairwise.unmask(TEN.round, TEN.publics, outcome, TEN.total(outcome), answers)


@pytest.mark.parametrize("liar", [2, 7])
def test_a_dealer_whose_shares_are_not_what_it_advertised_is_noticed(liar: int) -> None:
    """As a survivor (2) and as a dropout (7)."""
    outcome = TEN.outcome(7)
    publics = TEN.publics | {liar: replace(TEN.publics[3], box_key=TEN.publics[liar].box_key)}
    with pytest.raises(RecoveryError, match=f"device {liar}"):
        pairwise.unmask(TEN.round, publics, outcome, TEN.total(outcome), TEN.answers(outcome))


@given(st.binary(max_size=800))
def test_garbage_is_refused(data: bytes) -> None:
    outcome = TEN.outcome(1)
    with refused(refusals.WRONG_SHAPE):
        pairwise.add(np.zeros(401, np.uint32), data)
    with contextlib.suppress(RemoteProtocolError):
        assert pairwise.read_answer(TEN.round, 0, outcome, data).shape == (10, 9)


def test_answers_of_others_and_of_other_lengths_are_refused() -> None:
    outcome = TEN.outcome(1)
    answer = TEN.answer(0, outcome, TEN.signatures(outcome))
    with refused(refusals.WRONG_MEMBERS):
        pairwise.read_answer(TEN.round, 1, outcome, answer)
    for wrong in (b"", answer[:-1], answer + b"\0", answer[:-4] + b"\xff" * 4):
        with refused(refusals.MALFORMED):
            pairwise.read_answer(TEN.round, 0, outcome, wrong)


def test_publics_are_96_bytes() -> None:
    assert len(Publics(bytes(32), bytes(32), bytes(32)).to_bytes()) == 96


# --- frozen bytes ---------------------------------------------------------------------------------

VECTORS: list[dict[str, Any]] = json.loads(make_pairwise.PATH.read_text(encoding="utf-8"))


def test_vectors_are_frozen() -> None:
    """If this fails, devices of two versions no longer cancel each other's masks."""
    assert make_pairwise.text() == make_pairwise.PATH.read_text(encoding="utf-8")


def test_the_vectors_sum_up() -> None:
    by_name = {vector["name"]: vector for vector in VECTORS}
    expected = np.sum([by_name[f"body {index}"]["input"]["values"] for index in range(3)], axis=0)
    found = np.frombuffer(bytes.fromhex(by_name["sum"]["bytes"]), "<i8")
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS if "answer" in vector["name"]], ids=lambda v: v["name"]
)
def test_answers_are_read_or_refused_as_the_vectors_say(vector: dict[str, Any]) -> None:
    given = vector["input"]
    holder = given["holder"] if "holder" in given else int(vector["name"].split()[-1])
    outcome = Outcome(make_pairwise.WORLD.view, tuple(given["survivors"]))
    check = contextlib.nullcontext() if vector["expect"] == "ok" else refused(vector["expect"])
    with check:
        pairwise.read_answer(
            make_pairwise.WORLD.round, holder, outcome, bytes.fromhex(vector["bytes"])
        )
