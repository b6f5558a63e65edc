"""One device floods while the others work: how much of their rate stays, and when it is cut off.

A mosquitto, an aggregator and honest clients (`fedbus load`) at a set rate, each in processes of
their own; `benchmarks.flooder` publishes beside them as fast as the broker takes it. The broker is
followed as `fedbus broker up` does it. The rate is that of the updates which the aggregator has
accepted, from before the flood on.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.report import ROOT, Report, figure, ratio_of_medians, within
from fedbus.denials import start_following
from fedbus.listener import ACCOUNT, Listener
from fedbus.load_scratch import TASK, Scratch, device_names, running_scratch
from fedbus.view import count
from protocol.topics import DEFAULT_PREFIX, Topics

FLOODER: Final = "eve"
RATE: Final = 200.0
NUM_DEVICES: Final = 200
SECONDS: Final = 20.0
#: Runs without and with a flood take turns, so that what else the machine does befalls both.
NUM_RUNS: Final = 3
#: How long the honest ones work before it is measured: all are connected then.
WARM_UP_S: Final = 8.0
#: The reach: of the honest rate, and until the flooder is cut off.
REACH_RATE: Final = 0.8
REACH_S: Final = 5.0
_DEADLINE_S: Final = 60.0


def measure(*, quick: bool) -> Report:
    """Return honest rates without a flood and with one, and when the flooder was cut off."""
    seconds, num_runs = (4.0, 1) if quick else (SECONDS, NUM_RUNS)
    alone, flooded, told = [], [], []
    for _ in range(num_runs):
        alone.append(_run(seconds, flooding=False)[0])
        rate, said = _run(seconds, flooding=True)
        flooded.append(rate)
        told.append(said)
    ends = [said["cut_off_s"] for said in told]
    cut_off_s = max(seconds if end is None else end for end in ends)
    kept = ratio_of_medians(flooded, alone)
    return {
        "offered_updates_per_s": RATE,
        "devices": NUM_DEVICES,
        "window_s": seconds,
        "updates_per_s": {
            "alone": [figure(rate) for rate in alone],
            "beside_a_flood": [figure(rate) for rate in flooded],
        },
        "flooder_acknowledged": [said["acknowledged"] for said in told],
        "flooder_is_let_in_again": any(said["back"] for said in told),
        "honest_rate_kept": {"measured": kept, "reach": REACH_RATE, "met": kept >= REACH_RATE},
        "cut_off_s": within(figure(cut_off_s), REACH_S),
    }


def _run(seconds: float, *, flooding: bool) -> tuple[float, dict[str, float | None]]:
    """Return the updates accepted a second, and what the flooder said."""
    names = device_names(NUM_DEVICES)
    told: dict[str, float | None] = {}
    with (
        tempfile.TemporaryDirectory(prefix="fedbus-flood-") as folder,
        running_scratch(Path(folder), [*names, FLOODER]) as running,
        _listening(running) as listener,
        _load(running, seconds),
    ):
        start_following(running.broker, lambda line: print(line, file=sys.stderr))
        listener.listen(WARM_UP_S)
        since, before = time.monotonic(), _accepted(listener)
        flooder = _flood(running, seconds) if flooding else None
        listener.listen(seconds)
        rate = (_accepted(listener) - before) / (time.monotonic() - since)
        if flooder is not None:
            told = json.loads(flooder.communicate(timeout=_DEADLINE_S)[0])
    return rate, told


@contextmanager
def _listening(running: Scratch) -> Iterator[Listener]:
    broker = running.broker
    listener = Listener(
        host=broker.host,
        port=broker.port,
        prefix=DEFAULT_PREFIX,
        task=TASK,
        password_file=broker.files.secret(ACCOUNT),
    )
    with listener:
        listener.await_task(_DEADLINE_S)
        yield listener


def _accepted(listener: Listener) -> int:
    return count(listener.view.report("metrics"), "updates_accepted")


@contextmanager
def _load(running: Scratch, seconds: float) -> Iterator[None]:
    """Let honest clients send updates for longer than anybody looks."""
    broker = running.broker
    updates = round(2 * RATE * (seconds + WARM_UP_S) / NUM_DEVICES)
    command = [
        *(sys.executable, "-m", "fedbus", "load", "--task", TASK),
        *("--broker", f"{broker.host}:{broker.port}"),
        *("--passwords", str(broker.files.secret(""))),
        *("--devices", str(NUM_DEVICES), "--updates", str(updates), "--rate", str(RATE)),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _flood(running: Scratch, seconds: float) -> subprocess.Popen[bytes]:
    topic = Topics(DEFAULT_PREFIX, TASK).update(0, FLOODER)
    secret = running.broker.files.secret(FLOODER)
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.flooder", str(running.broker.port)),
            *(FLOODER, str(secret), topic, str(seconds)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
