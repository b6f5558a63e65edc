"""Rounds of `pairwise` at the aggregator: from leases to a version, whatever happens between."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.monitor.status import rounds_report
from aggregator.pairwise import PATIENCE
from aggregator.pairwise_round import Stage
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from protocol import refusals
from protocol.errors import ConfigError
from protocol.messages import Held
from protocol.secagg import keys
from protocol.secagg.messages import AnyMessage as Message
from protocol.secagg.messages import (
    RoundAdvertised,
    RoundAnswer,
    RoundDealers,
    RoundKeys,
    RoundOpened,
    RoundOutcome,
    RoundShares,
    RoundSignature,
)
from protocol.secagg.pairwise import OUTCOME
from protocol.secagg.pairwise_keys import ADVERTISEMENT, Publics, keys_message
from tests.support.round_desk import DEADLINE_S, NAMES, RoundDesk
from tests.support.secure_desk import enrol, secure_task

pytestmark = pytest.mark.usefixtures("remembered_crypto")

MakeRounds = Callable[..., RoundDesk]
SOON_S = PATIENCE * DEADLINE_S


@pytest.fixture
def make_rounds(tmp_path: Path) -> Iterator[MakeRounds]:
    """Return a function that opens a desk; arguments as `RoundDesk`."""
    desks: list[RoundDesk] = []

    def make(*arguments: Any, **settings: Any) -> RoundDesk:
        desks.append(RoundDesk(tmp_path / f"rounds-{len(desks)}", *arguments, **settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


def finish(desk: RoundDesk, *names: str) -> None:
    """Survivors sign, and answer."""
    for _ in range(2):
        desk.relay(*names)
        desk.wait(0.0)


def step_is_mean(desk: RoundDesk, ids: list[bytes]) -> None:
    """The first version is, bit for bit, the exact mean."""
    assert desk.version == 1
    first = desk.desk.store.params(0)
    assert first is not None
    before = np.frombuffer(first, "<f4")
    given = desk.cohort.roster.parameters
    total = np.sum([desk.elements[lease_id] for lease_id in ids], axis=0)
    mean = total[:-1] / (given.scale * given.weight_of(int(total[-1])))
    np.testing.assert_array_equal(desk.desk.params, (before + mean).astype(np.float32))


# --- sums --------------------------------------------------------------------------------------


def test_a_round_becomes_the_exact_mean(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    ids = desk.upload()
    assert desk.version == 0
    finish(desk)
    step_is_mean(desk, ids)
    assert desk.stored is None


def test_the_mean_is_weighted_by_samples_that_nobody_says_openly(make_rounds: MakeRounds) -> None:
    desk = make_rounds(weigh_by_samples=True)
    desk.open()
    desk.deal()
    ids = [*desk.upload("a", num_samples=60), *desk.upload(*NAMES[1:], num_samples=5)]
    finish(desk)
    step_is_mean(desk, ids)
    moved = desk.desk.step
    assert np.abs(moved - desk.delta_of("a")).max() < np.abs(moved - desk.delta_of("b")).max()


def test_with_drawn_coordinates_only_these_move(make_rounds: MakeRounds) -> None:
    desk = make_rounds(support="randk-0.5")
    desk.open()
    desk.deal()
    ids = desk.upload()
    finish(desk)
    moved = desk.desk.step
    assert np.count_nonzero(moved) == 3
    np.testing.assert_allclose(moved[moved != 0], 2 * desk.mean(ids), rtol=1e-6)


def test_an_update_for_other_coordinates_is_refused(make_rounds: MakeRounds) -> None:
    desk = make_rounds(support="randk-0.5")
    desk.open()
    desk.deal()
    desk.send("a", replace(desk.update("a"), support=5))
    assert desk.refused("a") == refusals.STALE_SUPPORT


def test_rounds_follow_each_other_and_no_number_comes_twice(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    numbers = set()
    for version in range(1, 4):
        desk.open()
        numbers.add(desk.round.number)
        desk.deal()
        desk.upload()
        finish(desk)
        assert desk.version == version
    assert len(numbers) == 3


# --- dropouts ----------------------------------------------------------------------------------


def test_whoever_drops_out_at_any_stage_the_survivors_count(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.relay(*NAMES[:7])
    desk.wait(SOON_S)
    desk.relay(*NAMES[:6])
    desk.wait(SOON_S)
    desk.relay(*NAMES[:6])
    ids = desk.upload(*NAMES[:5])
    desk.wait(DEADLINE_S)
    assert desk.round.stage is Stage.SIGNATURES
    finish(desk, *NAMES[:5])
    step_is_mean(desk, ids)


def test_a_round_does_not_wait_for_those_who_cannot_join(make_rounds: MakeRounds) -> None:
    desk = make_rounds(rounds=Rounds(size=6, over_selection=1.3, quorum=5, deadline_s=DEADLINE_S))
    desk.open()
    desk.relay(*NAMES[:6])
    desk.wait(SOON_S)
    desk.deal(*NAMES[:6])
    ids = desk.upload(*NAMES[:6])
    finish(desk, *NAMES[:6])
    step_is_mean(desk, ids)


def test_without_enough_keys_nothing_begins_and_it_says_so(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.relay("a", "b", "c", "d")
    desk.wait(3 * DEADLINE_S)
    assert desk.coordinator.waiting_for(desk.desk.now) == "the keys of 4 devices of the round"
    desk.relay("e")
    assert desk.round.stage is Stage.SHARES


def test_without_enough_shares_a_new_round_is_tried(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.relay()
    first = desk.round.number
    desk.relay("a", "b", "c", "d")
    desk.wait(SOON_S)
    assert desk.round.number != first
    assert desk.round.stage is Stage.KEYS
    desk.deal()
    desk.deal()
    ids = desk.upload()
    finish(desk)
    step_is_mean(desk, ids)


@pytest.mark.parametrize("stage", [Stage.UPDATES, Stage.SIGNATURES, Stage.ANSWERS])
def test_a_round_without_enough_at_its_deadline_is_given_up_durably(
    make_rounds: MakeRounds, stage: Stage
) -> None:
    desk = make_rounds()
    leases = desk.open()
    desk.deal()
    first = desk.round.number
    desk.upload(*(NAMES[:4] if stage is Stage.UPDATES else NAMES[:7]))
    if stage is not Stage.UPDATES:
        desk.wait(DEADLINE_S)
    if stage is Stage.SIGNATURES:
        desk.relay(*NAMES[:4])
    if stage is Stage.ANSWERS:
        desk.relay(*NAMES[:5])
        desk.wait(0.0)
        desk.relay(*NAMES[:4])
    assert desk.round.stage is stage
    desk.wait(DEADLINE_S)
    assert desk.version == 0
    assert desk.refused("a") == refusals.RECOVERY_FAILED
    assert desk.stored is None
    assert desk.round.number != first, "whoever still has a lease is invited again"
    assert desk.buffers.members == {desk.index("h")} | (
        {4, 5, 6} if stage is Stage.UPDATES else set()
    )
    desk.restart()
    desk.check_in("a", leases["a"].lease_id)
    assert desk.refused("a") == refusals.RECOVERY_FAILED


def test_after_a_round_that_was_given_up_the_next_one_counts(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    desk.upload(*NAMES[:4])
    desk.wait(DEADLINE_S)
    desk.open(*NAMES[:4])
    desk.relay()
    desk.deal()
    ids = desk.upload()
    finish(desk)
    step_is_mean(desk, ids)
    assert desk.coordinator.counts["recoveries_failed"] == 1


def test_an_update_that_comes_too_late_is_refused_and_folded(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    late = desk.update("h")
    ids = desk.upload(*NAMES[:7])
    desk.wait(DEADLINE_S)
    assert desk.round.stage is Stage.SIGNATURES
    desk.send("h", late)
    assert desk.refused("h") == refusals.RECOVERY_FAILED
    assert refusals.RECOVERY_FAILED in refusals.FOLDED
    finish(desk, *NAMES[:7])
    step_is_mean(desk, ids)


# --- restarts ----------------------------------------------------------------------------------


def test_before_an_update_has_come_a_restart_begins_a_new_round(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    first = desk.round.number
    desk.deal()
    desk.restart()
    assert desk.round.number != first
    desk.wait(0.0)
    desk.deal()
    ids = desk.upload()
    finish(desk)
    step_is_mean(desk, ids)


def test_dealers_that_nobody_was_told_of_are_forgotten(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.relay()
    desk.relay(*NAMES[:7])
    desk.desk.silent = True
    desk.relay("h")
    assert desk.stored
    desk.restart()
    assert desk.stored is None
    assert not desk.told("a", RoundDealers)


def test_with_updates_in_the_journal_the_same_round_goes_on(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    first = desk.round.number
    ids = desk.upload("a", "b", "c")
    desk.restart()
    assert desk.round.number == first
    assert desk.round.dealers == tuple(range(8))
    ids += desk.upload("d", "e", "f", "g", "h")
    finish(desk)
    step_is_mean(desk, ids)


def test_an_outcome_stands_whenever_the_aggregator_restarts(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    late = desk.update("h")
    ids = desk.upload(*NAMES[:7])
    desk.desk.silent = True
    desk.wait(DEADLINE_S)
    assert desk.round.survivors == tuple(range(7))
    desk.restart()
    assert desk.round.stage is Stage.SIGNATURES
    assert desk.round.survivors == tuple(range(7))
    desk.send("h", late)
    assert desk.refused("h") == refusals.RECOVERY_FAILED
    desk.wait(0.0)
    desk.relay()
    desk.restart()
    desk.wait(0.0)
    desk.relay()
    desk.wait(0.0)
    outcomes = {
        said.survivors
        for name in NAMES
        for said in desk.told(name, RoundOutcome)
        if isinstance(said, RoundOutcome)
    }
    assert outcomes == {tuple(range(7))}
    desk.relay()
    desk.wait(0.0)
    step_is_mean(desk, ids)


def test_a_journalled_update_is_held_while_its_round_is_under_way(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    (lease_id,) = desk.upload("a")
    desk.restart()
    desk.check_in("a", lease_id)
    assert desk.desk.last("a") == Held(lease_id)


def test_a_device_that_restarts_before_the_mask_gets_its_lease_and_misses_the_round(
    make_rounds: MakeRounds,
) -> None:
    desk = make_rounds()
    leases = desk.open()
    desk.deal()
    desk.reboot("h")
    desk.check_in("h")
    assert desk.lease("h").lease_id == leases["h"].lease_id
    desk.relay("h")
    assert desk.devices["h"].take() is None
    ids = desk.upload(*NAMES[:7])
    desk.wait(DEADLINE_S)
    finish(desk, *NAMES[:7])
    step_is_mean(desk, ids)


def test_keys_said_anew_after_a_restart_take_the_place_of_the_old(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.relay("a")
    desk.reboot("a")
    desk._heard["a"] -= 1
    desk.deal()
    ids = desk.upload()
    finish(desk)
    step_is_mean(desk, ids)


# --- whom it believes ---------------------------------------------------------------------------


def test_a_device_outside_the_roster_is_turned_away(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.check_in("stranger")
    assert desk.refused("stranger") == refusals.NOT_ENROLLED


def test_what_another_signed_is_refused(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    (said,) = desk.answers("a")
    desk.tell("a", said, signer="b")
    assert desk.desk.refused(refusals.BAD_SIGNATURE) == 1
    assert not desk.round.keys


def test_words_of_another_round_change_nothing(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    (said,) = desk.answers("a")
    assert isinstance(said, RoundKeys)
    desk.tell("a", replace(said, number=said.number ^ 1))
    assert not desk.round.keys


def low_order(desk: RoundDesk) -> Message:
    """Keys of "a", signed well, with which nobody could agree on anything."""
    said = bytes(64) + bytes(range(32))
    message = keys_message(desk.round.round, 0, Publics.from_bytes(said))
    signature = keys.sign(desk.cohort.identity("a"), ADVERTISEMENT, message)
    return RoundKeys(desk.round.number, said, signature)


def unsigned(desk: RoundDesk) -> Message:
    """Keys of "a" with a signature of nobody's."""
    (said,) = desk.answers("a")
    assert isinstance(said, RoundKeys)
    return replace(said, signature=bytes(64))


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [(low_order, refusals.MALFORMED), (unsigned, refusals.BAD_SIGNATURE)],
    ids=["low order", "unsigned"],
)
def test_keys_that_would_stop_the_others_are_refused(
    make_rounds: MakeRounds, spoiled: Callable[[RoundDesk], Message], reason: str
) -> None:
    desk = make_rounds()
    desk.open()
    desk.tell("a", spoiled(desk))
    assert desk.desk.refused(reason) == 1
    desk.relay(*NAMES[1:])
    desk.wait(SOON_S)
    desk.deal(*NAMES[1:])
    ids = desk.upload(*NAMES[1:])
    finish(desk, *NAMES[1:])
    step_is_mean(desk, ids)


