"""``kill -9`` of the aggregator at any moment: what it accepted counts exactly once."""

import sys
import time
from pathlib import Path

import pytest

from aggregator.store import FAULT_POINTS
from tests.support.audit import audit
from tests.support.federation import TWO_CHUNKS, Federation
from tests.support.moments import seeded

pytestmark = pytest.mark.broker

DEVICES = ("ada", "ben", "cleo", "dan", "eve", "finn")
NUM_KILLS = 50


def test_killed_at_fifty_moments_it_counts_every_update_once(tmp_path: Path) -> None:
    moments = seeded()
    task = {"model": TWO_CHUNKS, "codec": "dense/float32"}
    with Federation(tmp_path, DEVICES, task=task) as federation:
        federation.start()
        federation.grows()
        num_in_a_buffer = 0
        for _ in range(NUM_KILLS):
            time.sleep(moments.uniform(0.0, 1.4))  # the moment is the point, not what comes of it
            federation.kill("aggregator")
            [[waiting]] = federation.query("SELECT COUNT(*) FROM fedbus_journal")
            num_in_a_buffer += waiting > 0
            federation.start_aggregator()
        federation.all_go_on()
        federation.stop()
        found = audit(federation)
        starts = federation.query("SELECT total FROM fedbus_counter WHERE name = 'starts'")
        sys.stdout.write(f"{found}, {num_in_a_buffer} buffers were open, {starts} starts\n")
        assert num_in_a_buffer > NUM_KILLS // 5
        assert found.num_versions > NUM_KILLS // 2


def test_killed_at_every_boundary_of_its_store_it_counts_every_update_once(tmp_path: Path) -> None:
    moments = seeded()
    with Federation(tmp_path, DEVICES) as federation:
        federation.start()
        federation.grows()
        for point in FAULT_POINTS:
            first = 1 if point in {"journal:created", "segment:deleted"} else moments.randint(2, 40)
            for nth in {1, first}:
                federation.kill("aggregator")
                federation.start_aggregator("--kill-at", point, str(nth))
                federation.until(
                    lambda: not federation.is_running("aggregator"), f"never passed {point} {nth}"
                )
                assert federation.status("aggregator") == -9
        federation.kill("aggregator")
        federation.start_aggregator()
        federation.all_go_on()
        federation.stop()
        sys.stdout.write(f"{audit(federation)}\n")
