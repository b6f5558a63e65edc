"""Two devices with one id: the second is told so, the first goes on, and nobody fights."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.audit import audit, counted_ids
from tests.support.federation import TOPICS, Federation

pytestmark = pytest.mark.broker

DEVICES = ("ada", "ben", "cleo", "dan")


def test_a_second_installation_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with Federation(tmp_path, DEVICES) as federation:
        federation.start()
        federation.grows()
        federation.write_device("ada", copy="second-ada")
        federation.start_device("second-ada")
        federation.until(lambda: "ada: duplicate_device" in alerts(federation), "no alert")
        federation.until(lambda: "choose another, or release it" in told(federation), "not told")
        assert "another installation has this device id" in federation.log("second-ada")
        assert federation.refused.keys() == {"duplicate_device"}  # it may have asked twice by then

        receipts = len(federation.record("ada").receipts)
        federation.until(lambda: len(federation.record("ada").receipts) > receipts + 3, "stopped")
        assert not federation.record("second-ada").stored
        assert num_connects(federation) == 2, "they fight"

        federation.kill("second-ada")  # its last will speaks for the first one too
        federation.until(
            lambda: (TOPICS.state("ada"), b"offline") in federation.monitor.seen, "no will"
        )
        federation.until(
            lambda: federation.monitor.latest(TOPICS.state("ada")) == b"online", "called offline"
        )
        federation.grows()
        federation.stop()
        audit(federation)


def test_a_copied_medium_ends_with_one_of_the_two_and_nothing_counts_twice(tmp_path: Path) -> None:
    """Before devices have keys nobody can tell a copy from its original: only one may be there."""
    with Federation(tmp_path, DEVICES) as federation:
        federation.start()
        federation.grows()
        federation.signal("ada", signal.SIGSTOP)  # no file vanishes while it is copied
        shutil.copytree(federation.state_dir("ada"), federation.state_dir("copy"))
        federation.signal("ada", signal.SIGCONT)
        federation.write_device("ada", copy="copy")
        federation.start_device("copy")
        federation.until(
            lambda: "another device is connected as ada" in logs(federation), "they fight for ever"
        )
        federation.grows()  # the one that stays is in, and the broker has written that down
        fights = num_connects(federation)
        federation.grows(20)
        assert num_connects(federation) == fights
        assert logs(federation).count("another device is connected as ada") == 1
        federation.stop()
        counted = counted_ids(federation)
        assert len(counted) == len(set(counted)) > 0


def alerts(federation: Federation) -> str:
    return "\n".join(federation.monitor.report("alerts").get("alerts", []))


def told(federation: Federation) -> str:
    """Return what the devices called ada say on their telemetry about being turned away."""
    reports = [
        json.loads(payload)
        for topic, payload in federation.monitor.seen
        if topic == TOPICS.telemetry("ada")
    ]
    return "\n".join(report.get("turned_away", "") for report in reports)


def logs(federation: Federation) -> str:
    return federation.log("ada") + federation.log("copy")


def num_connects(federation: Federation) -> int:
    """How often the broker has let a device called ada in."""
    log = federation.broker.log
    return log.count("as faults-ada-")
