"""A real mosquitto on a free loopback port, to be killed and brought back.

Importing `broker` (or `mosquitto`) into a test module or a conftest makes it a fixture there::

    from tests.support.mosquitto import broker  # noqa: F401
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

import pytest

from broker_config.running import free_port

_STARTS_WITHIN_S: Final = 10.0
_STOPS_WITHIN_S: Final = 5.0
# Connect, MQTT 3.1.1, clean session, no keepalive, client id "up?"
_CONNECT: Final = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x00\x00\x03up?"

#: No silent limits, anybody may do anything; what tests need that are not about configuration.
OPEN: Final = """
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 0
max_inflight_messages 100
"""

#: As `OPEN`, and what a client was promised survives the broker's death.
PERSISTENT: Final = (
    OPEN
    + """
persistence true
autosave_on_changes true
autosave_interval 1
"""
)


def find_mosquitto() -> str | None:
    """Return the program's path; Debian keeps it where not every PATH leads."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


class Mosquitto:
    """One broker. ``config`` is added to a listener on 127.0.0.1; ``folder`` keeps what persists.

    As a context manager it starts and stops; `kill` is SIGKILL, and `start` after it comes back on
    the same port with the same persistence. With a ``port`` given, ``config`` is used as it is, and
    has a listener there that takes plain connections.
    """

    def __init__(self, folder: Path, config: str = OPEN, *, port: int | None = None) -> None:
        self.folder = folder
        self.port = free_port() if port is None else port
        self._is_whole = port is not None
        self.config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the broker has said so far."""
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process id. Raise RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError("the broker is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start and wait until it accepts a client. Raise RuntimeError with its log if it fails."""
        program = find_mosquitto()
        if program is None:
            raise RuntimeError("mosquitto is not installed")
        path = self.folder / "mosquitto.conf"
        path.write_text(self._configuration())
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(path)], stdout=log, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + _STARTS_WITHIN_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"mosquitto did not start:\n{self.log}")
            time.sleep(0.01)  # there is nothing to wait on before it listens
        return self

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(subprocess.Popen.kill)

    def reload(self) -> None:
        """Have it read its files again, and wait until it says that it has begun to."""
        before = self.log.count("Reloading config")
        os.kill(self.pid, signal.SIGHUP)
        until = time.monotonic() + _STARTS_WITHIN_S
        while self.log.count("Reloading config") == before and time.monotonic() < until:
            time.sleep(0.01)  # it answers nobody while it reads

    def stop(self) -> None:
        """End it politely; it saves what persists."""
        self._end(subprocess.Popen.terminate)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _configuration(self) -> str:
        if self._is_whole:
            return self.config
        location = f"persistence_location {self.folder}{os.sep}\n"
        # started by root it would become the user mosquitto, who may not write into our folder
        user = "user root\n" if os.geteuid() == 0 else ""
        text = f"listener {self.port} 127.0.0.1\n{user}{self.config}\n"
        return text + location if "persistence true" in text else text

    def _answers(self) -> bool:
        """Whether a CONNECT gets a CONNACK, be it a refusal."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as client:
                client.sendall(_CONNECT)
                return client.recv(1) == b"\x20"
        except OSError:
            return False

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        how(process)
        try:
            process.wait(_STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def require_mosquitto() -> None:
    """Skip the test without mosquitto; fail it where CI promises one."""
    if find_mosquitto() is not None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail("mosquitto is missing, and CI=true promises it")
    pytest.skip("mosquitto is not installed")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker, configured as `OPEN`, stopped after the test."""
    require_mosquitto()
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder) as running:
        yield running


@pytest.fixture
def persistent_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running broker, configured as `PERSISTENT`, stopped after the test."""
    require_mosquitto()
    folder = tmp_path / "broker"
    folder.mkdir()
    with Mosquitto(folder, PERSISTENT) as running:
        yield running
