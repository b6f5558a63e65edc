"""Run a program that is told to end when whoever started it has ended, be it by ``kill -9``.

::

    python leash.py PARENT PROGRAM [ARGUMENT]...

Linux sends a process a signal when its parent is gone, if it asked for that (prctl(2),
PR_SET_PDEATHSIG), and a program that it becomes by exec still gets it. Elsewhere programs are run
as they are. Nothing but the standard library: this starts beside every process of ours.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_ARGUMENTS: Final = 2


def leashed(command: Sequence[str]) -> list[str]:
    """Return the command that runs ``command`` as a child of this process, and ends with it.

    To be started by a thread that lasts: for Linux the thread is the parent. The process keeps its
    id; it gets SIGTERM.
    """
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main(arguments: Sequence[str]) -> None:
    """Become the program, on a leash. Does not return."""
    if len(arguments) < _ARGUMENTS:
        raise SystemExit(__doc__)
    parent, *command = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM.value, 0, 0, 0)
    if os.getppid() != int(parent):
        raise SystemExit(1)  # it ended before we asked
    os.execvp(command[0], command)  # noqa: S606 - a program of ours, without a shell


if __name__ == "__main__":
    main(sys.argv[1:])
