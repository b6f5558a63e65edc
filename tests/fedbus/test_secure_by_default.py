"""What `fedbus init` writes, run without an edit: broker, aggregator and devices, as processes."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from sklearn.datasets import load_digits

from broker_config.revoke import denied_devices
from broker_config.running import free_port
from fedbus.__main__ import main
from fedbus.listener import Listener
from fedbus.view import count
from fedbus.workplace import Workplace
from protocol.topics import DEFAULT_PREFIX
from tests.support.mosquitto import require_mosquitto
from transport.settings import Tls

NAMES: Final = ("device-1", "device-2", "device-3")
PATIENCE_S: Final = 100.0
_ENVIRONMENT: Final = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
ROOT: Final = Path(__file__).parents[2]


@contextmanager
def process(module: Sequence[str], within: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our commands in a folder while the context lasts."""
    environment = {**_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", *module], cwd=within, stdout=out, stderr=out, env=environment
        ) as child,
    ):
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def give_data(place: Workplace) -> None:
    """The one thing that init cannot make: each device's own data."""
    x, y = load_digits(return_X_y=True)
    for number, name in enumerate(NAMES):
        part = slice(number, None, len(NAMES))
        np.savez(
            place.carried(name) / "data.npz",
            x=(x[part] / 16).astype(np.float32),
            y=y[part].astype(np.int64),
        )


def revoked_within_s(place: Workplace, port: int, device: str, limit_s: float) -> None:
    """Revoke a device as an operator would; the broker must soon refuse its certificate."""
    own, carried = place.directory.with_name("stolen"), place.carried(device)
    own.mkdir()
    for name in ("ca.crt", "device.crt", "device.key"):
        shutil.copy(carried / name, own)
    assert main(["devices", "revoke", device, "--config", str(place.fed)]) == 0
    begun = time.monotonic()
    assert not (place.carried(device) / "keys.json").exists()
    tls = Tls(own / "ca.crt", own / "device.crt", own / "device.key")
    with Listener(
        host="127.0.0.1", port=port, prefix=DEFAULT_PREFIX, task="digits", tls=tls
    ) as stolen:
        assert stolen.listen_until(lambda: "was revoked" in stolen.problem, limit_s), stolen.problem
    assert device in denied_devices(place.broker)
    assert time.monotonic() - begun < limit_s


@pytest.mark.broker
@pytest.mark.slow
def test_a_fresh_init_trains_over_mutual_tls_with_masked_updates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_mosquitto()
    place = Workplace(tmp_path / "farm")
    port = free_port()
    command = ["init", str(place.directory), "--port", str(port), "--password-port", "0"]
    assert main(command) == 0
    capsys.readouterr()
    give_data(place)
    certificate, key = place.service("monitor")
    listener = Listener(
        host="127.0.0.1",
        port=port,
        prefix=DEFAULT_PREFIX,
        task="digits",
        tls=Tls(place.ca / "ca.crt", certificate, key),
    )
    with ExitStack() as stack:
        log = tmp_path / "broker.log"
        stack.enter_context(process(["fedbus", "broker", "up", "farm"], tmp_path, log))
        until(lambda: b"with TLS" in log.read_bytes(), "a broker with TLS")
        stack.enter_context(
            process(
                ["fedbus", "aggregator", "run", "--config", "fed.toml"],
                place.directory,
                tmp_path / "aggregator.log",
            )
        )
        for name in NAMES:
            stack.enter_context(
                process(
                    ["device_sdk", "run", "--config", "device.toml"],
                    place.carried(name),
                    tmp_path / f"{name}.log",
                )
            )
        stack.enter_context(listener)
        reached = listener.listen_until(
            lambda: count(listener.view.report("metrics"), "version") >= 1, PATIENCE_S
        )
        said = {path.name: path.read_text()[-1500:] for path in tmp_path.glob("*.log")}
        assert reached, said
        metrics = listener.view.report("metrics")
        assert count(metrics, "updates_accepted") >= len(NAMES)
        assert main(["status", "--dir", str(place.directory)]) == 0
        revoked_within_s(place, port, "device-3", 5.0)
    connected = [line for line in log.read_text().splitlines() if "New client connected" in line]
    assert {line.split("u'")[1].split("'")[0] for line in connected} == {
        "aggregator",
        "monitor",
        *NAMES,
    }
