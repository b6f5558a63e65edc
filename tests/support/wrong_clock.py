"""A wall clock that is wrong, for a whole process."""

import logging
import time
from itertools import count

_log = logging.getLogger(__name__)


def install(offset_s: float) -> None:
    """From now on `time.time` is wrong by ``offset_s``: now ahead, at the next look behind."""
    right, looks = time.time, count()
    vars(time)["time"] = lambda: right() + (offset_s if next(looks) % 2 else -offset_s)


def log_the_year() -> None:
    """Say what this process takes the year to be."""
    _log.info("the year is %d", time.gmtime(time.time()).tm_year)
