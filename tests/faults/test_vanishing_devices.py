"""Devices that vanish for good, and devices that take too long."""

from pathlib import Path

import pytest

from tests.support.audit import audit
from tests.support.federation import Federation

pytestmark = pytest.mark.broker

STAYING = ("ada", "ben", "cleo", "dan", "eve", "finn", "gus")
VANISHING = ("xara", "yan", "zoe")
FOR_EVER = ("--train-s", "3600")


@pytest.mark.parametrize(
    "mode",
    [
        {"mode": "buffered", "buffered": {"goal": 4, "concurrency": 10}},
        {"mode": "rounds", "rounds": {"size": 10, "deadline_s": 2.0, "gather_s": 1.0}},
    ],
    ids=["buffered", "rounds"],
)
def test_training_goes_on_without_the_thirty_percent_that_vanished(
    tmp_path: Path, mode: dict[str, object]
) -> None:
    task = {**mode, "lease_ttl_s": 2}
    with Federation(tmp_path, (*STAYING, *VANISHING), task=task) as federation:
        for name in VANISHING:
            federation.start_device(name, *FOR_EVER)
        for name in STAYING:
            federation.start_device(name)
        federation.start_aggregator()
        federation.until(
            lambda: training(federation) == VANISHING, "those who will vanish hold no lease"
        )
        for name in VANISHING:
            federation.kill(name)
        federation.until(
            lambda: federation.monitor.report("devices")["offline_names"] == list(VANISHING),
            "who is gone is not named",
        )
        federation.until(
            lambda: federation.monitor.report("devices")["late"] == list(VANISHING),
            "who is late is not named",
        )
        federation.grows(5)
        assert federation.monitor.report("metrics")["leases_expired"] >= len(VANISHING)
        assert federation.monitor.report("devices")["offline_names"] == list(VANISHING)
        federation.stop()
        audit(federation)


def training(federation: Federation) -> tuple[str, ...]:
    """Return which of those who will vanish hold a lease now."""
    running = federation.monitor.report("devices").get("training", {})
    return tuple(name for name in VANISHING if name in running)


def test_a_slow_devices_update_is_taken_after_its_lease_ran_out(tmp_path: Path) -> None:
    devices = ("ada", "ben", "cleo", "dan", "slow")
    with Federation(tmp_path, devices, task={"lease_ttl_s": 1}) as federation:
        federation.start_aggregator()
        for name in devices:
            federation.start_device(name, "--train-s", "4" if name == "slow" else "0.1")
        federation.until(
            lambda: federation.monitor.report("devices").get("late") == ["slow"],
            "nobody says that the slow device is late",
        )
        before = federation.version
        federation.until(lambda: federation.record("slow").receipts, "not taken")
        assert federation.version > before
        federation.until(
            lambda: federation.monitor.report("devices").get("late") == [], "late for ever"
        )
        federation.stop()
        audit(federation)
