"""Masked buffers that are summed in groups: each alone, all in one step, whatever happens between.

N, t, T, U = 10, 1, 5, 8 and groups of three: buffers of ten are summed in three, three and four.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from aggregator.actions import Store
from aggregator.conduct.evidence import GROUP_INFLUENCE
from aggregator.records import DocumentRecord
from aggregator.recoveries import REQUEST
from aggregator.robust.config import RobustConfig
from aggregator.robust.group_watch import TESTS_A_DEVICE, Trial
from aggregator.robust.groups import GroupMean, check_groups, combine_groups, spoilt
from aggregator.scheduling.buffered import Buffered
from protocol import refusals
from protocol.errors import ConfigError
from protocol.messages import Lease, Refusal
from protocol.secagg.groups import draw_groups
from protocol.secagg.requests import open_request, request_hash
from tests.aggregator.conftest import MakeSecure
from tests.support.desk import Vector
from tests.support.secure_desk import SecureDesk, secure_settings, secure_task

TEN = tuple("abcdefghij")
SETTINGS: dict[str, Any] = {
    "buffered": Buffered(goal=10, min_contributors=9, max_wait_s=60.0),
    "robust": RobustConfig(group=3, attackers=0.1),
}


@pytest.fixture
def desk(make_secure: MakeSecure) -> SecureDesk:
    """Ten devices that have dealt."""
    desk = make_secure(TEN, **SETTINGS)
    desk.stock_up()
    return desk


def groups_of(desk: SecureDesk, ids: Sequence[bytes]) -> list[list[bytes]]:
    """Return the leases of each group, as holders would draw them."""
    of = {desk.index(desk.sent[each].device): each for each in ids}
    masks = {dealer: desk.sent[each].counter for dealer, each in of.items()}
    drawn = draw_groups(desk.cohort.roster, masks)
    return [[of[dealer] for dealer in group] for group in drawn]


def expected(desk: SecureDesk, groups: Sequence[Sequence[bytes]]) -> Vector:
    """Return what the rule makes of plain group means."""
    means = [
        GroupMean(
            tuple(desk.sent[each].device for each in group),
            desk.expected(group).astype(np.float64),
        )
        for group in groups
    ]
    robust = desk.coordinator.config.robust
    return combine_groups(robust, means).vector.astype(np.float32)


def answer_all(desk: SecureDesk, *names: str) -> None:
    """Devices answer every request they got and have not answered."""
    for name in names or TEN:
        for request in desk.requests(name):
            if request_hash(request) not in desk.devices[name].answered:
                desk.answer(name, request=request)


def stored_requests(desk: SecureDesk) -> int:
    documents = desk.desk.store.snapshot().documents
    return sum(bool(data) for key, data in documents.items() if key.startswith(REQUEST))


def refused_with(desk: SecureDesk, name: str) -> str:
    last = desk.desk.last(name)
    return last.reason if isinstance(last, Refusal) else ""


# --- one step of groups --------------------------------------------------------------------------


def test_each_group_is_asked_for_alone_and_they_make_one_step(desk: SecureDesk) -> None:
    ids = desk.train(*TEN)
    roster = desk.cohort.roster
    opened = [open_request(each, roster) for each in desk.requests("a")]
    assert [each.group for each in opened] == [1, 2, 3]
    assert [len(each.masks) for each in opened] == [3, 3, 4]
    assert all(each.buffer == opened[0].buffer for each in opened)
    assert stored_requests(desk) == 3
    answer_all(desk)
    assert desk.version == 1
    assert stored_requests(desk) == 0
    wanted = expected(desk, groups_of(desk, ids))
    np.testing.assert_allclose(desk.desk.step, wanted, atol=3 * desk.tolerance(3))


def test_nothing_is_taken_before_the_last_group_is_there(desk: SecureDesk) -> None:
    desk.train(*TEN)
    for name in TEN:
        for request in desk.requests(name)[:2]:
            desk.answer(name, request=request)
    desk.wait(30)
    assert desk.version == 0
    assert len(desk.coordinator.buffers) == 10
    answer_all(desk)
    assert desk.version == 1
    assert len(desk.coordinator.buffers) == 0


def test_an_attacker_spoils_one_group_and_hardly_the_step(make_secure: MakeSecure) -> None:
    """All others go the same way, and the attacker as far back as it can."""
    steps = {}
    for rule in ("mean", "auto"):
        robust = RobustConfig(group=3, attackers=0.1, rule=rule)
        desk = make_secure(TEN, **{**SETTINGS, "robust": robust})
        desk.stock_up()
        size = desk.coordinator.trained.layout.size
        leases = {name: desk.lease(name) for name in TEN}
        for name, lease in leases.items():
            desk.send(name, lease, np.full(size, -1.0 if name == "d" else 0.1, np.float32))
        answer_all(desk)
        steps[rule] = float(np.median(desk.desk.step))
    assert steps["mean"] < 0.02
    assert 0.05 < steps["auto"] < 0.11


def test_a_buffer_is_not_closed_with_fewer_than_three_groups(desk: SecureDesk) -> None:
    desk.train(*TEN[:8])
    desk.wait(600)
    assert desk.requests("a") == []
    desk.train("i")
    assert len(desk.requests("a")) == 3


def test_what_each_group_alone_would_make_of_the_model_can_be_asked_for_once(
    desk: SecureDesk,
) -> None:
    desk.coordinator.watch_groups()
    before = desk.desk.params.astype(np.float64)
    groups = groups_of(desk, desk.train(*TEN))
    answer_all(desk)
    candidates = desk.coordinator.candidates()
    assert candidates is not None
    np.testing.assert_array_equal(candidates.params, before.astype(np.float32))
    for group, (devices, params) in zip(groups, candidates.groups, strict=True):
        assert set(devices) == {desk.sent[each].device for each in group}
        wanted = before + desk.expected(group)
        np.testing.assert_allclose(params, wanted, atol=desk.tolerance(3) + 1e-6)
    assert desk.coordinator.candidates() is None


def test_where_nobody_evaluates_no_candidates_are_made(desk: SecureDesk) -> None:
    desk.train(*TEN)
    answer_all(desk)
    assert desk.version == 1
    assert desk.coordinator.candidates() is None


def test_a_device_whose_groups_do_harm_is_noted(desk: SecureDesk) -> None:
    rng = np.random.default_rng(0)
    for _ in range(TESTS_A_DEVICE * 10 // 3 + 1):
        order = [str(name) for name in rng.permutation(list(TEN))]
        groups = [tuple(order[:3]), tuple(order[3:6]), tuple(order[6:])]
        changes = [
            -0.1 + 0.6 * ("d" in group) / len(group) + rng.normal(0, 0.01) for group in groups
        ]
        trials = [Trial(group, change) for group, change in zip(groups, changes, strict=True)]
        desk.coordinator.groups_tried(trials)
    book = desk.coordinator.conduct
    assert [reason.kind for reason in book.reasons("d")] == [GROUP_INFLUENCE]
    assert all(book.score(name) == 0 for name in TEN if name != "d")
    assert any(alert.startswith("d: group_influence") for alert in desk.coordinator.alerts)


# --- what is lost ------------------------------------------------------------------------------


def test_garbage_spoils_its_group_alone(desk: SecureDesk) -> None:
    leases = {name: desk.lease(name) for name in TEN}
    size = desk.cohort.roster.parameters.body_bytes
    for name, lease in leases.items():
        spoiled = {"body": bytes(range(7)) * (size // 7 + 1)} if name == "d" else {}
        spoiled = {key: data[:size] for key, data in spoiled.items()}
        desk.send(name, lease, desk.delta_of(name), **spoiled)
    ids = [lease.lease_id for lease in leases.values()]
    groups = groups_of(desk, ids)
    (spoilt_group,) = [group for group in groups if leases["d"].lease_id in group]
    answer_all(desk)
    assert desk.version == 1
    lost = {desk.sent[each].device for each in spoilt_group}
    assert {name for name in TEN if refused_with(desk, name) == refusals.RECOVERY_FAILED} == lost
    rest = expected(desk, [group for group in groups if group is not spoilt_group])
    np.testing.assert_allclose(desk.desk.step, rest, atol=3 * desk.tolerance(3))
    assert stored_requests(desk) == 0


def test_without_more_than_half_of_its_groups_a_buffer_is_given_up(desk: SecureDesk) -> None:
    desk.train(*TEN)
    for request in desk.requests("a")[:2]:
        for name in TEN[:3]:
            desk.refuse(name, refusals.SHARES_MISSING, request)
    answer_all(desk, *TEN[2:])
    desk.wait(10)  # for spares of the third group, which do not come
    assert desk.version == 0
    assert all(refused_with(desk, name) == refusals.RECOVERY_FAILED for name in TEN)
    assert len(desk.coordinator.buffers) == 0


# --- restarts ------------------------------------------------------------------------------------


def steps(desk: SecureDesk) -> list[Callable[[], object]]:
    """Return the life of one buffer of ten, step by step."""
    leases: dict[str, Lease] = {}

    def train(name: str) -> None:
        leases[name] = desk.lease(name)
        desk.send(name, leases[name], desk.delta_of(name))

    def answer(name: str, number: int) -> None:
        if desk.version == 0:
            request = sorted(desk.requests(name), key=lambda each: each.body)[number]
            desk.answer(name, request=request)

    return [
        *[lambda name=name: train(name) for name in TEN],
        *[lambda name=name, at=at: answer(name, at) for at in range(3) for name in TEN],
    ]


def test_a_restart_at_every_third_step_ends_in_the_same_version(make_secure: MakeSecure) -> None:
    """Also when groups have their sums already: they are asked for again, and are the same."""
    found = set()
    for with_restarts in (False, True):
        desk = make_secure(TEN, **SETTINGS)
        desk.stock_up()
        for number, step in enumerate(steps(desk)):
            step()
            if with_restarts and number % 3 == 2:
                desk.come_back()
        assert desk.version == 1
        found.add(desk.desk.params.tobytes())
    assert len(found) == 1


def test_what_cannot_be_put_together_again_is_given_up_whole(desk: SecureDesk) -> None:
    """The store lost one of its requests: no other groups are drawn for these masks."""
    desk.train(*TEN)
    first = desk.requests("a")[0]
    lost = DocumentRecord(REQUEST + request_hash(first).hex(), b"")
    desk.desk.perform([Store(lost)])
    desk.restart()
    assert len(desk.coordinator.buffers) == 0
    assert stored_requests(desk) == 0


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secure", "task", "why"),
    [
        ({}, {"robust": RobustConfig(group=2)}, "shows too much of one"),
        ({}, {"robust": RobustConfig(group=3)}, "groups of 1 at most"),
        ({}, {"robust": RobustConfig(group=4, attackers=0.1)}, "min_contributors to 12"),
        ({}, {"robust": RobustConfig(group=3, attackers=0.12)}, "groups of 2 at most"),
        ({}, {"robust": RobustConfig(rule="median")}, "set robust.group"),
        ({"scheme": "none"}, {"robust": RobustConfig(group=3, attackers=0.1)}, "one by one"),
        ({}, {"buffered": Buffered(goal=10, min_contributors=8)}, "min_contributors to 9"),
        ({}, {"robust": RobustConfig(group=3, rule="krum", attackers=0.1)}, "needs 5"),
    ],
)
def test_groups_that_no_rule_can_judge_are_refused(
    secure: dict[str, Any], task: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        secure_settings(**secure).check(secure_task(**{**SETTINGS, **task}))


def test_the_limits_are_those_of_groups_drawn_at_random() -> None:
    """ALGORITHMS 16.2: groups of 4 for 8 per cent of attackers, of 2 for 17."""
    assert spoilt(0.08, 3) == pytest.approx(0.2213, abs=1e-4)
    for attackers, most in ((0.05, 6), (0.08, 4), (0.1, 3), (0.16, 2)):
        check_groups(RobustConfig(rule="median", attackers=attackers, group=most), 20, 10)
        with pytest.raises(ConfigError, match=f"groups of {most} at most"):
            check_groups(RobustConfig(rule="median", attackers=attackers, group=most + 1), 20, 10)


def test_a_group_weighs_as_many_as_its_devices_whatever_they_claim() -> None:
    rows = [GroupMean(tuple("abc"), np.zeros(1)), GroupMean(tuple("defgh"), np.ones(1))]
    mean = RobustConfig(rule="mean", group=3, attackers=0.1)
    assert combine_groups(mean, rows).vector == pytest.approx(5 / 8)
