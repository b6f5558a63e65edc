"""A task with `[privacy]`, from check-in to version: what is noisy, refused, told and kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.config import load_config
from aggregator.fairness import FairnessConfig
from aggregator.monitor import status
from aggregator.privacy.checks import check_privacy
from aggregator.privacy.config import PrivacyConfig
from aggregator.robust.config import RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.selection import OORT, SelectionConfig
from aggregator.task_config import StrategyConfig, TaskConfig
from fedbus.status import status_lines
from fedbus.view import TaskView
from protocol import refusals
from protocol.errors import ConfigError
from protocol.messages import Lease, Refusal
from tests.support.desk import Desk, task_config

CLIP = 0.5
HUGE = [1e6, 0.0, 0.0, 0.0, 0.0, 0.0]


def private(*, goal: int = 2, task: dict[str, Any] | None = None, **privacy: Any) -> TaskConfig:
    table = {"mechanism": "central", "clip": CLIP, "epsilon": 900.0, **privacy}
    settings = {"privacy": PrivacyConfig(**table), **(task or {})}
    return task_config(buffered=Buffered(goal=goal, max_wait_s=1e6), **settings)


def version_of(desk: Desk, devices: str) -> None:
    leases = {device: desk.lease(device) for device in devices}
    for device, lease in leases.items():
        desk.send(device, lease, HUGE)


def test_a_huge_update_moves_the_model_by_the_clip_and_the_noise(tmp_path: Path) -> None:
    desk = Desk(tmp_path, private(noise_multiplier=0.05))
    before = desk.coordinator.versions.params.copy()
    version_of(desk, "ab")
    moved = desk.coordinator.versions.params - before
    desk.close()
    noise = 0.05 * CLIP / 2
    assert moved[0] == pytest.approx(CLIP, abs=6 * noise)
    assert np.abs(moved[1:]).max() < 6 * noise
    assert np.abs(moved[1:]).min() > 0


def test_a_late_update_weighs_less_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path, private(noise_multiplier=0.04))
    late = desk.lease("a")
    version_of(desk, "bc")
    before = desk.coordinator.versions.params.copy()
    fresh = desk.lease("d")
    desk.send("a", late, HUGE)
    desk.send("d", fresh, [0.0] * 6)
    moved = desk.coordinator.versions.params - before
    desk.close()
    weight = 2**-0.5
    noise = 0.04 * CLIP / (1 + weight)
    assert moved[0] == pytest.approx(CLIP * weight / (1 + weight), abs=3 * noise)
    assert 3 * noise < CLIP * (weight - weight**2) / (1 + weight), "twice would be seen"


def test_a_device_whose_budget_is_spent_is_turned_away_and_told_why(tmp_path: Path) -> None:
    desk = Desk(tmp_path, private(epsilon=8.0, updates=2))
    version_of(desk, "ab")
    version_of(desk, "ab")
    desk.check_in("a")
    refusal = desk.last("a")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == refusals.PRIVACY_SPENT
    assert desk.coordinator.waiting_for(desk.now).startswith("nothing, training has ended: 2 of 2")
    assert isinstance(desk.lease("c"), Lease), "who has not spent it goes on"
    assert desk.coordinator.waiting_for(desk.now).endswith(
        "2 of 3 devices have spent their epsilon of 8"
    )
    desk.close()


def test_a_restart_gives_nobody_anything_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path, private(epsilon=8.0, updates=2, clip_quantile=0.5))
    version_of(desk, "ab")
    spent, clip = desk.coordinator.privacy.epsilon, desk.coordinator.privacy.report()["clip"]
    assert clip != CLIP, "it moves"
    desk.restart()
    assert desk.coordinator.privacy.epsilon == spent > 0
    assert desk.coordinator.privacy.report()["clip"] == clip
    version_of(desk, "ab")
    assert desk.coordinator.privacy.epsilon <= 8.0
    desk.restart()
    desk.check_in("a")
    assert isinstance(desk.last("a"), Refusal)
    desk.close()


def test_a_journalled_update_is_bounded_after_a_restart_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path, private(noise_multiplier=0.05))
    before = desk.coordinator.versions.params.copy()
    leases = {device: desk.lease(device) for device in "ab"}
    desk.send("a", leases["a"], HUGE)
    desk.restart()
    desk.send("b", leases["b"], HUGE)
    moved = desk.coordinator.versions.params - before
    desk.close()
    assert moved[0] == pytest.approx(CLIP, abs=6 * 0.05 * CLIP / 2)


def test_epsilon_is_shown_to_people_and_never_rounded_down(tmp_path: Path) -> None:
    desk = Desk(tmp_path, private(epsilon=8.0, updates=3))
    version_of(desk, "ab")
    report = status.metrics_report(desk.coordinator, {})
    exact = desk.coordinator.privacy.epsilon
    topics = desk.coordinator.topics
    desk.close()
    assert exact <= report["privacy"]["epsilon"] <= exact + 0.001
    view = TaskView(topics)
    view.see(topics.monitor("metrics"), status.encode(report))
    [line] = [line for line in status_lines(view) if line.startswith("privacy")]
    assert f"epsilon {report['privacy']['epsilon']:.3f} of 8 at delta 1e-05" in line


def test_versions_made_without_noise_are_never_passed_over_in_silence(tmp_path: Path) -> None:
    desk = Desk(tmp_path, private(noise_multiplier=1.0))
    version_of(desk, "ab")
    assert "since_version" not in desk.coordinator.privacy.report()
    desk.config = private(noise_multiplier=1.0, task={"privacy": PrivacyConfig()})
    desk.restart()
    version_of(desk, "ab")
    desk.config = private(noise_multiplier=1.0)
    desk.restart()
    version_of(desk, "ab")
    desk.restart()
    topics, report = desk.coordinator.topics, status.metrics_report(desk.coordinator, {})
    desk.close()
    assert report["privacy"]["since_version"] == 2
    view = TaskView(topics)
    view.see(topics.monitor("metrics"), status.encode(report))
    assert any("versions up to 2" in line for line in status_lines(view))


def test_a_task_without_privacy_says_nothing_of_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path, task_config())
    report = status.metrics_report(desk.coordinator, {})
    desk.close()
    assert "privacy" not in report


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"weigh_by_samples": True}, "weigh_by_samples = false"),
        ({"strategy": StrategyConfig(name="stratified")}, "single updates"),
        ({"strategy": StrategyConfig(name="ca2fl")}, "single updates"),
        ({"fairness": FairnessConfig(weights="inverse_rate")}, "weigh more"),
        ({"robust": RobustConfig(rule="median")}, 'robust.rule = "mean"'),
        ({"selection": SelectionConfig(rule=OORT)}, "selection.oort"),
    ],
)
def test_what_would_break_the_promise_is_refused(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_privacy(private(task=task, noise_multiplier=1.0), masked=False)


def test_masked_updates_cannot_be_bounded_by_the_aggregator() -> None:
    with pytest.raises(ConfigError, match='mechanism = "distributed"'):
        check_privacy(private(noise_multiplier=1.0), masked=True)


def test_a_coordinator_refuses_it_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weigh_by_samples"):
        Desk(tmp_path, private(task={"weigh_by_samples": True}, noise_multiplier=1.0))


def test_distributed_noise_needs_masks() -> None:
    config = private(mechanism="distributed", noise_multiplier=1.0)
    with pytest.raises(ConfigError, match="must be masked"):
        check_privacy(config, masked=False)
    check_privacy(config, masked=True)


def test_a_private_task_is_fedbuffs_by_default_and_a_mean() -> None:
    settled = private(noise_multiplier=1.0, goal=10).settled(masked=False)
    assert (settled.strategy.name, settled.robust.rule) == ("fedbuff", "mean")


def test_the_table_stands_at_the_top_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "fed.toml"
    text = """
    state_dir = "state"
    [secure]
    scheme = "none"
    [task]
    task = "t"
    weigh_by_samples = false
    [task.model]
    input = [2]
    loss = "softmax_cross_entropy"
    layers = [{type = "dense", units = 2}]
    [privacy]
    mechanism = "central"
    """
    file.write_text(f"{text}\nupdates = 20\n")
    assert load_config(file).task.privacy.most_updates >= 20
    file.write_text(text)
    with pytest.raises(ConfigError, match="privacy: say how many updates"):
        load_config(file)
