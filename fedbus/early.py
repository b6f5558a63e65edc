"""Ctrl-C while a command is still being imported."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NoReturn

#: The exit status of what Ctrl-C has ended.
INTERRUPTED: Final = 130


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """End the process at Ctrl-C, as long as nothing has begun that must be ended in good order.

    A KeyboardInterrupt in the middle of an import may be lost (Python ignores what is raised in the
    call-backs of its import locks) or turn up as a traceback. Who has a handler already keeps it.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not is_ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    os._exit(INTERRUPTED)
