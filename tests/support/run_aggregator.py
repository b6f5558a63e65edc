"""An aggregator process that can be killed exactly at a boundary of its store.

    python -m tests.support.run_aggregator CONFIG [POINT NTH]

With a fault point it kills itself when it passes there for the ``NTH`` time.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from aggregator.config import load_config
from aggregator.service import Service
from aggregator.store import no_fault


def killer(point: str, nth: int) -> Callable[[str], None]:
    """Return a fault callback that ends this process as ``kill -9`` does."""
    passed = 0

    def kill(here: str) -> None:
        nonlocal passed
        passed += here == point
        if passed == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def main(config: str, point: str = "", nth: str = "0") -> None:
    """Serve until SIGTERM, or until the fault point is reached."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    fault = killer(point, int(nth)) if point else no_fault
    service = Service(load_config(Path(config)), fault=fault)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
