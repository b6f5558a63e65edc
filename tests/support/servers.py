"""Other real brokers on free loopback ports: nats-server, and RabbitMQ with its MQTT plugin."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from broker_config.running import free_port

_SBIN: Final = "/usr/sbin:/usr/lib/rabbitmq/bin"
#: RabbitMQ may take minutes to start on a busy machine, but goes on talking.
_SILENT_FOR_S: Final = 90.0
_STOPS_WITHIN_S: Final = 15.0
_LOOPBACK: Final = "-kernel inet_dist_use_interface {127,0,0,1}"
#: One scheduler, and no thread of Erlang's that waits by spinning: the machine has other tests.
_MODEST: Final = "+S 1:1 +SDcpu 1:1 +SDio 1 +A 1 +sbwt none +sbwtdcpu none +sbwtdio none"


def require_program(name: str) -> str:
    """Return a program's path; skip the test without it, fail it where CI promises it."""
    path = shutil.which(name, path=_SBIN) or shutil.which(name)
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing, and CI=true promises it")
    pytest.skip(f"{name} is not installed")


@contextmanager
def nats_server(folder: Path) -> Iterator[None]:
    """Run nats-server on ``nats-server.conf`` until the context ends."""
    command = [require_program("nats-server"), "-c", "nats-server.conf"]
    with _running(command, folder, "Server is ready", {}):
        yield


@contextmanager
def rabbitmq_server(folder: Path) -> Iterator[None]:
    """Run RabbitMQ on ``rabbitmq.conf``: a node, and a port mapper, of its own."""
    # the wrapper in /usr/sbin would start it as another user, who may not read our folder
    program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
    if not Path(program).exists():
        program = require_program("rabbitmq-server")
    mapper = str(free_port())
    variables = {
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"fedbus-{os.getpid()}@localhost",
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_LOOPBACK} {_MODEST}",
        "ERL_EPMD_PORT": mapper,
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    try:
        # it listens some seconds before it has read who may come in
        with _running([program], folder, "Server startup complete", variables):
            yield
    finally:
        subprocess.run(["epmd", "-port", mapper, "-kill"], capture_output=True, check=False)


@contextmanager
def _running(
    command: list[str], folder: Path, says_when_up: str, variables: Mapping[str, str]
) -> Iterator[None]:
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        said, until = "", time.monotonic() + _SILENT_FOR_S
        while says_when_up not in said:
            before, said = said, log.read_text(errors="replace")
            if said != before:
                until = time.monotonic() + _SILENT_FOR_S
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{command[0]} did not start:\n{said[-4000:]}")
            time.sleep(0.05)  # a file has no way to call us
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
