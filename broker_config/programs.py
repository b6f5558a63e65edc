"""Which broker can be started on this machine: mosquitto, else the embedded amqtt."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Final, Literal

from broker_config.files import BrokerFiles

Engine = Literal["auto", "mosquitto", "amqtt"]

_SBIN: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
_VERSION_DEADLINE_S: Final = 10.0


class BrokerError(Exception):
    """The broker did not start; the message says why, with what it said itself."""


@dataclass(frozen=True, slots=True)
class Program:
    """A broker that can be started. ``command`` takes its files, host, port and topic prefix."""

    name: str
    embedded: bool
    command: Callable[[BrokerFiles, str, int, str], list[str]]


def find_program(engine: Engine = "auto") -> Program:
    """Return the broker to start. Raises BrokerError, with what to install, if there is none."""
    path = shutil.which("mosquitto") or shutil.which("mosquitto", path=_SBIN)
    if path is not None and engine != "amqtt":
        return _mosquitto(path)
    if engine != "mosquitto":
        return _amqtt()
    raise BrokerError("no mosquitto on the PATH: install it (Debian: apt-get install mosquitto)")


def _mosquitto(path: str) -> Program:
    def command(files: BrokerFiles, _host: str, _port: int, _prefix: str) -> list[str]:
        return [path, "-c", str(files.config)]

    return Program(f"mosquitto {_version_of(path)}".strip(), embedded=False, command=command)


def _version_of(path: str) -> str:
    asked = subprocess.run(  # noqa: S603 - the mosquitto that find_program found
        [path, "-h"], capture_output=True, check=False, timeout=_VERSION_DEADLINE_S
    )
    said = re.search(rb"mosquitto version (\S+)", asked.stdout + asked.stderr)
    return said[1].decode() if said else ""


def _amqtt() -> Program:
    try:
        version = metadata.version("amqtt")
    except metadata.PackageNotFoundError:
        raise BrokerError(
            "no broker here: install mosquitto (Debian: apt-get install mosquitto), "
            "or the embedded one (pip install 'fedbus[demo]')"
        ) from None
    return Program(f"amqtt {version}", embedded=True, command=_embedded_command)


def _embedded_command(files: BrokerFiles, host: str, port: int, prefix: str) -> list[str]:
    module = [sys.executable, "-m", "broker_config.embedded"]
    return [*module, str(files.directory), "--host", host, "--port", str(port), "--prefix", prefix]