def test_shares_of_the_wrong_length_make_no_dealer(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.relay()
    desk.tell("a", RoundShares(desk.round.number, bytes(88)))
    assert desk.desk.refused(refusals.MALFORMED) == 1
    desk.relay(*NAMES[1:])
    desk.wait(SOON_S)
    assert desk.round.dealers == tuple(range(1, 8))


def test_an_update_that_signs_another_view_is_refused(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    update = desk.update("a")
    desk.send("a", replace(update, body=bytes(64) + update.body[64:]))
    assert desk.refused("a") == refusals.BAD_SIGNATURE
    ids = desk.upload(*NAMES[1:])
    finish(desk, *NAMES[1:])
    step_is_mean(desk, ids)


@pytest.mark.parametrize("size", [0, 63, 64, 67, 65 + 28])
def test_an_update_of_another_length_is_refused(make_rounds: MakeRounds, size: int) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    update = desk.update("a")
    desk.send("a", replace(update, body=(update.body + b"more")[:size]))
    assert desk.refused("a") in {refusals.BAD_SIGNATURE, refusals.WRONG_SHAPE}
    assert not desk.round.ids


def test_a_signature_of_another_outcome_does_not_count(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    desk.upload()
    other = keys.sign(desk.cohort.identity("a"), OUTCOME, bytes(32))
    desk.tell("a", RoundSignature(desk.round.number, other))
    assert desk.desk.refused(refusals.BAD_SIGNATURE) == 1
    assert not desk.round.signatures


def wrong(answer: Message) -> RoundAnswer:
    """Shares that are well-formed and false."""
    assert isinstance(answer, RoundAnswer)
    shares = bytearray(answer.shares)
    for at in range(0, len(shares), 36):
        shares[at] ^= 1
    return replace(answer, shares=bytes(shares))


def test_wrong_answers_are_outvoted_by_spares(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    ids = desk.upload()
    desk.relay()
    desk.wait(0.0)
    (answer,) = desk.answers("a")
    desk.tell("a", wrong(answer))
    desk.relay("b", "c")
    assert len(desk.round.answers) == 6
    assert desk.version == 0
    assert desk.coordinator.counts["recoveries_inconsistent"] == 2
    desk.relay("d")
    step_is_mean(desk, ids)


def test_an_answer_is_not_taken_back(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    ids = desk.upload()
    desk.relay()
    desk.wait(0.0)
    (answer,) = desk.answers("a")
    desk.tell("a", answer)
    desk.tell("a", wrong(answer))
    desk.relay(*NAMES[1:5])
    step_is_mean(desk, ids)


def test_answers_that_contradict_each_other_to_the_end_give_no_sum(
    make_rounds: MakeRounds,
) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    desk.upload()
    desk.relay()
    desk.wait(0.0)
    for name in ("a", "b"):
        (answer,) = desk.answers(name)
        desk.tell(name, wrong(answer))
    desk.tell("c", RoundAnswer(desk.round.number, b"short"))
    desk.answers("c")
    desk.relay(*NAMES[3:])
    assert desk.version == 0
    desk.wait(DEADLINE_S)
    assert desk.version == 0
    assert desk.refused("a") == refusals.RECOVERY_FAILED


def test_a_sum_that_no_right_updates_have_is_no_version(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    update = desk.update("a")
    count_below_zero = update.body[:-1] + bytes([update.body[-1] ^ 0x80])
    desk.send("a", replace(update, body=count_below_zero))
    desk.upload(*NAMES[1:])
    finish(desk)
    assert desk.version == 0
    assert desk.refused("b") == refusals.RECOVERY_FAILED


# --- epochs ------------------------------------------------------------------------------------


def test_an_epoch_that_ends_takes_its_round_with_it(make_rounds: MakeRounds) -> None:
    desk = make_rounds(valid_s=100)
    desk.open()
    desk.deal()
    desk.upload("a")
    desk.wait(100.0)
    assert desk.refused("a") == refusals.RECOVERY_FAILED
    assert desk.buffers.round is None
    assert desk.stored is None


def test_the_next_roster_waits_for_the_round_and_then_counts(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.deal()
    following = enrol(desk.names, desk.config, desk.secure_config, epoch=2)
    desk.desk.perform(desk.coordinator.roster(following.signed, desk.desk.now))
    assert desk.buffers.cohorts.epoch("a") == 1
    ids = desk.upload()
    finish(desk)
    step_is_mean(desk, ids)
    assert desk.buffers.cohorts.epoch("a") == 2
    desk.open()
    assert desk.round.cohort.roster.epoch == 2


# --- configuration and status --------------------------------------------------------------------


def test_a_quorum_too_small_for_the_signatures_is_refused() -> None:
    task = secure_task(mode="rounds", rounds=Rounds(size=8, quorum=4))
    with pytest.raises(ConfigError, match=r"5 devices \(T \+ 1\): raise rounds.quorum"):
        SecureConfig(scheme="pairwise").parameters(task, 8, 6)
    SecureConfig(scheme="seedmask").parameters(task, 8, 6)


def test_the_status_says_how_far_the_round_is_and_who_is_missing(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    assert "round" not in rounds_report(desk.coordinator, desk.desk.now)
    desk.open()
    desk.relay(*NAMES[:6])
    shown = rounds_report(desk.coordinator, desk.desk.now)["round"]
    assert shown["waits_for"] == "keys"
    assert (shown["advertised"], shown["missing_from"]) == (6, ["g", "h"])
    desk.relay()
    desk.deal()
    desk.upload(*NAMES[:7])
    shown = rounds_report(desk.coordinator, desk.desk.now)["round"]
    assert (shown["dealt"], shown["uploaded"], shown["missing_from"]) == (8, 7, ["h"])
    desk.wait(DEADLINE_S)
    desk.relay(*NAMES[:4])
    shown = rounds_report(desk.coordinator, desk.desk.now)["round"]
    assert (shown["signed"], shown["needed"]) == (4, 5)
    assert shown["missing_from"] == ["e", "f", "g"]


def test_who_does_not_answer_is_told_again_and_later_each_time(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.relay(*NAMES[:4])
    for seconds, times in ((0.0, 1), (3.0, 2), (5.0, 3), (10.0, 4)):
        desk.wait(seconds)
        assert len(desk.told("h", RoundOpened)) == times
    assert len(desk.told("a", RoundOpened)) == 1


def test_a_device_that_comes_back_is_told_at_once(make_rounds: MakeRounds) -> None:
    desk = make_rounds()
    desk.open()
    desk.relay()
    before = len(desk.told("h", RoundAdvertised))
    desk.desk.hear(desk.coordinator.topics.state("h"), b"offline")
    desk.wait(1.0)
    assert len(desk.told("h", RoundAdvertised)) == before
    desk.online("h")
    assert len(desk.told("h", RoundAdvertised)) == before + 1
