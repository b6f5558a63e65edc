"""Evaluation: static statistics are measured before a version is judged."""

import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from aggregator.config import AggregatorConfig, EvaluationConfig, IdentityConfig
from aggregator.coordinator import Coordinator
from aggregator.evaluation import Evaluator
from aggregator.robust.group_testing import harm
from aggregator.robust.group_watch import Candidates
from aggregator.secure_config import NONE, SecureConfig
from aggregator.service import Service
from device_sdk.engine import Model, parse_spec
from device_sdk.engine.data import as_blocks
from device_sdk.engine.statistics import measure_statistics
from tests.support.desk import task_config

SPEC: dict[str, Any] = {
    "input": [4],
    "layers": [{"type": "batch_norm", "static": True}, {"type": "dense", "units": 3}],
    "loss": "softmax_cross_entropy",
}


def test_static_statistics_are_those_of_the_held_out_rows(tmp_path: Path) -> None:
    x = np.random.default_rng(5).normal(20.0, 9.0, (60, 4)).astype(np.float32)
    y = np.arange(60) % 3
    np.savez(tmp_path / "held_out.npz", x=x, y=y)
    model = Model(parse_spec(SPEC))
    params = model.init(bytes(32))
    done = threading.Event()
    evaluator = Evaluator(model, tmp_path / "held_out.npz", done.set)
    try:
        evaluator.evaluate(3, params)
        assert done.wait(10)
    finally:
        evaluator.close()
    ready = measure_statistics(model, params, as_blocks((x, y)))
    assert evaluator.report["loss"] == round(model.evaluate(ready, x, y).loss, 4)
    assert evaluator.report["loss"] != round(model.evaluate(params, x, y).loss, 4)


def test_groups_are_compared_with_the_model_without_them(tmp_path: Path) -> None:
    """A loss that is none is the worst there is, and harms no other group's number."""
    x = np.random.default_rng(5).normal(0.0, 1.0, (60, 4)).astype(np.float32)
    np.savez(tmp_path / "held_out.npz", x=x, y=np.zeros(60, np.int64))
    model = Model(parse_spec({**SPEC, "layers": SPEC["layers"][1:]}))
    params = np.zeros(model.layout.size, np.float32)
    better, broken = params.copy(), np.full_like(params, np.nan)
    better[-3] = 1.0  # the bias of the class that all rows have
    groups = ((("a", "b"), better), (("c",), broken), (("d",), params))
    done = threading.Event()
    evaluator = Evaluator(model, tmp_path / "held_out.npz", done.set)
    try:
        evaluator.try_groups(Candidates(params, groups))
        assert done.wait(10)
        (trials,) = evaluator.trials()
        assert evaluator.trials() == []
    finally:
        evaluator.close()
    assert [trial.devices for trial in trials] == [("a", "b"), ("c",), ("d",)]
    untrained = model.evaluate(model.init(bytes(32)), x, np.zeros(60, np.int64)).loss
    expected = harm(float(np.log(1 + 2 / np.e)), float(np.log(3)), untrained)
    assert trials[0].change == pytest.approx(expected, abs=1e-5)
    assert trials[1].change == 1.0
    assert trials[2].change == 0.0


@pytest.mark.parametrize("evaluates", [False, True])
def test_groups_are_watched_where_somebody_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, evaluates: bool
) -> None:
    watched = Mock()
    monkeypatch.setattr(Coordinator, "watch_groups", watched)
    np.savez(tmp_path / "held_out.npz", x=np.zeros((8, 2), np.float32), y=np.zeros(8, np.int64))
    config = AggregatorConfig(
        state_dir=str(tmp_path),
        task=task_config(),
        evaluation=EvaluationConfig(file=str(tmp_path / "held_out.npz") if evaluates else ""),
        secure=SecureConfig(scheme=NONE),
        identity=IdentityConfig(required=False),
    )
    service = Service(config)
    monkeypatch.setattr("aggregator.service._Tenure.serve", lambda *_: service.stop())
    service.run()
    assert watched.call_count == evaluates
