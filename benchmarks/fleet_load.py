"""``load``: thousands of real MQTT clients, driven by one process, three updates of each.

As ``fedbus load --scratch --devices 4000``: mosquitto as we ship it configured, with an account for
each client, and an aggregator, a process each; the clients' sessions and transports are the
product's, training adds a delta that was drawn once.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.report import Report, Value
from fedbus.load import SPARE_FILES, allow_files
from fedbus.load_figures import Meter, Watched
from fedbus.load_fleet import Fleet
from fedbus.load_run import drive
from fedbus.load_scratch import TASK, device_names, running_scratch
from fedbus.load_trainer import DryTrainer
from protocol.topics import DEFAULT_PREFIX, Topics

DEVICES: Final = 4_000
QUICK_DEVICES: Final = 40
ROUNDS: Final = 3
PATIENCE_S: Final = 120.0


def measure(*, quick: bool) -> Report:
    """Run it once. Quick: 40 clients."""
    names = device_names(QUICK_DEVICES if quick else DEVICES)
    allow_files(len(names) + SPARE_FILES)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_scratch(Path(folder), names) as running,
        Fleet(
            Topics(DEFAULT_PREFIX, TASK),
            {name: running.broker_config(name) for name in names},
            DryTrainer(),
            num_updates=ROUNDS,
        ) as fleet,
    ):
        watched = [
            Watched("broker", running.broker.pid),
            Watched("aggregator", running.aggregator.process.pid),
        ]
        meter = Meter(fleet, watched, time.monotonic())
        outcome = drive(fleet, meter, patience_s=PATIENCE_S, console=Console(stderr=True))
    return {
        "rounds": ROUNDS,
        "lost": outcome.lost,
        "problem": outcome.problem,
        **{name: _plain(value) for name, value in outcome.figures.items()},
    }


def _plain(value: object) -> Value:
    """Return figures as a report has them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return value if isinstance(value, str | int | float | None) else str(value)
