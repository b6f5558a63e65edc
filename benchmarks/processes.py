"""The processes of a federation that benchmarks start, and stop in any case."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_STOPS_WITHIN_S: Final = 20.0


@contextmanager
def running(
    module: str,
    *arguments: str | Path,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m module``, with pipes for input and output, while the context lasts.

    ``log`` gets what it says on standard error; without it that is ours.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with (log or Path("/dev/null")).open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors if log else None,
            env=env,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOPS_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what the process prints."""
    if process.stdout is None:
        raise RuntimeError("started without a pipe")
    for line in process.stdout:
        yield line.rstrip("\n")


def tell(process: subprocess.Popen[str], line: str) -> None:
    """Write a line to the process's standard input."""
    if process.stdin is None:
        raise RuntimeError("started without a pipe")
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
