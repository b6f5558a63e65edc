"""Memory of a device that trains: PSS over its whole process tree, in a real federation.

A broker, an aggregator and one device, each as their users start them; rounds of one. What other
processes map too counts in part (PSS), so RSS stands beside it: with the device alone on its board
the truth is in between. The peak is that of samples, taken all the time while versions are made.
"""

import json
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from benchmarks.report import Report, figure, within
from benchmarks.watcher import Watcher
from broker_config.accounts import AGGREGATOR
from broker_config.running import Broker, running_broker
from device_sdk.engine import parse_spec
from device_sdk.engine.specs import named_spec
from fedbus.children import Child, start, stop

TASK: Final = "memory"
DEVICE: Final = "device-1"
NUM_SAMPLES: Final = 640
_SAMPLE_S: Final = 0.005


class _Sample(NamedTuple):
    """Memory of a process tree, in KiB."""

    pss: int
    rss: int
    processes: int


#: The named specs, and the most that a device may take for each, in MiB.
REACHES: Final = {"mlp": 48.0, "cnn": 56.0, "gru": 56.0}


def measure(*, quick: bool) -> Report:
    """Measure every spec; quick: two versions of one."""
    names = list(REACHES)[:1] if quick else list(REACHES)
    return {name: _measure(name, versions=2 if quick else 8) for name in names}


def _measure(name: str, versions: int) -> Report:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_broker(Path(folder) / "broker", [DEVICE], engine="mosquitto") as broker,
    ):
        fed = _write_aggregator(Path(folder) / AGGREGATOR, broker, name)
        device = _write_device(Path(folder) / DEVICE, broker, name)
        children: list[Child] = []
        try:
            run = ["fedbus", "aggregator", "run", "--config", str(fed)]
            children.append(start(AGGREGATOR, run, fed.with_name("log"), {}))
            run = ["device_sdk", "run", "--config", str(device)]
            children.append(start(DEVICE, run, device.with_name("log"), {}))
            with Watcher(TASK, broker) as watcher:
                return _peak(children, watcher, versions, REACHES[name])
        finally:
            stop(children)


def _peak(children: list[Child], watcher: Watcher, versions: int, reach: float) -> Report:
    pid = children[-1].process.pid
    manifests = watcher.manifests()
    first = next(manifests).version
    end = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        sampling = pool.submit(_samples, pid, end)
        try:
            while next(manifests).version < first + versions:
                pass
        finally:
            end.set()
    samples = sampling.result()
    return {
        "pss_peak_mib": within(figure(max(each.pss for each in samples) / 1024, 3), reach),
        "rss_peak_mib": figure(max(each.rss for each in samples) / 1024, 3),
        "samples": len(samples),
        "processes": max(each.processes for each in samples),
    }


def _samples(pid: int, end: threading.Event) -> list[_Sample]:
    """Look at the process tree all the time, until the end."""
    found = []
    while not end.wait(_SAMPLE_S):
        tree = _tree(pid)
        pss, rss = (sum(_kib(each, key) for each in tree) for key in ("Pss:", "Rss:"))
        found.append(_Sample(pss, rss, len(tree)))
    return found


def _tree(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text(encoding="ascii").split()]
    return [pid, *(each for child in children for each in _tree(int(child)))]


def _kib(pid: int, key: str) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    (line,) = (line for line in rollup.splitlines() if line.startswith(key))
    return int(line.split()[1])


# --- the two configurations ----------------------------------------------------------------------


def _write_aggregator(folder: Path, broker: Broker, name: str) -> Path:
    folder.mkdir(mode=0o700)
    return _write(
        folder / "fed.toml",
        {
            "": {"state_dir": str(folder / "state")},
            "task": {"task": TASK, "mode": "rounds", "check_in_s": 1},
            "task.model": named_spec(name),
            "task.training": {"batch_size": 32, "learning_rate": 0.01},
            "task.rounds": {"size": 1, "quorum": 1, "gather_s": 0.1},
            "broker": _broker_table(folder, broker, AGGREGATOR),
            "secure": {"scheme": "none"},
            "identity": {"required": False},
        },
    )


def _write_device(folder: Path, broker: Broker, name: str) -> Path:
    folder.mkdir(mode=0o700)
    spec = parse_spec(named_spec(name))
    random = np.random.default_rng(0)
    x = random.random((NUM_SAMPLES, *spec.input), dtype=np.float32)
    np.savez(folder / "data.npz", x=x, y=np.arange(NUM_SAMPLES) % spec.shapes[-1][0])
    return _write(
        folder / "device.toml",
        {
            "": {"task": TASK, "device": DEVICE, "state_dir": str(folder / "state")},
            "data": {"file": str(folder / "data.npz")},
            "broker": _broker_table(folder, broker, DEVICE),
        },
    )


def _broker_table(folder: Path, broker: Broker, account: str) -> Mapping[str, object]:
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_bytes(broker.files.secret(account).read_bytes())
    return {"host": broker.host, "port": broker.port, "password_file": str(password)}


def _write(path: Path, tables: Mapping[str, Mapping[str, object]]) -> Path:
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]"] if name else []
        lines += [f"{key} = {_toml(value)}" for key, value in table.items()] + [""]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _toml(value: Any) -> str:  # noqa: ANN401 - what JSON can hold
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"
    return json.dumps(value)
