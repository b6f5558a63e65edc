"""``fleets``: fair to slow devices, frugal with bytes, thousands of clients, a hundred thousand.

- methods: the default against FedBuff with staleness weights where slow devices hold other data;
  FedBuff against FedAvg that waits, under heavy-tailed speeds.
- bytes: up and down together to an accuracy, against dense float32 both ways.
- selection: Hungarian selection and slots against random selection on lossy links.
- scale: simulated devices without training, real protocol bytes, time per event.
- load: real clients of one process on a real broker.
- real: the simulator's virtual run against real processes and a real broker.
"""

from typing import Final

from benchmarks.parts import measure_parts
from benchmarks.report import Report

PARTS: Final = ("methods", "bytes", "selection", "scale", "load", "real")


def measure(*, quick: bool) -> Report:
    """Measure all parts."""
    return measure_parts("fleets", "fleet", PARTS, quick=quick)
