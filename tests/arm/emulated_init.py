"""A device on 32-bit ARM joins a task as `fedbus init` makes it: TLS, signed and masked.

Nothing is edited: only the pace is set, by options of `fedbus init`, and each device gets its data.
"""

import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from broker_config.running import free_port
from fedbus.__main__ import main
from fedbus.workplace import Workplace
from tests.arm.armhf import (
    DEVICE,
    ETC,
    PATIENCE_S,
    PYTHON,
    STATE,
    Process,
    comes,
    flash,
    inside,
    root,
    running,
    say,
    unit_of,
)
from tests.fedbus.test_secure_by_default import process
from tests.support.mosquitto import require_mosquitto

__all__ = ["root"]

pytestmark = pytest.mark.broker

NATIVE: Final = ("ada", "ben", "cleo")
#: Every version takes one update of each device.
PACE: Final = (
    "task.check_in_s=1",
    "task.buffered.goal=4",
    "task.buffered.min_contributors=4",
    "task.buffered.max_wait_s=3600",
)
NUM_VERSIONS: Final = 5
LIBRARIES: Final = "numpy, nacl.bindings, msgpack, paho.mqtt.client"
_POLL_S: Final = 0.1


def test_an_arm_device_is_counted_in_a_task_as_init_makes_it(root: Path, tmp_path: Path) -> None:
    require_mosquitto()
    place = _made(tmp_path / "farm")
    with ExitStack() as stack:
        stack.enter_context(_telling(tmp_path))
        log = tmp_path / "broker.log"
        stack.enter_context(process(["fedbus", "broker", "up", "farm"], tmp_path, log))
        _until(lambda: b"with TLS" in log.read_bytes(), "broker with TLS")
        serve = ["fedbus", "aggregator", "run", "--config", "fed.toml"]
        stack.enter_context(process(serve, place.directory, tmp_path / "aggregator.log"))
        for name in NATIVE:
            run = ["device_sdk", "run", "--config", "device.toml"]
            stack.enter_context(process(run, place.carried(name), tmp_path / f"{name}.log"))
        said = flash(root, "--carry", place.carried(DEVICE))
        _give_data(root / ETC, 0)  # beside the settings that name it
        (root / STATE).mkdir()
        with _on_arm(root, tmp_path) as device:
            began = time.monotonic()
            say(f"{comes(said)} ({time.monotonic() - began:.0f} s after its start)")
            _until(lambda: len(_versions(place)) >= NUM_VERSIONS, "versions")
            took = time.monotonic() - began
            say(f"masked and over TLS, counted in the versions {_versions(place)} ({took:.0f} s)")
            peak = _peak_mib(device)
        bare, libraries = _bare_mib(root, "sys"), _bare_mib(root, LIBRARIES)
        say(f"{peak:.1f} MiB at most (python {bare:.1f}, with the four libraries {libraries:.1f})")
    assert f"u'{DEVICE}'" in log.read_text()


def _made(directory: Path) -> Workplace:
    """Make a federation as a user does."""
    place, port = Workplace(directory), free_port()
    devices = [word for name in (DEVICE, *NATIVE) for word in ("--device", name)]
    pace = [word for each in PACE for word in ("--set", each)]
    ports = ("--port", str(port), "--password-port", "0")
    assert main(["init", str(directory), *devices, *ports, *pace]) == 0
    for number, name in enumerate(NATIVE, start=1):
        _give_data(place.carried(name), number)
    return place


def _give_data(folder: Path, number: int) -> None:
    folder.mkdir(exist_ok=True)
    x = np.random.default_rng(number).normal(size=(40, 64)).astype("f4")
    np.savez(folder / "data.npz", x=x, y=np.arange(40) % 10)


@contextmanager
def _on_arm(root: Path, folder: Path) -> Iterator[Process]:
    """Run what the flashed unit runs."""
    start, environment = unit_of(root)
    with running(
        inside(root, f"/{STATE}", environment, *start), folder / f"{DEVICE}.log"
    ) as device:
        yield device


@contextmanager
def _telling(folder: Path) -> Iterator[None]:
    """Where something fails, say what everybody has said."""
    try:
        yield
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            say(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")
        raise


def _until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{PATIENCE_S:g} s: no {what}"
        time.sleep(_POLL_S)


def _versions(place: Workplace) -> list[int]:
    path = place.aggregator / "state" / "digits.sqlite"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        rows = store.execute(
            "SELECT DISTINCT counted_in FROM fedbus_lease"
            " WHERE device = ? AND counted_in IS NOT NULL ORDER BY counted_in",
            (DEVICE,),
        ).fetchall()
    return [int(version) for (version,) in rows]


def _peak_mib(process: Process) -> float:
    """Return the most memory that a program has had resident, its emulator's own included."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _bare_mib(root: Path, imports: str) -> float:
    """Return the same of an ARM interpreter that imports something and ends."""
    program = f"import {imports}; print(open('/proc/self/status').read())"
    words = inside(root, "/", {}, PYTHON, "-c", program)
    ran = subprocess.run(words, capture_output=True, check=True, timeout=PATIENCE_S, text=True)
    return int(ran.stdout.partition("VmHWM:")[2].split()[0]) / 1024
