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
        for number in range(NUM_KILLS):
            if number % 2:  # else a slow machine may kill it before it is up, every time
                federation.grows(1)
            time.sleep(moments.uniform(0.0, 1.0))  # the moment is the point, not what comes of it
            federation.kill("aggregator")
            num_in_a_buffer += num_waiting(federation) > 0
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
                if point == "segment:deleted":
                    let_an_update_wait(federation)
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


def num_waiting(federation: Federation) -> int:
    """Return how many updates are in the journal."""
    [[count]] = federation.query("SELECT COUNT(*) FROM fedbus_journal")
    return int(count)


def let_an_update_wait(federation: Federation) -> None:
    """Make the next start of the aggregator, dead before and after, find a segment in use.

    That one is deleted once its updates are counted. The segment that it writes itself it keeps
    until that is 64 MiB long: after a death with an empty journal it has none to delete.
    """
    federation.write_aggregator(buffered={"goal": 1_000, "max_wait_s": 3600.0})  # no version comes
    federation.start_aggregator()
    federation.until(lambda: num_waiting(federation), "no update came")
    federation.kill("aggregator")
    federation.write_aggregator()
