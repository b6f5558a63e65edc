"""The ARM root that tests run in: what is flashed into it, and what is started there."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from device_sdk import SDK_VERSION
from tests.firmware_scripts.workbench import command
from tests.support.federation import ROOT

DEVICE: Final = "arm"
PYTHON: Final = "/opt/libraries/bin/python"
ETC: Final = "etc/fedbus"  # below the root
STATE: Final = "var/lib/fedbus"  # below the root
TESTS: Final = "srv/fedbus"  # below the root: what is tested with there
#: A process starts some twenty times slower than on this machine.
PATIENCE_S: Final = 180.0
STOPS_WITHIN_S: Final = 30.0
UNUSED: Final = shutil.ignore_patterns("*.pyc", "__pycache__")


Process = subprocess.Popen[bytes]


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


@pytest.fixture
def root() -> Iterator[Path]:
    """The ARM root, without what an earlier test has put there."""
    folder = Path(os.environ["FEDBUS_ARM_ROOT"])
    clear(folder)
    yield folder
    clear(folder)


def clear(root: Path) -> None:
    """Take away what was flashed, what it has kept and what it was tested with."""
    for place in ("opt/fedbus", ETC, STATE, TESTS):
        shutil.rmtree(root / place, ignore_errors=True)
    for unit in (root / "etc/systemd/system").rglob("fedbus-*"):
        unit.unlink()


def flash(root: Path, *what: str | Path) -> str:
    """Flash the SDK and ``what`` as an engineer would; return what was said."""
    status, said = command("flash", "--root", root, "--python", PYTHON, *what, "--yes")
    assert status == 0, said
    return said


def comes(said: str, *login: str | Path) -> str:
    """Run what `flash` said that shows the device come; return what that says."""
    told = shlex.split(said.partition("to see it come: fedbus ")[2])
    status, seen = command(*told, *login, "--timeout", str(int(PATIENCE_S)))
    assert status == 0, seen
    assert f"SDK {SDK_VERSION}" in seen
    return seen.strip()


def inside(root: Path, folder: str, environment: Mapping[str, str], *words: str) -> list[str]:
    """Return the command line that runs ``words`` in a folder of the root."""
    settings = [f"{key}={value}" for key, value in environment.items()]
    enter = [str(ROOT / "scripts/arm/in-root"), str(root)]
    return [*enter, "env", f"--chdir={folder}", *settings, *words]


def module_of_tests(root: Path, *words: str) -> list[str]:
    """Return the command line that runs a module of the tests on the flashed SDK, in the root."""
    shutil.copytree(ROOT / "tests", root / TESTS / "tests", ignore=UNUSED)
    _, environment = unit_of(root)
    environment["PYTHONPATH"] = f"/{TESTS}:{environment['PYTHONPATH']}"
    return inside(root, f"/{TESTS}", environment, PYTHON, "-m", *words)


def unit_of(root: Path) -> tuple[list[str], dict[str, str]]:
    """Return what the unit in the root starts, and with which environment."""
    text = (root / "etc/systemd/system/fedbus-device.service").read_text()
    settings = [line.partition("=") for line in text.splitlines()]
    start = next(value for key, _, value in settings if key == "ExecStart")
    words = [
        word for key, _, value in settings if key == "Environment" for word in shlex.split(value)
    ]
    return shlex.split(start), dict(word.split("=", 1) for word in words)


@contextmanager
def running(words: Sequence[str], log: Path) -> Iterator[Process]:
    """Start a device; end it politely. The process is the emulator's, which becomes the device."""
    with log.open("ab") as out:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        try:
            status = process.wait(STOPS_WITHIN_S)
        finally:
            process.kill()
            process.wait()
    assert status == 0, log.read_text()
