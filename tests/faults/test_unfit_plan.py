"""A plan that does not fit a device's memory budget: it is refused once, and people see why."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.federation import SMALL, TOPICS, Federation

pytestmark = pytest.mark.broker


def told(federation: Federation) -> dict[str, Any]:
    """The newest telemetry of the device."""
    payload = federation.monitor.latest(TOPICS.telemetry("ada"))
    return dict(json.loads(payload)) if payload else {}


def test_a_device_tells_that_its_memory_is_too_little_and_trains_when_it_has_more(
    tmp_path: Path,
) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((40, 8), np.float32), y=np.arange(40) % 4)
    data = {"file": str(tmp_path / "data.npz")}
    task = {"model": SMALL, "buffered": {"goal": 1}}
    with Federation(tmp_path, ("ada",), task=task) as federation:
        federation.start_aggregator()
        federation.write_device("ada", data=data, training={"memory_budget": "1000"})
        federation.start_own_engine("ada")
        federation.until(lambda: told(federation).get("declined_unfit_plan", 0) > 2, "goes on")
        report = told(federation)
        assert "memory budget of 1000 bytes: this model needs at least" in report["failed"]
        assert report["trainings_failed"] == 1
        assert "receipts" not in report
        assert federation.monitor.report("metrics")["leases_given"] == 1

        federation.kill("ada")
        federation.write_device("ada", data=data, training={"memory_budget": "4 MiB"})
        federation.start_own_engine("ada")
        federation.until(lambda: told(federation).get("receipts", 0) > 1, "does not train")
        assert "failed" not in told(federation)
