"""Start a broker on generated files, and stop it again."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from broker_config.accounts import MONITOR
from broker_config.files import BrokerFiles, write_broker
from broker_config.probe import accepts
from broker_config.programs import BrokerError, Engine, Program, find_program
from protocol.topics import DEFAULT_PREFIX

START_DEADLINE_S: Final = 15.0
STOP_DEADLINE_S: Final = 10.0
_POLL_S: Final = 0.02
_PORT_TRIES: Final = 5
_LOG_TAIL: Final = 2000
_TAKEN: Final = "address already in use"

_Process = subprocess.Popen[bytes]


class _PortTakenError(BrokerError):
    """Somebody else has the port."""


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker. ``name`` has its version; an ``embedded`` one is for trying things out."""

    name: str
    host: str
    port: int
    pid: int
    embedded: bool
    files: BrokerFiles


@dataclass(frozen=True, slots=True)
class _Order:
    program: Program
    directory: Path
    devices: tuple[str, ...]
    host: str
    prefix: str
    log: Path | None  # None: our own standard error


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])


@contextmanager
def running_broker(
    directory: Path,
    devices: Iterable[str] = (),
    *,
    engine: Engine = "auto",
    host: str = "127.0.0.1",
    port: int = 0,
    prefix: str = DEFAULT_PREFIX,
    choose_port: Callable[[str], int] = free_port,
) -> Iterator[Broker]:
    """Run a broker for ``devices`` while the context lasts; its log goes to ``files.log``.

    The password of each account is in ``files.secret(account)``. Port 0 takes a free one, and
    another if somebody was faster. Raises BrokerError if the broker cannot be started,
    ConfigError for a device or prefix that cannot be spelled.
    """
    log = BrokerFiles(directory).log
    order = _Order(find_program(engine), directory, tuple(devices), host, prefix, log)
    broker, process = _start(order, port) if port else _start_anywhere(order, choose_port)
    try:
        yield broker
    finally:
        _stop(process)


def serve(
    directory: Path,
    port: int = 1883,
    host: str = "127.0.0.1",
    *,
    devices: Iterable[str] = (),
    engine: Engine = "auto",
    prefix: str = DEFAULT_PREFIX,
    on_start: Callable[[Broker], None] = lambda _: None,
) -> int:
    """Run a broker in the foreground until it ends or we are told to; return its exit status.

    Missing accounts (services, ``devices``) are made first. SIGINT and SIGTERM stop the broker,
    SIGHUP makes it read its passwords and rules again; its log is our standard error. To be
    called from the main thread. Raises what `running_broker` raises.
    """
    order = _Order(find_program(engine), directory, tuple(devices), host, prefix, None)
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        stack.enter_context(_handled(signal.SIGTERM, _interrupt))
        broker, process = _start(order, port)
        stack.callback(_stop, process)
        stack.enter_context(_handled(signal.SIGHUP, lambda *_: process.send_signal(signal.SIGHUP)))
        on_start(broker)
        return process.wait()
    return 0


def _start_anywhere(order: _Order, choose_port: Callable[[str], int]) -> tuple[Broker, _Process]:
    for _ in range(_PORT_TRIES - 1):
        with suppress(_PortTakenError):
            return _start(order, choose_port(order.host))
    return _start(order, choose_port(order.host))


def _start(order: _Order, port: int) -> tuple[Broker, _Process]:
    files = write_broker(
        order.directory, order.devices, port=port, host=order.host, prefix=order.prefix
    )
    _check_free(order.host, port)
    process = _launch(order.program.command(files, order.host, port, order.prefix), order.log)
    try:
        _await(process, order, files, port)
    except BaseException:
        _stop(process)
        raise
    broker = Broker(
        order.program.name, order.host, port, process.pid, order.program.embedded, files
    )
    return broker, process


def _check_free(host: str, port: int) -> None:
    """Without this, the broker that has the port already might answer in place of ours."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise _PortTakenError(f"{host}:{port}: {error.strerror}") from None


def _launch(command: list[str], log: Path | None) -> _Process:
    if log is None:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command
    with log.open("wb") as out:
        return subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )


def _await(process: _Process, order: _Order, files: BrokerFiles, port: int) -> None:
    """Return when the broker lets the monitor in: it listens, and it is the one we configured."""
    password = files.secret(MONITOR).read_text(encoding="utf-8").strip()
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _failure(order, f"ended with status {process.returncode}")
        if accepts(order.host, port, MONITOR, password):
            return
        time.sleep(_POLL_S)
    raise _failure(order, f"lets nobody in after {START_DEADLINE_S:g} s")


def _failure(order: _Order, what: str) -> BrokerError:
    said = (
        order.log.read_text(errors="replace")[-_LOG_TAIL:] if order.log else "(see its log above)"
    )
    kind = _PortTakenError if _TAKEN in said.lower() else BrokerError
    return kind(f"{order.program.name} {what}:\n{said}")


def _stop(process: _Process) -> None:
    """End the broker; it saves its state on SIGTERM."""
    process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _handled(
    number: signal.Signals, handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
