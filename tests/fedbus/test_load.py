"""``fedbus load``: what it finds is what happened, and it says no before it says nonsense."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_sdk.pending import PENDING, Pending, pack_pending
from device_sdk.trainer import Assignment
from fedbus import load
from fedbus.app import run
from fedbus.load_figures import Meter
from fedbus.load_fleet import Fleet
from fedbus.load_ledger import Ledger
from fedbus.load_run import Outcome
from fedbus.load_scratch import device_names, running_scratch
from fedbus.load_trainer import DryTrainer
from protocol.errors import ConfigError
from protocol.messages import Manifest
from protocol.topics import Topics
from tests.support.mosquitto import require_mosquitto
from transport.config import BrokerConfig

ONE, TWO = bytes(16), b"\1" * 16


def test_latencies_run_from_the_lease_and_from_the_first_packet_to_the_receipt() -> None:
    ledger = Ledger()
    ledger.sent(ONE, leased_at=1.0, now=3.0)
    assert ledger.unanswered == [ONE]
    ledger.receipt(ONE, now=4.0)
    assert ledger.unanswered == []
    assert ledger.seconds_from_lease()["max"] == 3.0
    assert ledger.seconds_from_publish()["p50"] == 1.0


def test_an_update_with_two_verdicts_shows() -> None:
    ledger = Ledger()
    ledger.sent(ONE, leased_at=0.0, now=0.0)
    ledger.refusal(ONE, "too_stale", now=1.0)
    assert ledger.answered_twice == 0
    ledger.receipt(ONE, now=2.0)
    assert ledger.answered_twice == 1


def test_an_id_in_two_manifests_shows_and_a_manifest_heard_twice_does_not() -> None:
    ledger = Ledger()
    first = Manifest(1, bytes(32), 4, 1, (ONE, TWO))
    for manifest in (first, first, Manifest(2, bytes(32), 4, 1, ()), first):
        ledger.counted(manifest)
    assert ledger.counted_twice == 0
    ledger.counted(Manifest(3, bytes(32), 4, 1, (TWO,)))
    assert ledger.counted_twice == 1


def test_an_update_is_lost_when_nobody_holds_it_and_else_unanswered() -> None:
    brokers = {"load-00001": BrokerConfig(host="127.0.0.1", port=9)}
    pending = Pending(ONE, base_version=0, partition=0, update=b"", residual=b"")
    with Fleet(Topics("fl", "a"), brokers, DryTrainer(), num_updates=1) as fleet:
        fleet.ledger.sent(ONE, leased_at=0.0, now=0.0)
        fleet.ledger.sent(TWO, leased_at=0.0, now=0.0)
        assert fleet.num_lost == 2
        [client] = fleet.clients
        client._storage[PENDING] = pack_pending(pending)
        assert (client.held, fleet.num_lost) == (ONE, 1)
        figures = Meter(fleet, [], 0.0).figures(1.0)
    outcome = Outcome(figures, interrupted=False, problem="")
    assert (outcome.lost, outcome.unanswered, outcome.counted_twice) == (1, 1, 0)


def test_names_do_not_depend_on_how_many_there_are() -> None:
    assert device_names(3) == device_names(25_000)[:3] == ("load-00001", "load-00002", "load-00003")


@pytest.mark.broker
def test_a_broker_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    require_mosquitto()
    with running_scratch(tmp_path, device_names(1)) as scratch:
        assert scratch.trouble() == ""
        os.kill(scratch.broker.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not scratch.trouble() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert scratch.trouble().startswith("the broker ended early; its last words:")


def test_dry_training_adds_deltas_that_the_seed_decides() -> None:
    params = np.zeros(10, np.float32)
    assignment = Assignment(params=params, version=0, model={}, training={}, seed=bytes(32))
    trainers = [DryTrainer(seed=seed) for seed in (1, 1, 2)]
    first, same, other = (trainer.train(assignment).params for trainer in trainers)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, trainers[0].train(assignment).params)


def test_too_few_files_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(ConfigError, match=r"ulimit -n 5000"):
        load.allow_files(5_000)
    raised = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    load.allow_files(200)
    load.allow_files(1_000)
    assert raised == [(1024, 1024)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--devices", "3"], "--broker HOST:PORT --task TASK"),
        (["--broker", "localhost", "--task", "a"], "use HOST:PORT"),
        (["--broker", "h:1", "--task", "A"], "task 'A'"),
        (["--scratch", "--task", "a"], "leave out"),
        (
            ["--broker", "h:1", "--task", "a", "--passwords", "nowhere"],
            "no file load-00001 and 2 more",
        ),
        (["--broker", "h:1", "--task", "a", "--watch-pid", "999999999"], "no such process"),
        (
            ["--broker", "h:1", "--task", "a", "--carried", "nowhere"],
            "no load-00001/device.crt and 2 more",
        ),
        (["--scratch", "--json", "nowhere/out"], "there is no folder"),
        (["--scratch", "--json", "."], "is a folder; name a file"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["load", "--devices", "3", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_nobody_there_ends_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    nobody = ["--broker", "127.0.0.1:9", "--task", "a", "--patience", "1"]
    assert run(["load", "--devices", "2", *nobody]) == 1
    said = capsys.readouterr().out
    assert "0 of 2 connected, now 0" in said
    assert "refused" in said
    assert "nothing was lost" not in said


@pytest.mark.broker
@pytest.mark.parametrize("way_in", [["--scratch"], ["--scratch", "--tls"]], ids=" ".join)
def test_every_update_of_a_fleet_gets_its_receipt(way_in: list[str], tmp_path: Path) -> None:
    require_mosquitto()
    out = tmp_path / "out.json"
    command = [*way_in, "--devices", "24", "--updates", "2", "--connect-rate", "0"]
    assert run(["load", *command, "--watch-pid", str(os.getpid()), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["connected_at_once"] == figures["devices_done"] == 24
    assert figures["updates_counted"] == 48
    assert figures["updates_refused"] == {}
    assert figures["updates_unanswered"] == figures["counted_twice"] == figures["reconnects"] == 0
    assert figures["updates_lost"] == 0
    latency, shorter = figures["lease_to_receipt_s"], figures["publish_to_receipt_s"]
    assert 0 < shorter["p50"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    assert figures["updates_per_s"] > 0
    memory = figures["memory"]
    assert {"load", "broker", "aggregator"} < memory.keys()
    assert all(0 < found["rss_mib"] <= found["peak_mib"] for found in memory.values())


@pytest.mark.broker
def test_interrupted_it_says_what_ran_and_takes_its_processes_along(tmp_path: Path) -> None:
    require_mosquitto()
    command = ["load", "--scratch", "--devices", "5", "--updates", "1000000", "--rate", "5"]
    out = tmp_path / "out.json"
    with subprocess.Popen(
        [sys.executable, "-m", "fedbus", *command, "--json", str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        seen = _read_until(process.stdout.readline, lambda line: " 0 counted" not in line)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, seen + rest
    assert "interrupted" in rest
    assert json.loads(out.read_text())["updates_counted"] > 0
    assert list(tmp_path.iterdir()) == [out]


def _read_until(readline: Callable[[], str], done: Callable[[str], bool]) -> str:
    said, deadline = "", time.monotonic() + 30
    while (line := readline()) and time.monotonic() < deadline:
        said += line
        if done(line):
            return said
    raise AssertionError(said)
