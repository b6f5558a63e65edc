"""What `[fairness]` does to weights and leases, and which settings contradict each other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from aggregator.fairness import FairnessConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.secure_config import SecureConfig
from aggregator.task_config import StalenessConfig, StrategyConfig, TaskConfig
from protocol.errors import ConfigError
from protocol.messages import Lease
from tests.aggregator.conftest import MakeDesk
from tests.support.desk import MODEL, Desk, task_config

INVERSE = FairnessConfig(weights="inverse_rate")
GOAL = Buffered(goal=2, min_contributors=1)


def one_hot(place: int) -> list[float]:
    return [float(place == index) for index in range(6)]


def play(desk: Desk, restart_at: set[int]) -> bytes:
    """Fast devices a and b, slow c and d; restarts before these updates; return the last bytes."""
    number = 0
    for turn in range(6):
        slow = {name: desk.lease(name) for name in "cd" if turn % 3 == 0}
        for _ in range(3):
            for place, name in enumerate("ab"):
                if number in restart_at:
                    desk.restart()
                desk.send(name, desk.lease(name), one_hot(place))
                number += 1
        for place, (name, lease) in enumerate(slow.items(), start=2):
            if number in restart_at:
                desk.restart()
            desk.send(name, lease, one_hot(place))
            number += 1
    return desk.params.tobytes()


@pytest.mark.parametrize(
    "settings",
    [
        {"fairness": INVERSE},
        {"fairness": FairnessConfig(weights="stale_weight")},
        {"strategy": StrategyConfig(name="stratified")},
        {"strategy": StrategyConfig(name="ca2fl")},
    ],
)
def test_a_restart_in_mid_buffer_changes_no_byte(
    make_desk: MakeDesk, settings: Mapping[str, Any]
) -> None:
    """Odd updates find one in the buffer already; what is known of devices comes from the store."""
    through = make_desk(buffered=GOAL, **settings)
    restarted = make_desk(buffered=GOAL, **settings)
    assert play(through, set()) == play(restarted, {1, 7, 8, 15, 21, 30})
    assert restarted.coordinator.counts["starts"] > 5
    assert through.coordinator.version == 20


def test_inverse_rate_weights_raise_who_comes_seldom(make_desk: MakeDesk) -> None:
    """In every third version; its staleness tells before the first, so it weighs 3 from then on."""
    desk = make_desk(buffered=GOAL, fairness=INVERSE)
    for _ in range(2):
        slow = desk.lease("slow")
        for _ in range(2):
            for name in "ab":
                desk.send(name, desk.lease(name), one_hot(0))
        before = desk.params.copy()
        desk.send("a", desk.lease("a"), one_hot(1))
        desk.send("slow", slow, one_hot(2))
        np.testing.assert_allclose((desk.params - before)[1:3], [0.25, 0.75], rtol=1e-5)


def test_a_device_beyond_its_share_waits_while_others_train(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=GOAL, fairness=FairnessConfig(max_share=0.4))
    for name in "ab":
        desk.send(name, desk.lease(name), one_hot(0))
    other = desk.lease("c")
    desk.said.clear()
    desk.check_in("a")
    assert desk.last("a") is None
    desk.send("c", other, one_hot(1))  # nobody trains now: no rule may stop everybody
    assert isinstance(desk.last("a"), Lease)


def test_a_lease_that_runs_out_ends_the_wait_for_a_share(make_desk: MakeDesk) -> None:
    desk = make_desk(buffered=GOAL, fairness=FairnessConfig(max_share=0.4), lease_ttl_s=30)
    for name in "ab":
        desk.send(name, desk.lease(name), one_hot(0))
    desk.lease("c")
    desk.said.clear()
    desk.check_in("a")
    assert desk.last("a") is None
    desk.wait(31)
    assert isinstance(desk.last("a"), Lease)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"weights": "fair"}, "use auto, none, inverse_rate, stale_weight"),
        ({"max_share": 0.0}, "max_share must be above 0"),
        ({"max_share": 1.5}, "max_share must be above 0"),
        ({"max_cache_bytes": -1}, "max_cache_bytes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        FairnessConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"staleness": StalenessConfig(rule="polynomial")}, "choose one"),
        ({"normalise": "goal"}, 'set normalise = "weights"'),
        ({"strategy": StrategyConfig(name="calibrated")}, "plain sum only"),
        ({"strategy": StrategyConfig(name="ca2fl")}, "plain sum only"),
        ({"strategy": StrategyConfig(name="stratified")}, "balances fast and slow"),
    ],
)
def test_weights_that_contradict_another_setting_are_refused(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        task_config(fairness=INVERSE, **settings)


# --- masked and not ------------------------------------------------------------------------------


def secure(**settings: Any) -> None:
    buffered = settings.pop("buffered", Buffered(goal=10, min_contributors=5))
    task = TaskConfig(task="t", model=MODEL, buffered=buffered, **settings)
    SecureConfig(scheme="seedmask").check(task)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"strategy": StrategyConfig(name="stratified")}, 'use "calibrated"'),
        (
            {"strategy": StrategyConfig(name="ca2fl"), "weigh_by_samples": False},
            'use "calibrated"',
        ),
        (
            {"strategy": StrategyConfig(name="fedasync"), "buffered": Buffered(goal=1)},
            "a sum of one hides nothing",
        ),
        ({"fairness": INVERSE}, "masked ones are summed first"),
    ],
)
def test_what_needs_single_updates_is_refused_under_masking(
    settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        secure(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": StrategyConfig(name="fedbuff")},
        {"strategy": StrategyConfig(name="fadas")},
        {"strategy": StrategyConfig(name="calibrated"), "weigh_by_samples": False},
        {"fairness": FairnessConfig(max_share=0.1)},
    ],
)
def test_what_needs_sums_only_works_under_masking(settings: dict[str, Any]) -> None:
    secure(**settings)


@pytest.mark.parametrize(
    ("settings", "masked", "name"),
    [
        ({}, False, "stratified"),
        ({}, True, "fedbuff"),
        ({"mode": "rounds"}, False, "fedavg"),
        ({"mode": "rounds"}, True, "fedavg"),
        ({"fairness": INVERSE}, False, "fedbuff"),
        ({"staleness": StalenessConfig(rule="polynomial")}, False, "fedbuff"),
        ({"strategy": StrategyConfig(name="fedadam")}, False, "fedadam"),
    ],
)
def test_auto_is_the_strategy_that_suits_the_task(
    settings: dict[str, Any],
    masked: bool,  # noqa: FBT001 - pytest passes it by name
    name: str,
) -> None:
    assert task_config(**settings).settled(masked=masked).strategy.name == name


def test_slow_devices_take_part_with_the_defaults(make_desk: MakeDesk) -> None:
    """An update of 100 versions ago counts in a plain task; one of 101 does not."""
    desk = make_desk(buffered=Buffered(goal=1))
    slow, slower = desk.lease("slow"), desk.lease("slower")
    for _ in range(99):
        desk.send("a", desk.lease("a"), one_hot(0))
    before = desk.params[1]
    desk.send("slow", slow, one_hot(1))
    assert desk.params[1] != before
    desk.send("a", desk.lease("a"), one_hot(0))
    desk.send("slower", slower, one_hot(2))
    assert desk.refused("too_stale") == 1
    assert np.isfinite(desk.params).all()
