"""Which settings of ``[robust]`` are refused, with a reason, and what ``auto`` is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.config import load_config
from aggregator.robust.config import RULES, RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.secure_config import SecureConfig
from aggregator.task_config import StrategyConfig, TaskConfig
from protocol.errors import ConfigError
from tests.support.desk import MODEL


def task(**settings: Any) -> TaskConfig:
    return TaskConfig(task="t", model=MODEL, **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rule": "krumm"}, "use auto, mean"),
        ({"attackers": 0.5}, "attackers must be from 0.0 to 0.49"),
        ({"clip": 0.5}, "1 or more, or 0 for none"),
        ({"samples_ratio": 0.1}, "1 or more, or 0 for none"),
        ({"alert_share": 1.1}, "alert_share must be from 0.0 to 1.0"),
        ({"max_rows_bytes": 1}, "max_rows_bytes must be from"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RobustConfig(**settings)


@pytest.mark.parametrize(
    ("rule", "goal", "told"),
    [
        ("krum", 4, 'rule = "krum" compares updates and needs 5 .* for attackers = 0.2, not 4'),
        ("multi_krum", 4, "raise the goal"),
        ("geometric_median", 2, "needs 3 in a buffer"),
        ("median", 1, 'set rule = "norm_clip"'),
    ],
)
def test_a_rule_must_have_enough_to_compare(rule: str, goal: int, told: str) -> None:
    config = task(robust=RobustConfig(rule=rule), buffered=Buffered(goal=goal))
    with pytest.raises(ConfigError, match=told):
        config.check_rows()


@pytest.mark.parametrize("rule", ["auto", "median"])
def test_rows_must_fit_the_memory_allowed(rule: str) -> None:
    """Of 6 params; what is only clipped needs no rows in full."""
    config = task(
        codec="dense/float32",
        robust=RobustConfig(rule=rule, max_rows_bytes=1 << 16),
        buffered=Buffered(goal=3000),
    )
    told = "keeps 3000 updates until a buffer closes, [0-9]+ bytes: lower the goal, raise"
    with pytest.raises(ConfigError, match=told):
        SecureConfig(scheme="none").check(config)
    SecureConfig(scheme="none").check(replace(config, robust=RobustConfig(rule="mean")))


@pytest.mark.parametrize("name", ["calibrated", "ca2fl"])
def test_strategies_of_plain_sums_get_the_mean(name: str) -> None:
    settings: dict[str, Any] = {
        "strategy": StrategyConfig(name=name),
        "weigh_by_samples": False,
    }
    assert task(**settings).settled(masked=False).robust.rule == "mean"
    with pytest.raises(ConfigError, match=r"right for a plain sum only, and robust.rule"):
        task(**settings, robust=RobustConfig(rule="median"))


def test_auto_clips_what_it_sees_and_adds_up_what_it_does_not() -> None:
    assert task().settled(masked=False).robust.rule == "norm_clip"
    assert task(mode="rounds").settled(masked=False).robust.rule == "norm_clip"
    assert task().settled(masked=True).robust.rule == "mean"
    named = task(robust=RobustConfig(rule="median"))
    assert named.settled(masked=False).robust.rule == "median"


@pytest.mark.parametrize("rule", sorted({*RULES} - {"fltrust"}))
def test_every_rule_that_can_be_named_can_be_used(rule: str) -> None:
    config = RobustConfig(rule=rule).settled(sees_rows=True)
    rows = np.random.default_rng(0).uniform(0.5, 1.0, (9, 4))
    combined = config.combine()(rows, np.ones(9))
    assert (rows.min(axis=0) <= combined.vector).all()
    assert (combined.vector <= rows.max(axis=0)).all() or rule == "centred_clip"


def test_the_table_stands_at_the_top_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "fed.toml"
    file.write_text('state_dir = "s"\n[robust]\nrule = "best"\n[task]\ntask = "t"\n[task.model]\n')
    with pytest.raises(ConfigError, match=r"robust: rule 'best': use auto"):
        load_config(file)
