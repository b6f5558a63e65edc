"""Evaluation: static statistics are measured before a version is judged."""

import threading
from pathlib import Path

import numpy as np

from aggregator.evaluation import Evaluator
from device_sdk.engine import Model, parse_spec
from device_sdk.engine.data import as_blocks
from device_sdk.engine.statistics import measure_statistics

SPEC = {
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
