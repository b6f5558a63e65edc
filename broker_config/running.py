"""Start a broker on generated files, and stop it again."""

import errno
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from broker_config.accounts import MONITOR
from broker_config.files import BrokerFiles, write_broker
from broker_config.leash import leashed
from broker_config.mosquitto import listening, password_listener
from broker_config.probe import accepts, speaks_tls
from broker_config.programs import BrokerError, Engine, Program, find_program
from broker_config.revoke import running_pid
from protocol.topics import DEFAULT_PREFIX

START_DEADLINE_S: Final = 15.0
STOP_DEADLINE_S: Final = 10.0
_POLL_S: Final = 0.02
_PORT_TRIES: Final = 5
_LOG_TAIL: Final = 2000
#: Systems draw the ports of outgoing connections from above these.
_BELOW_CLIENTS: Final = range(20_000, 32_000)
_MOST_TRIALS: Final = 100
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
    """What to start, in the folder ``within``, and how to see that it is there."""

    program: Program
    files: BrokerFiles
    host: str
    port: int
    within: Path | None
    lets_in: Callable[[], bool]
    log: Path | None  # None: our own standard error
    command: list[str]


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that was free a moment ago, and is not taken by some client's connection next.

    Raises BrokerError if none is found.
    """
    for port in secrets.SystemRandom().sample(_BELOW_CLIENTS, _MOST_TRIALS):
        with socket.socket() as trial, suppress(OSError):
            trial.bind((host, port))
            return port
    raise BrokerError(f"no free port on {host}: name one")


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
    ConfigError for a device or prefix that cannot be spelled, and for secrets that others may read.
    """
    log = BrokerFiles(directory).log
    program, names = find_program(engine), tuple(devices)

    def order(port: int) -> _Order:
        return _plain(program, directory, names, host=host, port=port, prefix=prefix, log=log)

    broker, process = (
        _start(order(port)) if port else _start_anywhere(order, lambda: choose_port(host))
    )
    try:
        yield broker
    finally:
        _stop(process)


@contextmanager
def running_secure_broker(directory: Path) -> Iterator[Broker]:
    """Run the mosquitto of a folder by `write_secure_broker` while the context lasts.

    Its log goes to ``files.log``. Raises BrokerError if it cannot be started.
    """
    broker, process = _start(_secure(directory, BrokerFiles(directory).log))
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
    program = find_program(engine)
    names = tuple(devices)
    return _serve(
        lambda: _plain(program, directory, names, host=host, port=port, prefix=prefix, log=None),
        on_start,
    )


def serve_secure(directory: Path, on_start: Callable[[Broker], None] = lambda _: None) -> int:
    """Run the mosquitto of a folder by `write_secure_broker` as `serve` does.

    SIGHUP makes it read its list of revoked certificates again, too.
    """
    return _serve(lambda: _secure(directory, None), on_start)


def _serve(order: Callable[[], _Order], on_start: Callable[[Broker], None]) -> int:
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        stack.enter_context(_handled(signal.SIGTERM, _interrupt))
        broker, process = _start(order())
        stack.callback(_stop, process)
        stack.enter_context(_handled(signal.SIGHUP, lambda *_: process.send_signal(signal.SIGHUP)))
        on_start(broker)
        return process.wait()
    return 0


def _plain(
    program: Program,
    directory: Path,
    devices: tuple[str, ...],
    *,
    host: str,
    port: int,
    prefix: str,
    log: Path | None,
) -> _Order:
    BrokerFiles(directory).check_secrets()
    files = write_broker(directory, devices, port=port, host=host, prefix=prefix)
    password = files.secret(MONITOR).read_text(encoding="utf-8").strip()

    def lets_in() -> bool:
        """Only if it is the one we configured, too."""
        return accepts(host, port, MONITOR, password)

    command = program.command(files, host, port, prefix)
    return _Order(program, files, host, port, None, lets_in, log, command)


def _secure(directory: Path, log: Path | None) -> _Order:
    files = BrokerFiles(directory)
    files.check_secrets()
    program = find_program("mosquitto")
    config = files.config.read_text(encoding="utf-8")
    host, port = listening(config)
    here = host or "127.0.0.1"
    # A visitor without a certificate is an error in the log where one is asked for.
    asks_none = password_listener(config)
    door = asks_none[0] if asks_none and asks_none[1] else port
    command = program.command(BrokerFiles(Path()), here, port, "")

    def lets_in() -> bool:
        return speaks_tls(here, door, files.authority)

    return _Order(program, files, here, port, directory, lets_in, log, command)


def _start_anywhere(
    order: Callable[[int], _Order], choose_port: Callable[[], int]
) -> tuple[Broker, _Process]:
    for _ in range(_PORT_TRIES - 1):
        with suppress(_PortTakenError):
            return _start(order(choose_port()))
    return _start(order(choose_port()))


def _start(order: _Order) -> tuple[Broker, _Process]:
    _check_free(order)
    process = _launch(order)
    try:
        _await(process, order)
    except BaseException:
        _stop(process)
        raise
    broker = Broker(
        order.program.name,
        order.host,
        order.port,
        process.pid,
        order.program.embedded,
        order.files,
    )
    return broker, process


def _check_free(order: _Order) -> None:
    """Without this, the broker that has the port already might answer in place of ours."""
    host, port = order.host, order.port
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            hint = _holder(order.files) if taken else ""
            raise _PortTakenError(f"{host}:{port}: {error.strerror}{hint}") from None


def _holder(files: BrokerFiles) -> str:
    """Say who has the port, if it is a broker of this folder, and what to do."""
    pid = running_pid(files.pid)
    if pid is None:
        return ": end what listens there, an earlier broker perhaps, or take another port"
    return f": the broker of this folder runs already, its pid is {pid}; end it by kill {pid}"


def _launch(order: _Order) -> _Process:
    out = order.log.open("wb") if order.log else None
    with out or nullcontext():
        return subprocess.Popen(  # noqa: S603 - our own command
            leashed(order.command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=order.within,
        )


def _await(process: _Process, order: _Order) -> None:
    """Return when the broker lets somebody in."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise _failure(order, f"ended with status {process.returncode}")
        if order.lets_in():
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
