"""An aggregator process that can be killed exactly at a boundary of its store.

    python -m tests.support.run_aggregator CONFIG [--kill-at POINT NTH] [--clock-wrong-by-s S]

With a fault point it kills itself when it passes there for the ``NTH`` time.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from aggregator.config import load_config
from aggregator.service import Service
from tests.support import wrong_clock


def killer(point: str, nth: int) -> Callable[[str], None]:
    """Return a fault callback that ends this process as ``kill -9`` does."""
    passed = 0

    def kill(here: str) -> None:
        nonlocal passed
        passed += here == point
        if here == point and passed == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def main(argv: Sequence[str]) -> None:
    """Serve until SIGTERM, or until the fault point is reached."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--kill-at", nargs=2)
    parser.add_argument("--clock-wrong-by-s", type=float, default=0.0)
    options = parser.parse_args(argv)
    if options.clock_wrong_by_s:
        wrong_clock.install(options.clock_wrong_by_s)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    wrong_clock.log_the_year()
    point, nth = options.kill_at or ("", "0")
    service = Service(load_config(options.config), fault=killer(point, int(nth)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()


if __name__ == "__main__":
    main(sys.argv[1:])
