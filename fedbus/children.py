"""Processes that a command starts, watches and ends: by id, and never anybody else's."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broker_config.leash import leashed

STOP_DEADLINE_S: Final = 5.0
_POLL_S: Final = 0.02
_TAIL_LINES: Final = 8
_TAIL_BYTES: Final = 4_000
#: One BLAS thread a process: N processes share the machine as N devices would not.
_ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Child:
    """One process; standard output and error go to ``log``."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def obituary(self) -> str:
        """Return how it ended, and the last lines of its log."""
        status = self.process.poll()
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            said = file.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        lines = [f"    {line}" for line in said] or ["    (it said nothing)"]
        return "\n".join([f"{self.name} ended early, status {status}; its last words:", *lines])


def start(name: str, module: Sequence[str], log: Path, variables: Mapping[str, str]) -> Child:
    """Start ``python -m <module>`` away from the terminal's Ctrl-C: whoever started it ends it.

    It ends with us in any case, on Linux (`broker_config.leash`).
    """
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own modules
            leashed([sys.executable, "-m", *module]),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **_ONE_THREAD, "PYTHONUNBUFFERED": "1", **variables},
            process_group=0,
        )
    return Child(name, process, log)


def stop(children: Iterable[Child]) -> None:
    """Ask all to leave at once, and end those that have not after `STOP_DEADLINE_S`."""
    going = list(children)
    for child in going:
        with suppress(ProcessLookupError):
            child.process.terminate()
    deadline = time.monotonic() + STOP_DEADLINE_S
    while any(child.alive for child in going) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for child in going:
        if child.alive:
            child.process.kill()
        child.process.wait()
