"""Processes of our own modules, forked from one that has imported them: a start costs nothing.

To a test they are what ``python -m MODULE`` would be: a process with its own memory, signals, exit
status and log. Only the imports are done, which would take more than most tests.

    python -m tests.support.forked    is the one that forks; it is told what on standard input
"""

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final, Self

#: Modules with a ``main(argv)`` that can be started.
STARTABLE: Final = ("tests.support.run_aggregator", "tests.support.run_device")
#: What those import in the midst of their work.
_LATER: Final = (
    *("device_sdk.identity", "device_sdk.secagg", "device_sdk.engine.training"),
    *("protocol.secagg.seedmask", "protocol.secagg.lightsecagg", "protocol.secagg.pairwise"),
    *("aggregator.secagg", "aggregator.pairwise", "sqlalchemy.dialects.sqlite"),
)
_ROOT: Final = Path(__file__).parents[2]
_STARTS_WITHIN_S: Final = 120.0
_ENDS_WITHIN_S: Final = 10.0


class Forked:
    """A process, as `subprocess.Popen` has one."""

    def __init__(self, forker: "Forker", pid: int) -> None:
        self.pid = pid
        self._forker = forker

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        self._forker.listen(0.0)
        return self._forker.ended.get(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status. Raises subprocess.TimeoutExpired after ``timeout`` seconds."""
        limit = _ENDS_WITHIN_S if timeout is None else timeout
        until = time.monotonic() + limit
        while (status := self.poll()) is None:
            left = until - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired("a forked process", limit)
            self._forker.listen(left)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forker:
    """The process that forks, and what is known of those that it forked."""

    def __init__(self) -> None:
        self.ended: dict[int, int] = {}
        self._started: list[int] = []
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=_ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def start(self, module: str, arguments: Sequence[str], log: Path) -> Forked:
        """Start ``module``, which is one of `STARTABLE`; what it says is added to ``log``."""
        stdin = self._process.stdin
        assert stdin is not None
        log.touch()  # who started it may read it at once
        stdin.write(json.dumps([module, str(log), *arguments]).encode() + b"\n")
        stdin.flush()
        until = time.monotonic() + _STARTS_WITHIN_S
        while not self._started:
            assert self._process.poll() is None, "the process that forks has ended"
            assert time.monotonic() < until, "nothing was forked"
            self.listen(1.0)
        return Forked(self, self._started.pop())

    def listen(self, timeout_s: float) -> None:
        """Take in what has begun and ended, at least one of them within ``timeout_s``."""
        stdout = self._process.stdout
        assert stdout is not None
        while select.select([stdout], [], [], timeout_s)[0]:
            said = os.read(stdout.fileno(), 1 << 16)
            if not said:
                return
            *lines, self._rest = (self._rest + said).split(b"\n")
            for line in lines:
                pid, status = json.loads(line)
                if status is None:
                    self._started.append(pid)
                else:
                    self.ended[pid] = status
            timeout_s = 0.0

    def close(self) -> None:
        """End it, and all that still runs of what it forked."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def forker() -> Forker:
    """Return the one of this process, which ends with it."""
    made = Forker()
    atexit.register(made.close)
    return made


# --- the process that forks ----------------------------------------------------------------------


def serve() -> Sequence[str]:
    """Fork as told. Returns in every child, with its order; in the parent never."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    running: set[int] = set()
    rest = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 1 << 16)
            _reap(running)
        if 0 not in ready:
            continue
        said = os.read(0, 1 << 16)
        if not said:
            _leave(running)
        *orders, rest = (rest + said).split(b"\n")
        for order in map(json.loads, orders):
            pid = os.fork()
            if pid == 0:
                os.close(wake)
                os.close(woken)
                return list(order)
            running.add(pid)
            _tell(pid, None)


def _reap(running: set[int]) -> None:
    for pid in sorted(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            running.discard(pid)
            _tell(pid, os.waitstatus_to_exitcode(status))


def _tell(pid: int, status: int | None) -> None:
    os.write(1, json.dumps([pid, status]).encode() + b"\n")


def _leave(running: set[int]) -> None:
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    sys.exit()


def main() -> None:
    """Import, fork, and be what was asked for in each child."""
    mains: dict[str, Callable[[Sequence[str]], None]] = {
        name: import_module(name).main for name in STARTABLE
    }
    for name in _LATER:
        import_module(name)
    gc.collect()
    gc.freeze()  # so that no collection in a child touches, and copies, what all share
    module, log, *arguments = serve()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, target in ((os.devnull, 0), (log, 1), (log, 2)):
        opened = os.open(place, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(opened, target)
        os.close(opened)
    mains[module](arguments)


if __name__ == "__main__":
    main()
