"""``kill -9`` of an aggregator with a privacy budget: what counted was charged, and stays so."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aggregator.privacy.ledger import SPENT
from protocol.noise import cost_nano
from tests.support.federation import Federation, Settings
from tests.support.moments import seeded
from tests.support.secure_federation import SecureFederation

pytestmark = [pytest.mark.broker, pytest.mark.slow]

DEVICES = ("ada", "ben", "cleo", "dan", "eve")
UPDATES = 3
BUDGET = 8.0


class Central(Federation):
    """With noise of the aggregator."""

    def _aggregator_table(self, task: Settings) -> Settings:
        privacy = {"mechanism": "central", "epsilon": BUDGET, "updates": UPDATES}
        return {**super()._aggregator_table(task), "privacy": privacy}


class Distributed(SecureFederation):
    """With noise of the devices."""

    def _aggregator_table(self, task: Settings) -> Settings:
        privacy = {"mechanism": "distributed", "epsilon": BUDGET, "updates": UPDATES, "clip": 0.1}
        return {**super()._aggregator_table(task), "privacy": privacy}


def charged(federation: Federation) -> dict[str, int]:
    """What each device has spent, by the store."""
    rows = federation.query(f"SELECT key, data FROM fedbus_document WHERE key LIKE '{SPENT}%'")  # noqa: S608 - a constant
    return {key.removeprefix(SPENT): int(data) for key, data in rows}


def counted(federation: Federation) -> Counter[str]:
    """How many updates of each device are in versions."""
    rows = federation.query("SELECT device FROM fedbus_lease WHERE counted_in IS NOT NULL")
    return Counter(device for (device,) in rows)


def told(federation: Federation) -> dict[str, Any]:
    privacy: dict[str, Any] = federation.monitor.report("metrics").get("privacy", {})
    return privacy


def test_what_counts_is_charged_once_whenever_the_aggregator_is_killed(tmp_path: Path) -> None:
    moments, task = seeded(), {"weigh_by_samples": False, "buffered": {"goal": 2}}
    with Central(tmp_path, DEVICES, task=task) as federation:
        federation.start()
        federation.grows(1)
        epsilons = [told(federation).get("epsilon", 0.0)]
        for _ in range(3):
            time.sleep(moments.uniform(0.0, 0.5))
            federation.kill("aggregator")
            federation.start_aggregator()
            epsilons.append(told(federation).get("epsilon", 0.0))
        federation.until(
            lambda: told(federation).get("devices_spent", 0) >= len(DEVICES) - 1, "never spent"
        )
        epsilons.append(told(federation)["epsilon"])
        milli = round(1000 * told(federation)["noise_multiplier"])
        federation.stop()
        assert charged(federation) == {
            device: count * cost_nano(milli) for device, count in counted(federation).items()
        }
        assert max(counted(federation).values()) == UPDATES
        assert epsilons == sorted(epsilons)
        assert BUDGET / 2 < epsilons[-1] <= BUDGET


def test_devices_add_their_noise_and_stop_with_real_processes(tmp_path: Path) -> None:
    task = {
        "weigh_by_samples": False,
        "buffered": {"goal": 4, "min_contributors": 3, "max_wait_s": 2.0},
    }
    with Distributed(tmp_path, DEVICES, task=task) as federation:
        federation.start()
        federation.grows(1)
        federation.kill("aggregator")
        federation.start_aggregator()
        federation.until(lambda: told(federation).get("devices_spent", 0) >= 1, "never spent")
        assert told(federation)["mechanism"] == "distributed"
        assert told(federation)["epsilon"] <= BUDGET
        federation.stop()
        spent = charged(federation)
        assert all(spent[device] >= count for device, count in counted(federation).items())
        assert max(counted(federation).values()) <= UPDATES
