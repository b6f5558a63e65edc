"""``tls``: 1,000 devices come back at once over mutual TLS: the broker is killed, and starts again.

Real mosquitto as `fedbus init` configures it, a certificate for each client; the clients' sessions,
transports and back-off (its jitter, too) are the product's, all in one process. Training takes 4 to
12 seconds, so that the storm finds most with an update to train or to deliver. "Back" is a client
whose CONNECT was accepted again; seconds count from the moment the broker listens again.
"""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.report import Report, Value
from broker_config.running import running_secure_broker
from fedbus.load import SPARE_FILES, allow_files
from fedbus.load_fleet import Fleet, Pace
from fedbus.load_scratch import TASK, Scratch, device_names, running_scratch
from fedbus.load_trainer import DryTrainer
from protocol.topics import DEFAULT_PREFIX, Topics

DEVICES: Final = 1_000
QUICK_DEVICES: Final = 20
UPDATES: Final = 2
TRAIN_S: Final = 8.0
QUICK_TRAIN_S: Final = 1.0
#: When a device asks after an update that has no receipt, as by default.
RETRY_S: Final = 15.0
#: So many updates have been sent when the broker dies.
STORM_AFTER: Final = 0.2
DEADLINE_S: Final = 240.0
_TURN_S: Final = 0.05


def measure(*, quick: bool) -> Report:
    """Run it once. Quick: 20 clients."""
    names = device_names(QUICK_DEVICES if quick else DEVICES)
    allow_files(len(names) + SPARE_FILES)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_scratch(Path(folder), names, tls=True) as running,
        Fleet(
            Topics(DEFAULT_PREFIX, TASK),
            {name: running.broker_config(name) for name in names},
            DryTrainer(),
            num_updates=UPDATES,
            pace=Pace(connects_per_s=0, train_s=QUICK_TRAIN_S if quick else TRAIN_S),
            retry_first_s=1.0 if quick else RETRY_S,
        ) as fleet,
    ):
        return _storm(running, fleet, len(names))


def _storm(running: Scratch, fleet: Fleet, num_devices: int) -> Report:
    begun = time.monotonic()
    fleet.ramp()
    first_s = _turn_until(fleet, lambda: fleet.num_connected == num_devices) - begun
    sent = round(STORM_AFTER * num_devices * UPDATES)
    _turn_until(fleet, lambda: _num_sent(fleet) >= sent)
    under_way = sum(client.holds_update for client in fleet.clients)
    _kill(running.broker.pid)
    with running_secure_broker(running.broker.files.directory):
        up_at = time.monotonic()
        back = _back(fleet, up_at)
        _turn_until(fleet, lambda: fleet.num_done == num_devices)
        done_s = time.monotonic() - up_at
        ledger = fleet.ledger
        return {
            "devices": num_devices,
            "first_connects_s": round(first_s, 2),
            "updates_held_when_it_died": under_way,
            "back": len(back),
            "back_s": _percentiles(back),
            "all_done_s": round(done_s, 2),
            "updates_counted": len(ledger.receipts),
            "updates_lost": fleet.num_lost,
            "counted_twice": ledger.counted_twice + ledger.answered_twice,
        }


def _back(fleet: Fleet, since: float) -> list[float]:
    """Return after how many seconds each client was back; those that never were are missing."""
    before = {client: client.num_connects for client in fleet.clients}
    back: list[float] = []

    def all_back() -> bool:
        now = time.monotonic()
        for client in [each for each, count in before.items() if each.num_connects > count]:
            del before[client]
            back.append(now - since)
        return not before

    _turn_until(fleet, all_back)
    return back


def _num_sent(fleet: Fleet) -> int:
    return fleet.ledger.num_settled + len(fleet.ledger.unanswered)


def _percentiles(seconds: list[float]) -> dict[str, Value]:
    p50, p95, last = np.percentile(seconds or [0.0], (50, 95, 100))
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "max": round(float(last), 2)}


def _turn_until(fleet: Fleet, done: Callable[[], bool]) -> float:
    """Let the fleet live until ``done``, for `DEADLINE_S` at most; return when that was."""
    until = time.monotonic() + DEADLINE_S
    while not done() and time.monotonic() < until:
        fleet.turn(_TURN_S)
    return time.monotonic()


def _kill(pid: int) -> None:
    """End the broker as a power cut would, and wait until its port is free."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
