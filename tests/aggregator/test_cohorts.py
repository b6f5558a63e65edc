"""Mask epochs: they begin with a roster, are drained, and end for good."""

from collections import Counter
from dataclasses import asdict, replace
from typing import Any

import pytest

from aggregator.records import CounterRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.task_config import StrategyConfig, TaskConfig
from protocol import refusals
from protocol.codec import decode
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import AGGREGATOR, Lease, Refusal
from protocol.secagg.messages import Dealt, SignedRoster
from protocol.secagg.roster import open_roster
from tests.aggregator.conftest import MakeSecure
from tests.support.enrolment import Cohort, cohort
from tests.support.secure_desk import NAMES, SecureDesk, enrol, enrolment_of

FOUR = ("a", "b", "c", "d")


def retained_epoch(desk: SecureDesk) -> int:
    """Return the epoch of the roster that devices can hear."""
    payload = desk.desk.retained[desk.coordinator.topics.roster("all")]
    signed = decode(payload, (SignedRoster,), task="t", sender=AGGREGATOR)
    return open_roster(signed, desk.cohort.enrolment).epoch


def open_epochs(desk: SecureDesk) -> str:
    return desk.secure.cohorts.epochs


def alert_names(desk: SecureDesk) -> Counter[str]:
    return Counter(alert.split(":")[0] for alert in desk.coordinator.alerts)


# --- the end -----------------------------------------------------------------------------------


def test_a_sum_without_answers_is_abandoned_when_its_epoch_ends(make_secure: MakeSecure) -> None:
    desk = make_secure(valid_s=1_000)
    desk.stock_up()
    ids = desk.train(*FOUR)
    desk.answer(*NAMES[:5])
    desk.wait(999)
    assert desk.recovering
    desk.wait(2)
    assert not desk.recovering
    assert desk.version == 0
    for name, lease_id in zip(FOUR, ids, strict=True):
        refusal = desk.desk.last(name)
        assert isinstance(refusal, Refusal)
        assert (refusal.lease_id, refusal.reason) == (lease_id, refusals.RECOVERY_FAILED)


def test_what_is_abandoned_stays_so_whatever_comes_after(make_secure: MakeSecure) -> None:
    desk = make_secure(valid_s=1_000)
    desk.stock_up()
    ids = desk.train(*FOUR)
    desk.wait(1_001)
    desk.restart()
    desk.answer(*NAMES)  # too late
    assert desk.version == 0
    assert len(desk.coordinator.buffers) == 0
    assert desk.desk.store.snapshot().journal == ()
    assert not [key for key in desk.desk.store.snapshot().documents if key.startswith("request")]
    desk.check_in("a", ids[0])
    refusal = desk.desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.RECOVERY_FAILED


def test_updates_that_a_crash_at_the_end_leaves_behind_are_abandoned_too(
    make_secure: MakeSecure,
) -> None:
    """The epoch's end is stored; as if nothing after it were."""
    desk = make_secure(valid_s=1_000)
    desk.stock_up()
    desk.train(*FOUR)
    (cohort,) = desk.secure.cohorts
    desk.desk.store.commit(
        [action.record for action in desk.secure.cohorts.end(cohort)]  # type: ignore[union-attr] # all are Stores
    )
    desk.restart()
    assert desk.refusals() == {refusals.RECOVERY_FAILED: 4}
    assert refusals.RECOVERY_FAILED in refusals.FOLDED


