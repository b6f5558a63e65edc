"""``fleets``: fair to slow devices, frugal with bytes, thousands of clients, a hundred thousand.

- methods: the default against FedBuff with staleness weights where slow devices hold other data;
  FedBuff against FedAvg that waits, under heavy-tailed speeds.
- bytes: up and down together to an accuracy, against dense float32 both ways.
- selection: Hungarian selection and slots against random selection on lossy links.
- grants: what a lease costs to give, with a thousand and a hundred thousand that wait for one.
- scale: simulated devices without training, real protocol bytes, time per event.
- load: real clients of one process on a real broker.
- real: the simulator's virtual run against real processes and a real broker.
"""

from typing import Final

#: The name of a part -> its module.
PARTS: Final = {
    name: f"benchmarks.fleet_{name}"
    for name in ("methods", "bytes", "selection", "grants", "scale", "load", "real")
}
