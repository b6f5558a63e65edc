"""Evidence, score, standing, budget: what leads to a quarantine and what never does."""

import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.conduct.book import Book
from aggregator.conduct.config import ConductConfig
from aggregator.conduct.evidence import (
    FLOOD,
    GROUP_INFLUENCE,
    LATE,
    OVER_BUDGET,
    TOO_QUICK,
    UNPROVEN,
    WEIGHTS,
)
from aggregator.conduct.habits import Habits
from aggregator.conduct.meter import Flow, Meter
from aggregator.records import EvidenceRecord, Standing, StandingRecord
from protocol import refusals
from protocol.errors import ConfigError

CONFIG = ConductConfig(half_life_s=100.0, messages_per_s=10.0, burst=20)


def book(config: ConductConfig = CONFIG, **known: tuple[EvidenceRecord, ...]) -> Book:
    return Book(config, max_devices=4, update_bytes=1000, now=0.0, **known)  # type: ignore[arg-type] # evidence only


def standing(of: Book, device: str = "ada") -> Standing:
    return of.standing(device)


def meter(**settings: float) -> Meter:
    plain = {"messages_per_s": 10.0, "burst": 20, "bytes_per_s": 1e6, "burst_bytes": 1 << 20}
    return Meter(**{**plain, **settings}, max_devices=2)  # type: ignore[arg-type] # whole numbers too


# --- standing ----------------------------------------------------------------------------------


def test_who_was_judged_and_is_not_stored_yet_is_not_taken_for_released() -> None:
    held = book()
    for _ in range(2):
        held.note("ada", refusals.EXCLUDED)
    assert held.decreed(()) == []
    assert standing(held) is Standing.QUARANTINED
    assert held.score("ada") == 10.0
    stored = held.verdicts()
    assert held.decreed(stored) == []
    assert held.decreed(()) == [StandingRecord("ada", Standing.ADMITTED)]


def test_a_revocation_counts_before_a_judgement_that_is_not_stored_yet() -> None:
    held = book()
    for _ in range(2):
        held.note("ada", refusals.EXCLUDED)
    revoked = StandingRecord("ada", Standing.REVOKED, "stolen", is_cut=True)
    assert held.decreed((revoked,)) == [revoked]
    assert standing(held) is Standing.REVOKED


# --- the budget --------------------------------------------------------------------------------


def test_a_burst_passes_and_what_comes_beyond_it_is_dropped_then_a_flood() -> None:
    given_to = meter()
    flows = [given_to.take("ada", 10, 0.0) for _ in range(40)]
    assert flows == [Flow.FINE] * 20 + [Flow.DROPPED] * 19 + [Flow.FLOOD]
    assert [given_to.take("ada", 10, 0.0) for _ in range(20)] == [Flow.DROPPED] * 19 + [Flow.FLOOD]
    assert given_to.take("ada", 10, 0.0) is Flow.DROPPED
    assert given_to.take("ada", 10, 3.0) is Flow.FINE  # it has calmed down


def test_large_messages_use_up_the_budget_as_many_small_ones_do() -> None:
    given_to = meter(burst_bytes=1000)
    assert [given_to.take("ada", 600, 0.0) for _ in range(2)] == [Flow.FINE, Flow.DROPPED]


@given(st.floats(0.101, 10.0), st.integers(1, 200))
def test_who_keeps_to_its_rate_is_never_dropped(every_s: float, count: int) -> None:
    given_to = meter()
    assert {given_to.take("ada", 10, at * every_s) for at in range(count)} == {Flow.FINE}


def test_one_that_floods_takes_nothing_from_the_others() -> None:
    given_to = meter()
    for _ in range(100):
        given_to.take("eve", 10, 0.0)
    assert given_to.take("ada", 10, 0.0) is Flow.FINE


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60))
def test_no_more_devices_are_metered_than_there_may_be(names: list[str]) -> None:
    given_to = meter()
    for name in names:
        given_to.take(name, 10, 0.0)
    assert len(given_to) <= 2


# --- the score ---------------------------------------------------------------------------------


def test_a_device_that_sends_nan_again_and_again_is_quarantined_and_told_apart() -> None:
    held = book()
    for _ in range(2):
        held.note("ada", refusals.NOT_FINITE)
    assert standing(held) is Standing.ADMITTED
    held.note("ada", refusals.NOT_FINITE)
    [verdict] = held.verdicts()
    assert (verdict.device, verdict.standing) == ("ada", Standing.QUARANTINED)
    assert verdict.reason == f"not_finite: {refusals.MEANING[refusals.NOT_FINITE]}"
    assert standing(held) is Standing.QUARANTINED
    assert standing(held, "bob") is Standing.ADMITTED
    assert held.verdicts() == []


