"""Time going wrong: long trainings, wrong clocks, slow links."""

from pathlib import Path

import pytest

from tests.support.audit import audit
from tests.support.federation import SMALL, TOPICS, Federation
from tests.support.slow_link import SlowLink

pytestmark = pytest.mark.broker

DEVICES = ("ada", "ben", "cleo", "dan")
A_YEAR_S = 366 * 24 * 3600
STATE = TOPICS.state("busy")
#: 36,855 params
THREE_CHUNKS = {**SMALL, "input": [80], "layers": [{"type": "dense", "units": 455}]}


def test_a_training_longer_than_the_keepalive_keeps_the_connection(tmp_path: Path) -> None:
    """Scaled down: keepalive 2 s (the broker ends a silent connection after 3), training 8 s."""
    with Federation(tmp_path, ("busy",), task={"buffered": {"goal": 1}}) as federation:
        federation.write_device("busy", broker={"keepalive_s": 2}, telemetry={"interval_s": 0})
        federation.start("--train-s", "8", "--busy")
        federation.until(lambda: federation.record("busy").receipts, "never counted")
        states = [payload for topic, payload in federation.monitor.seen if topic == STATE]
        assert set(states) == {b"online"}
        assert federation.log("busy").count("connected, MQTT") == 1
        assert "disconnected" not in federation.log("busy")
        assert "exceeded timeout" not in federation.broker.log


def test_clocks_that_are_wrong_by_a_year_and_jump_change_nothing(tmp_path: Path) -> None:
    with Federation(tmp_path, DEVICES, task={"lease_ttl_s": 5}) as federation:
        wrong = ("--clock-wrong-by-s", str(A_YEAR_S))
        federation.start_aggregator(*wrong)
        for name in DEVICES[:2]:
            federation.start_device(name, *wrong)
        for name in DEVICES[2:]:
            federation.start_device(name)
        federation.grows(10)
        federation.until(
            lambda: all(len(federation.record(name).receipts) > 3 for name in DEVICES),
            "not everybody takes part",
        )
        years = {federation.log(name).partition("the year is ")[2][:4] for name in DEVICES}
        assert len(years) == 2
        assert federation.monitor.report("metrics")["leases_expired"] == 0
        federation.stop()
        found = audit(federation)
        assert found.num_versions >= 10


def test_a_model_arrives_over_a_slow_link_while_versions_change(tmp_path: Path) -> None:
    """Scaled down: 12 s of download (147 kB at 12 kB/s), and a version every second or less."""
    devices = ("ada", "ben", "cleo", "far")
    task = {
        "model": THREE_CHUNKS,
        "codec": "topk-0.01/int8",
        "buffered": {"goal": 3},
        "keep_versions": 1,
        "bandwidth": {"differences": "none"},
    }
    with Federation(tmp_path, devices, task=task) as federation:
        with SlowLink(federation.broker.port, bytes_per_s=12_000) as link:
            federation.write_device("far", broker={"port": link.port}, telemetry={"interval_s": 0})
            federation.start_aggregator()
            for name in devices:
                federation.start_device(name, "--train-s", "0.1" if name == "far" else "0.9")
            federation.until(
                lambda: "far" in federation.monitor.report("devices").get("training", {}),
                "no lease",
            )
            leased = federation.version
            federation.until(lambda: federation.record("far").receipts, "no receipt", 60)
            assert link.seconds > 12
            assert federation.version > leased + 8
            assert federation.monitor.report("metrics")["leases_given"] < 4 * federation.version
        federation.stop()
        audit(federation)
