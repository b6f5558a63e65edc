"""A flashed root is judged by what it does: its device joins a federation and is counted."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from device_sdk import SDK_VERSION
from firmware_scripts.bundle import REQUIREMENTS
from tests.firmware_scripts.workbench import command, make_root
from tests.support.federation import TASK, Federation
from tests.support.mosquitto import require_mosquitto

DEVICE = "device-1"
_DOWNLOAD = (sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:")
CONFIG = f"""
task = "{TASK}"
device = "{DEVICE}"
state_dir = "/var/lib/fedbus"
[broker]
port = {{port}}
password_file = "/etc/fedbus/password"
backoff_first_s = 0.1
[data]
file = "/var/lib/samples.npz"
[retry]
first_s = 0.5
"""


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """The real aggregator on the shipped broker with accounts; every update is a version."""
    require_mosquitto()
    folder = tmp_path / "federation"
    folder.mkdir()
    task = {"buffered": {"goal": 1, "max_wait_s": 3600.0}}
    with Federation(folder, [DEVICE], task=task, signed=False) as running:
        running.start_aggregator()
        yield running


@contextmanager
def _booted(root: Path, interpreter: Path) -> Iterator[None]:
    """Start what the unit in ``root`` starts, with every path inside ``root``."""
    unit = (root / "etc/systemd/system/fedbus-device.service").read_text()
    start = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    words = start.removeprefix("ExecStart=").split()
    config = root / "mapped.toml"
    text = (root / "etc/fedbus/device.toml").read_text()
    for place in ("/var/lib", "/etc/fedbus"):
        text = text.replace(f'"{place}', f'"{root}{place}')
    config.write_text(text)
    assert words[-1] == "/etc/fedbus/device.toml"
    process = subprocess.Popen(
        [interpreter, *words[1:-1], config],
        cwd=root / "var/lib",
        env={"PATH": os.defpath, **_environment(unit, root)},
    )
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(20) == 0


def _environment(unit: str, root: Path) -> dict[str, str]:
    lines = (line.partition("Environment=") for line in unit.splitlines())
    settings = (word.split("=", 1) for _, _, words in lines for word in shlex.split(words))
    return {name: value.replace("/opt/fedbus", f"{root}/opt/fedbus") for name, value in settings}


def _prepared(tmp_path: Path, federation: Federation) -> tuple[Path, list[str | Path]]:
    root = make_root(tmp_path)
    (root / "var/lib").mkdir(parents=True)
    generator = np.random.default_rng(7)
    x = generator.normal(size=(40, 8)).astype("f4")
    y = np.arange(40) % 4
    np.savez(root / "var/lib/samples.npz", x=x, y=y)
    config = tmp_path / "device.toml"
    config.write_text(CONFIG.format(port=federation.broker.port))
    secret = federation.folder / "broker" / "secrets" / DEVICE
    return root, ["flash", "--root", root, "--config", config, "--password-file", secret]


def _verify_as_told(said: str, federation: Federation, *, timeout_s: float = 20) -> tuple[int, str]:
    """Run the very command that flash has printed, as the monitor."""
    told = said.partition("to see it come: fedbus ")[2].split()
    secret = federation.folder / "broker" / "secrets" / "monitor"
    return command(*told, "--password-file", secret, "--timeout", str(timeout_s))


@pytest.mark.broker
def test_a_flashed_device_joins_and_its_updates_are_counted(
    tmp_path: Path, federation: Federation
) -> None:
    root, flash = _prepared(tmp_path, federation)
    flash += ["--python", "/usr/bin/python3"]
    status, said = command(*flash, "--yes")
    assert status == 0, said
    assert _verify_as_told(said, federation, timeout_s=1)[0] == 1, "nothing was started yet"
    with _booted(root, Path(sys.executable)):
        status, told = _verify_as_told(said, federation)
        assert status == 0, told
        assert f"SDK {SDK_VERSION}" in told
        federation.until(lambda: federation.version >= 3, "three updates of the device counted")

    # Flashed again, its old birth is still on the broker and does not count.
    (root / "etc/fedbus/device.toml").write_text("changed by hand")
    status, said = command(*flash, "--yes")
    assert "--after-boot" in said
    status, told = _verify_as_told(said, federation, timeout_s=1)
    assert (status, "from before" in told) == (1, True)
    with _booted(root, Path(sys.executable)):
        assert _verify_as_told(said, federation)[0] == 0


@pytest.mark.broker
@pytest.mark.slow
def test_the_environment_made_at_first_boot_carries_the_device(
    tmp_path: Path, federation: Federation
) -> None:
    wheelhouse = tmp_path / "wheels"
    fetched = subprocess.run(
        [*_DOWNLOAD, "--dest", str(wheelhouse), *REQUIREMENTS],
        capture_output=True,
        check=False,
        timeout=300,
    )
    if fetched.returncode:
        pytest.skip("no wheels to be had here")
    root, flash = _prepared(tmp_path, federation)
    status, said = command(*flash, "--wheelhouse", wheelhouse, "--yes")
    assert status == 0, said
    setup = root / "opt/fedbus/setup"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    nowhere = {"PATH": path, "PIP_INDEX_URL": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    for _ in range(2):
        subprocess.run([setup], env=nowhere, check=True, timeout=300)
    with _booted(root, root / "opt/fedbus/venv/bin/python"):
        assert _verify_as_told(said, federation)[0] == 0
        federation.until(lambda: federation.version >= 1, "an update of the device counted")
    assert "same     libraries" in command(*flash, "--wheelhouse", wheelhouse)[1]