@given(
    st.lists(st.sampled_from([kind for kind in WEIGHTS if WEIGHTS[kind].most < 10]), max_size=400)
)
def test_hints_alone_never_reach_the_threshold(kinds: list[str]) -> None:
    held = book()
    for kind in kinds:
        held.note("ada", kind)
    assert standing(held) is Standing.ADMITTED
    assert sum(weight.most for weight in WEIGHTS.values() if weight.most < 10) < CONFIG.threshold


@pytest.mark.parametrize(
    "kind", [refusals.BAD_SIGNATURE, refusals.DUPLICATE_DEVICE, OVER_BUDGET, "unproven"]
)
def test_what_others_can_do_in_a_devices_name_is_shown_and_costs_it_nothing(kind: str) -> None:
    held = book()
    for _ in range(1000):
        held.note("ada", kind)
    assert held.score("ada") == 0
    assert [(reason.kind, reason.count) for reason in held.reasons("ada")] == [(kind, 1000)]


def test_a_score_halves_with_time_and_old_faults_do_not_add_up_for_ever() -> None:
    held = book()
    for at in range(50):
        held.tick(at * 300.0)  # three half-lives
        held.note("ada", refusals.NOT_FINITE)
    assert standing(held) is Standing.ADMITTED
    assert held.score("ada") == pytest.approx(4 / (1 - 1 / 8), rel=0.01)
    assert held.reasons("ada")[0].count == 50


def test_how_sure_group_testing_is_weighs() -> None:
    held = book()
    assert held.hold("ada", GROUP_INFLUENCE, 2.5)
    assert held.score("ada") == pytest.approx(5.0)
    held.hold("ada", GROUP_INFLUENCE, 5.0)
    assert standing(held) is Standing.QUARANTINED


def test_what_is_judged_as_a_whole_is_set_and_never_adds_up() -> None:
    held = book()
    news = [held.hold("ada", GROUP_INFLUENCE, 4.0) for _ in range(500)]
    assert news == [True] + [False] * 499
    assert held.score("ada") == pytest.approx(8.0)
    assert standing(held) is Standing.ADMITTED


def test_a_judgement_that_clears_a_device_takes_the_evidence_back_and_is_stored() -> None:
    held = book()
    held.hold("ada", GROUP_INFLUENCE, 4.0)
    held.changed()
    assert not held.hold("ada", GROUP_INFLUENCE, 0.0)
    assert held.score("ada") == 0
    assert held.changed() == [EvidenceRecord("ada", GROUP_INFLUENCE, 1, 0.0)]
    assert not held.hold("ada", GROUP_INFLUENCE, 0.0)
    assert not held.hold("bob", GROUP_INFLUENCE, 0.0)
    assert held.changed() == []
    assert held.hold("ada", GROUP_INFLUENCE, 1.0)


@given(st.lists(st.floats(-1.0, 4.9), max_size=60))
def test_evidence_that_is_held_depends_on_the_last_judgement_alone(sure: list[float]) -> None:
    held = book()
    for amount in sure:
        held.hold("ada", GROUP_INFLUENCE, amount)
    assert held.score("ada") == pytest.approx(max(0.0, 2 * sure[-1]) if sure else 0.0)


def test_a_threshold_of_0_quarantines_nobody() -> None:
    held = book(replace(CONFIG, threshold=0.0))
    for _ in range(100):
        held.note("ada", refusals.NOT_FINITE)
        held.heard("ada", 10, 0.0)
    assert held.verdicts() == []


def test_one_that_floods_is_quarantined_and_cut_off_at_the_broker() -> None:
    held = book()
    heard = [held.heard("eve", 10, 0.0) for _ in range(40)]
    assert heard == [True] * 20 + [False] * 20
    assert held.cut_off == ["eve"]
    assert [(each.device, each.is_cut) for each in held.verdicts()] == [("eve", True)]
    assert {reason.kind for reason in held.reasons("eve")} == {FLOOD, OVER_BUDGET}


def test_one_that_goes_on_after_its_quarantine_is_cut_off_too() -> None:
    held = book()
    for _ in range(39):
        held.note("eve", refusals.MALFORMED)
    assert (standing(held, "eve"), held.cut_off) == (Standing.QUARANTINED, [])
    held.note("eve", refusals.MALFORMED)
    assert held.cut_off == ["eve"]
    assert [verdict.is_cut for verdict in held.verdicts()] == [True]


def test_what_is_known_of_no_weight_is_not_held_against_anybody() -> None:
    held = book()
    held.note("ada", refusals.TOO_STALE)
    assert held.reasons("ada") == []


# --- standing ----------------------------------------------------------------------------------


def test_a_release_wipes_the_sheet_and_keeps_the_counts() -> None:
    held = book()
    for _ in range(3):
        held.note("ada", refusals.NOT_FINITE)
    held.verdicts()
    assert held.decreed(()) == [StandingRecord("ada", Standing.ADMITTED)]
    assert standing(held) is Standing.ADMITTED
    assert held.score("ada") == 0
    held.note("ada", refusals.NOT_FINITE)
    assert standing(held) is Standing.ADMITTED
    assert held.reasons("ada")[0].count == 4


