"""Real processes on the shipped broker: models go down as differences, over ``kill -9``."""

import json
from pathlib import Path

import pytest

from device_sdk.held import HeldModel, unpack_held
from device_sdk.storage import Storage
from protocol.vectors.hidden import model_hash
from tests.support.audit import audit
from tests.support.federation import TOPICS, TWO_CHUNKS, Federation

pytestmark = pytest.mark.broker

TASK = {
    "model": TWO_CHUNKS,
    "codec": "topk-0.01/int8",
    "bandwidth": {"differences": "topk-0.01/int8", "model": "int8", "keyframe_every": 8},
    "buffered": {"goal": 2, "max_wait_s": 3600.0},
}


def test_devices_hold_what_was_published_over_restarts_of_both_sides(tmp_path: Path) -> None:
    with Federation(tmp_path, ("ada", "ben"), task=TASK) as federation:
        federation.start()
        federation.grows()
        watcher = federation.watch("models", *TOPICS.own_model_filters())
        federation.until(lambda: len(differences(watcher.seen)) >= 2, "nothing retained")
        federation.kill("ada")
        before = held(federation, "ada")
        federation.kill("aggregator")
        federation.start_aggregator()
        federation.start_device("ada")
        federation.all_go_on()
        federation.until(
            lambda: json.loads(federation.monitor.latest(TOPICS.telemetry("ada")) or b"{}"), "mute"
        )
        telemetry = json.loads(federation.monitor.latest(TOPICS.telemetry("ada")))
        assert not {"fetches_failed", "models_unreachable"} & telemetry.keys()
        federation.stop()
        audit(federation)
        hashes = dict(federation.query("SELECT version, model_hash FROM fedbus_version"))
        for name in ("ada", "ben"):
            after = held(federation, name)
            assert after.version > before.version > 0
            assert model_hash(after.params) == after.model_hash == hashes[after.version]
        assert "Traceback" not in federation.log("ada") + federation.log("aggregator")


def held(federation: Federation, name: str) -> HeldModel:
    """Return the model in the storage of a device that is not running."""
    kept = unpack_held(Storage(federation.state_dir(name)).load())
    assert kept is not None
    return kept[0]


def differences(seen: list[tuple[str, bytes]]) -> set[str]:
    """Return the versions whose differences were seen."""
    head = f"{TOPICS.prefix}/{TOPICS.task}/diff/"
    return {topic.split("/")[-2] for topic, _ in seen if topic.startswith(head)}
