"""A device that may not train right now: no lease is wasted on it, and everybody can see why."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.audit import audit
from tests.support.board import laptop, plant
from tests.support.federation import TOPICS, Federation

pytestmark = pytest.mark.broker

CONDITIONS = {"train_when": "charging", "battery_floor": 20}


def told(federation: Federation) -> dict[str, Any]:
    """The newest telemetry of the device."""
    payload = federation.monitor.latest(TOPICS.telemetry("ada"))
    return dict(json.loads(payload)) if payload else {}


def test_it_asks_for_no_work_pauses_goes_on_and_abandons_as_its_board_says(tmp_path: Path) -> None:
    """Training takes 4 s in 20 steps; a lease lasts 12 s; the device looks every 2 s."""
    board = tmp_path / "board"
    plant(board, laptop(percent=90, charging=False))
    task = {"buffered": {"goal": 1}, "lease_ttl_s": 12}
    with Federation(tmp_path, ("ada",), task=task) as federation:
        federation.write_device("ada", conditions=CONDITIONS)
        federation.start("--train-s", "4", "--board", str(board))
        federation.until(lambda: told(federation).get("declined_not_charging", 0) > 1, "declines")
        assert told(federation)["declined"] == "not_charging"
        assert told(federation)["charging"] is False
        assert told(federation)["state"] == "idle"
        assert federation.monitor.report("metrics").get("leases_given", 0) == 0

        plant(board, laptop(percent=90, charging=True))
        federation.until(lambda: told(federation).get("state") == "training", "no training")
        plant(board, laptop(percent=19, charging=True))
        federation.until(lambda: "paused_battery_low" in told(federation), "no pause")
        assert told(federation)["declined"] == "battery_low"
        plant(board, laptop(percent=20, charging=True))
        federation.until(lambda: federation.record("ada").receipts, "did not go on")
        assert "declined" not in told(federation)
        assert "abandoned_battery_low" not in told(federation)

        federation.until(lambda: told(federation).get("state") == "training", "no more training")
        plant(board, laptop(percent=90, charging=False))
        federation.until(lambda: told(federation).get("abandoned_not_charging") == 1, "goes on")
        assert told(federation)["state"] == "idle"
        counted = len(federation.record("ada").receipts)
        plant(board, laptop(percent=90, charging=True))
        federation.until(lambda: len(federation.record("ada").receipts) > counted, "never again")
        federation.stop()
        audit(federation)
