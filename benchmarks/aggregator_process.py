"""A real aggregator, as its own process: ``python -m benchmarks.aggregator_process CONFIG``."""

import cProfile
import os
import signal
import sys
from pathlib import Path

from aggregator.config import load_config
from aggregator.service import Service


def main(config: Path) -> None:
    """Serve until SIGTERM. With FEDBUS_PROFILE set, write a profile to the file it names."""
    service = Service(load_config(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    profile = os.environ.get("FEDBUS_PROFILE")
    if profile is None:
        service.run()
        return
    profiler = cProfile.Profile()
    profiler.runcall(service.run)
    profiler.dump_stats(profile)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
