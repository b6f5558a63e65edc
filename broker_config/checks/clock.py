"""Whether this machine's clock is set.

MQTT tells no time, and no message of ours rests on it. Certificates do: a clock outside their time
finds every broker invalid.
"""

import ctypes
from collections.abc import Callable
from typing import Final

from broker_config.checks.findings import Finding, ok, skip, warn

_TIMEX_BYTES: Final = 512  # struct timex has 208 on 64-bit machines, fewer elsewhere
_TIME_ERROR: Final = 5


def kernel_state() -> int | None:
    """Return what adjtimex(2) says when it is asked to change nothing; None where there is none."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (AttributeError, OSError, TypeError):
        return None
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return state if state >= 0 else None


def check_clock(state: Callable[[], int | None] = kernel_state) -> Finding:
    """Return whether something keeps this machine's clock right."""
    found = state()
    if found is None:
        return skip("clock", "this system does not say whether its clock is set")
    if found == _TIME_ERROR:
        return warn(
            "clock",
            "nothing keeps this machine's clock right",
            "run systemd-timesyncd or chrony, on devices above all: certificates have a beginning "
            "and an end",
        )
    return ok("clock", "kept right by a time service")