def test_updates_that_wait_for_shares_are_abandoned_with_their_epoch(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure(valid_s=1_000)
    desk.stock_up()
    lease = desk.lease("a")
    desk.send("a", lease, desk.delta_of("a"), mask=desk.deal("a", to="")[0])
    desk.train("b", "c")
    desk.wait(1_001)
    assert desk.refusals()[refusals.RECOVERY_FAILED] == 3
    assert len(desk.coordinator.buffers) == 0


def test_an_epoch_lasts_its_time_of_running_across_restarts(make_secure: MakeSecure) -> None:
    desk = make_secure(valid_s=1_000)
    for _ in range(9):
        desk.wait(100)
        desk.desk.store.commit([desk_counts(desk)])
        desk.restart()
    assert open_epochs(desk) == "all=1"
    desk.wait(101)
    assert open_epochs(desk) == "none"


def desk_counts(desk: SecureDesk) -> CounterRecord:
    """What the service stores of the counters now and then."""
    return CounterRecord(dict(desk.counts))


def test_an_idle_aggregator_notes_now_and_then_how_long_its_epoch_has_lasted(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure(valid_s=10_000)
    desk.wait(3_600)
    assert 3_590 <= desk.counts["epoch_s_all"] <= 3_600


def test_after_the_end_devices_are_turned_away_until_the_next_roster(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure(valid_s=1_000)
    desk.stock_up()
    desk.wait(1_001)
    desk.check_in("a")
    refusal = desk.desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.NOT_ENROLLED
    desk.roster(desk.next_roster().signed)
    assert retained_epoch(desk) == 2


def test_no_roster_is_opened_again_after_its_end(make_secure: MakeSecure) -> None:
    desk = make_secure(valid_s=1_000)
    desk.wait(1_001)
    for _ in range(2):
        desk.roster(desk.cohort.signed)
        assert open_epochs(desk) == "none"
        desk.restart()  # it lies in the folder still
        assert open_epochs(desk) == "none"


# --- draining ----------------------------------------------------------------------------------


def test_an_epoch_near_its_end_gives_no_leases(make_secure: MakeSecure) -> None:
    desk = make_secure(valid_s=1_000)
    desk.stock_up()
    desk.wait(939)
    assert isinstance(desk.lease("a"), Lease)
    desk.wait(2)
    desk.check_in("b")
    assert desk.desk.last("b") is None


def test_a_device_that_waits_gets_no_lease_of_an_epoch_near_its_end(
    make_secure: MakeSecure,
) -> None:
    one = Buffered(goal=4, min_contributors=3, concurrency=1)
    desk = make_secure(valid_s=1_000, buffered=one, lease_ttl_s=2_000)
    desk.stock_up()
    lease = desk.lease("a")
    desk.check_in("b")
    desk.wait(945)
    desk.send("a", lease, desk.delta_of("a"))
    assert desk.heard("b", Lease) == []


def test_a_draining_epoch_sums_what_it_has(make_secure: MakeSecure) -> None:
    desk = make_secure(
        valid_s=1_000, buffered=Buffered(goal=4, min_contributors=3, max_wait_s=10_000.0)
    )
    desk.stock_up()
    desk.train("a", "b", "c")
    desk.wait(969)
    assert not desk.recovering
    desk.wait(2)
    assert desk.recovering
    desk.answer(*NAMES)
    assert desk.version == 1


def test_the_next_roster_is_published_when_nothing_is_under_way(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train(*FOUR)
    following = desk.next_roster()
    desk.roster(following.signed)
    assert retained_epoch(desk) == 1
    desk.check_in("e")
    assert desk.heard("e", Lease) == []  # it drains
    desk.answer(*NAMES)
    assert desk.version == 1
    assert retained_epoch(desk) == 2
    assert open_epochs(desk) == "all=2"


def test_an_idle_epoch_is_followed_at_once(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.roster(desk.next_roster().signed)
    assert retained_epoch(desk) == 2


def test_an_epoch_that_cannot_be_summed_is_followed_after_a_minute(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure()
    desk.stock_up()
    ids = desk.train(*FOUR)
    desk.roster(desk.next_roster().signed)
    desk.wait(59)
    assert retained_epoch(desk) == 1
    desk.wait(2)
    assert retained_epoch(desk) == 2
    assert desk.refusals()[refusals.RECOVERY_FAILED] == len(ids)


def test_an_old_epochs_updates_and_words_are_refused(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    lease = desk.lease("a")
    desk.roster(desk.next_roster().signed)
    desk.send("a", lease, desk.delta_of("a"))
    refusal = desk.desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.WRONG_ROSTER
    assert refusal.reason in refusals.FOLDED
    desk.hold("b")
    assert desk.refusals()[refusals.WRONG_ROSTER] == 2


def test_the_next_epoch_works_like_the_first(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train(*FOUR)
    desk.answer(*NAMES)
    following = desk.next_roster()
    desk.roster(following.signed)
    desk.move_to(following)
    desk.stock_up()
    leases = desk.train(*FOUR)
    assert len(leases) == 4
    desk.answer(*NAMES)
    assert desk.version == 2


def test_a_device_that_waited_needs_masks_of_the_new_epoch(make_secure: MakeSecure) -> None:
    desk = make_secure(buffered=Buffered(goal=4, min_contributors=3, concurrency=1))
    desk.stock_up()
    desk.lease("a")
    desk.check_in("b")
    following = desk.next_roster()
    desk.roster(following.signed)
    desk.move_to(following)
    desk.wait(601)  # the lease of a runs out
    assert desk.desk.last("b") is None
    desk.stock_up()
    lease = desk.desk.last("b")
    assert isinstance(lease, Lease)
    assert lease.mask_epoch == 2


def test_who_was_excluded_may_come_back_in_the_next_epoch(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train(*FOUR)
    desk.answer("h", wrong=1)
    desk.answer(*NAMES[:7])
    assert desk.counts["holders_excluded"] == 1
    following = desk.next_roster()
    desk.roster(following.signed)
    desk.move_to(following)
    desk.stock_up()
    assert isinstance(desk.lease("h"), Lease)
    assert not [key for key in desk.desk.store.snapshot().documents if key.startswith("excluded")]


def test_the_newest_of_several_rosters_follows(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train(*FOUR)
    for epoch in (3, 2):
        desk.roster(desk.next_roster(epoch).signed)
    desk.answer(*NAMES)
    assert retained_epoch(desk) == 3


def test_a_roster_that_waits_is_taken_up_again_after_a_restart(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train(*FOUR)
    following = desk.next_roster()
    desk.roster(following.signed)
    give(desk, desk.cohort, following)
    desk.restart()
    desk.hold()
    assert retained_epoch(desk) == 1
    desk.answer(*NAMES)
    desk.wait(61)
    assert desk.version == 1
    assert retained_epoch(desk) == 2


# --- rosters that are refused ------------------------------------------------------------------


def give(desk: SecureDesk, *rosters: Cohort) -> None:
    """Lay rosters into the folder that is read at the next start."""
    enrolment = enrolment_of(desk.cohort, desk.secure_config)
    desk.desk.enrolment = replace(enrolment, rosters=tuple(roster.signed for roster in rosters))


def second_roster(desk: SecureDesk) -> Cohort:
    """Another roster for the present epoch: with one device less."""
    return enrol(NAMES[:-1], desk.config, desk.secure_config)


def test_a_second_roster_for_an_epoch_is_refused(make_secure: MakeSecure) -> None:
    desk = make_secure()
    with pytest.raises(RemoteProtocolError, match="second roster for epoch 1 of cohort all"):
        desk.roster(second_roster(desk).signed)
    assert retained_epoch(desk) == 1


def test_a_second_roster_for_an_epoch_that_waits_is_refused(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train(*FOUR)
    desk.roster(desk.next_roster().signed)
    other = enrol(NAMES[:-1], desk.config, desk.secure_config, epoch=2)
    with pytest.raises(RemoteProtocolError, match="second roster for epoch 2"):
        desk.roster(other.signed)
    desk.answer(*NAMES)
    assert len(next(iter(desk.secure.cohorts)).roster.members) == 8


def test_a_second_roster_for_an_epoch_that_is_over_is_never_opened(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure(valid_s=100)
    desk.wait(101)
    with pytest.raises(RemoteProtocolError, match="second roster"):
        desk.roster(second_roster(desk).signed)
    desk.restart()
    desk.roster(second_roster(desk).signed)
    assert open_epochs(desk) == "none"


def test_two_rosters_for_one_epoch_are_refused_at_the_start(make_secure: MakeSecure) -> None:
    desk = make_secure()
    give(desk, desk.cohort, second_roster(desk))
    with pytest.raises(ConfigError, match=r"secure.rosters: a second roster for epoch 1"):
        desk.restart()


def test_a_roster_made_for_other_settings_is_refused_at_the_start_with_the_reason(
    make_secure: MakeSecure,
) -> None:
    with pytest.raises(ConfigError, match=r"secure.bits = 18 in the roster, 20 by the settings"):
        make_secure(enrolled={"bits": 18})
    with pytest.raises(ConfigError, match=r"min_contributors = 4 in the roster, 3 by"):
        make_secure(enrolled={"min_contributors": 4})
    with pytest.raises(ConfigError, match=r"secure.noise = 5 in the roster, 4 by"):
        make_secure(enrolled={"num_noise": 5})
    with pytest.raises(ConfigError, match=r"the model.* = 6 in the roster, 7 by"):
        make_secure(enrolled={"size": 6})


def test_settings_may_change_with_the_next_roster(make_secure: MakeSecure) -> None:
    """The old roster lies in the folder still: it does not count any more."""
    desk = make_secure()
    desk.stock_up()
    desk.train(*FOUR)
    old = desk.cohort
    desk.config = desk.desk.config = with_goal(desk, 5)
    give(desk, old)
    with pytest.raises(ConfigError, match=r"buffered.goal = 4 in the roster, 5 by"):
        desk.restart()
    following = desk.next_roster()
    give(desk, old, following)
    desk.restart()
    assert open_epochs(desk) == "all=2"
    assert desk.refusals() == {refusals.RECOVERY_FAILED: 4}


def with_goal(desk: SecureDesk, number: int) -> TaskConfig:
    return replace(desk.config, buffered=Buffered(goal=number, min_contributors=3))


def test_other_settings_do_not_excuse_a_second_roster(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.config = desk.desk.config = with_goal(desk, 5)
    give(desk, second_roster(desk))
    with pytest.raises(ConfigError, match="second roster for epoch 1"):
        desk.restart()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task": "other"}, "a roster of task 'other'"),
        ({"seed": bytes(32)}, "signature"),
    ],
)
def test_a_strangers_roster_is_refused(
    make_secure: MakeSecure, overrides: dict[str, Any], message: str
) -> None:
    desk = make_secure()
    given = asdict(desk.cohort.roster.parameters)
    del given["num_devices"]
    stranger = cohort(NAMES, **{"epoch": 2, **given, **overrides})
    with pytest.raises(RemoteProtocolError, match=message):
        desk.roster(stranger.signed)


def test_a_device_is_in_one_cohort(make_secure: MakeSecure) -> None:
    desk = make_secure()
    others = ("h", "i", "j", "k", "l", "m", "n", "o")
    other = enrol(others, desk.config, desk.secure_config, name="more")
    with pytest.raises(RemoteProtocolError, match="h is in two cohorts"):
        desk.roster(other.signed)
    assert open_epochs(desk) == "all=1"


def test_a_roster_that_stopped_fitting_while_it_waited_is_dropped_with_an_alert(
    make_secure: MakeSecure,
) -> None:
    desk = make_secure()
    desk.stock_up()
    desk.train(*FOUR)
    desk.roster(enrol((*NAMES, "z"), desk.config, desk.secure_config, epoch=2).signed)
    others = ("z", "i", "j", "k", "l", "m", "n", "o")
    desk.roster(enrol(others, desk.config, desk.secure_config, name="more").signed)
    desk.answer(*NAMES)
    assert open_epochs(desk) == "more=1"
    assert alert_names(desk)["cohort all"] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "rounds", "rounds": Rounds(size=4, quorum=3)},
        {"strategy": StrategyConfig(name="calibrated")},
    ],
)
def test_a_task_whose_steps_go_by_all_devices_has_one_cohort(
    make_secure: MakeSecure, settings: dict[str, Any]
) -> None:
    desk = make_secure(**settings)
    others = ("i", "j", "k", "l", "m", "n", "o", "p")
    other = enrol(others, desk.config, desk.secure_config, name="more")
    with pytest.raises(ConfigError, match="give the task one cohort"):
        desk.roster(other.signed)


def test_two_cohorts_have_buffers_of_their_own(make_secure: MakeSecure) -> None:
    desk = make_secure()
    others = ("i", "j", "k", "l", "m", "n", "o", "p")
    desk.roster(enrol(others, desk.config, desk.secure_config, name="more").signed)
    assert open_epochs(desk) == "all=1,more=1"
    desk.stock_up()
    desk.train("a", "b", "c")
    assert [buffer.cohort.roster.cohort for buffer in desk.secure.buffers] == ["all"]


def test_an_epochs_masks_are_those_that_its_members_deal(make_secure: MakeSecure) -> None:
    desk = make_secure()
    desk.tell("a", Dealt(desk.cohort.roster.hash, (1,), b""))
    assert desk.refusals() == {refusals.MALFORMED: 1}
