"""The engine's benchmark runs at tiny sizes. No figure is judged."""

import importlib.util
import json
import os
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from tests.support.mosquitto import require_mosquitto


@pytest.mark.broker
def test_engine_measures_steps_memory_and_accuracy(tmp_path: Path) -> None:
    require_mosquitto()
    out = tmp_path / "out.json"
    assert main(["engine", "--quick", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["steps"].keys() == {"mlp", "cnn", "gru", "ds_cnn"}
    assert all(row["ms"] > 0 for row in report["steps"].values())
    assert report["memory"]["mlp"]["pss_peak_mib"]["measured"] > 0
    has_torch = importlib.util.find_spec("torch") is not None
    assert has_torch == all("ratio" in row for row in report["steps"].values())
    has_data = os.environ.get("CI") == "true"  # which promises it
    for row in report["accuracy"].values():
        assert not has_data or "skipped" not in row
        assert "skipped" in row or 0 <= min(row["accuracy"]) <= max(row["accuracy"]) <= 1
