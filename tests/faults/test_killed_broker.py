"""``kill -9`` of the broker, with the configuration we ship: nothing is lost for ever."""

import sys
import time
from pathlib import Path

import pytest

from tests.support.audit import audit
from tests.support.federation import TOPICS, Federation
from tests.support.moments import seeded

pytestmark = pytest.mark.broker

DEVICES = ("ada", "ben", "cleo", "dan", "eve", "finn")
NUM_KILLS = 50


def test_killed_at_fifty_moments_nothing_is_lost_and_all_goes_on(tmp_path: Path) -> None:
    moments = seeded()
    with Federation(tmp_path, DEVICES) as federation:
        federation.start()
        federation.grows()
        for _ in range(NUM_KILLS):
            time.sleep(moments.uniform(0.0, 1.0))  # the moment is the point
            federation.broker.kill()
            federation.broker.start()
        assert all(federation.is_running(name) for name in ("aggregator", *DEVICES))
        federation.all_go_on()
        federation.stop()
        found = audit(federation)
        sys.stdout.write(f"{found}\n")
        assert found.num_versions > NUM_KILLS // 2


def test_a_broker_that_forgot_everything_is_told_again(tmp_path: Path) -> None:
    with Federation(tmp_path, DEVICES) as federation:
        federation.start()
        federation.grows()
        federation.broker.kill()
        for path in (tmp_path / "broker" / "data").iterdir():
            path.unlink()
        federation.broker.start()
        federation.grows()
        newcomer = federation.watch("newcomer")
        federation.until(lambda: newcomer.report("metrics"), "nothing retained on mon/")
        federation.until(
            lambda: all(newcomer.latest(TOPICS.state(name)) == b"online" for name in DEVICES),
            "a device's state is not retained",
        )
        federation.stop()
        audit(federation)