def test_a_release_is_stored_also_where_points_came_after_it() -> None:
    """The operator clears the sheet in the store, while an aggregator may be writing to it."""
    held = book()
    for _ in range(3):
        held.note("ada", refusals.NOT_FINITE)
    held.verdicts()
    [late] = held.changed()  # written behind the operator's back
    held.decreed(())
    [cleared] = held.changed()
    assert late.points > 0
    assert cleared == EvidenceRecord("ada", refusals.NOT_FINITE, 3, 0.0)


def test_only_what_an_operator_changed_is_news() -> None:
    held = book()
    revoked = StandingRecord("bob", Standing.REVOKED, "lost", is_cut=True)
    assert held.decreed((revoked,)) == [revoked]
    assert held.decreed((revoked,)) == []
    assert held.cut_off == ["bob"]


def test_evidence_is_stored_once_for_each_change_and_read_back() -> None:
    held = book()
    held.note("ada", LATE)
    held.note("ada", LATE)
    [record] = held.changed()
    assert (record.device, record.kind, record.count) == ("ada", LATE, 2)
    assert held.changed() == []
    again = book(evidence=(record,))
    assert again.score("ada") == pytest.approx(held.score("ada"))


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(sorted(WEIGHTS)))))
def test_however_many_names_turn_up_the_book_stays_small(notes: list[tuple[str, str]]) -> None:
    held = book()
    for device, kind in notes:
        held.note(device, kind)
    assert len(dict(held.scores())) <= 4
    assert len(held.standings) <= 4


# --- habits ------------------------------------------------------------------------------------


def test_made_up_names_do_not_keep_evidence_out_of_the_book() -> None:
    held = Book(CONFIG, max_devices=5, update_bytes=100)
    for number in range(20):
        held.note(f"nobody-{number}", UNPROVEN)
    for _ in range(3):
        held.note("ada", refusals.NOT_FINITE)
    assert standing(held) is Standing.QUARANTINED
    assert len(dict(held.scores())) == 5
    assert len(held.changed()) == 5
    for number in range(20):
        held.note(f"somebody-{number}", refusals.NOT_FINITE)
    assert held.score("ada") > 0
    assert len(dict(held.scores())) == 5


def test_an_update_that_nobody_could_have_trained_is_noticed() -> None:
    habits = Habits(100)
    assert not any(habits.is_too_quick(60.0) for _ in range(20))
    assert habits.is_too_quick(0.5)
    assert not habits.is_too_quick(10.0)  # a faster computer


def test_where_all_devices_are_quick_none_is_too_quick() -> None:
    habits = Habits(100)
    assert not any(habits.is_too_quick(0.5) for _ in range(20))
    assert not habits.is_too_quick(0.001)


def test_a_claim_of_a_million_samples_among_hundreds_is_a_boast() -> None:
    habits = Habits(100)
    for number in range(10):
        assert habits.declares(f"device-{number}", 100 + number) == (False, False)
    assert habits.declares("eve", 1_000_000) == (False, True)
    assert habits.declares("device-0", 5_000) == (True, False)


def test_what_a_device_says_is_compared_with_few_however_many_there_are() -> None:
    habits = Habits(5_000)
    for number in range(5_000):
        habits.declares(f"device-{number}", 100)
        habits.saturates(f"device-{number}", 0)
    tracemalloc.start()
    habits.declares("device-7", 100)
    habits.saturates("device-7", 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000  # a list of them all would take 40,000 bytes


def test_a_device_that_gathers_data_steadily_is_not_said_to_jump() -> None:
    habits = Habits(100)
    told = [habits.declares("ada", 10 * 2**day) for day in range(12)]
    assert {jumped for jumped, _ in told} == {False}


def test_much_saturation_among_little_is_shown() -> None:
    held = Book(CONFIG, max_devices=20, update_bytes=1000)
    for number in range(10):
        held.saturated(f"device-{number}", 2)
    held.saturated("eve", 4096)
    held.saturated("eve", 4096)  # telemetry says it again
    assert [(reason.kind, reason.count) for reason in held.reasons("eve")] == [("saturation", 1)]
    assert held.score("eve") == 0
    assert held.reasons("device-9") == []


def test_too_quick_is_a_hint() -> None:
    held = book()
    for _ in range(200):
        held.arrived("ada", 60.0)
    for _ in range(200):
        held.arrived("eve", 0.1)
    assert 0 < held.score("eve") <= WEIGHTS[TOO_QUICK].most
    assert held.score("ada") == 0


def test_settings_that_cannot_be_are_refused_with_their_name() -> None:
    with pytest.raises(ConfigError, match="messages_per_s must be from"):
        ConductConfig(messages_per_s=0)
