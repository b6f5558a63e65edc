"""``fleets``, part scale: 100,000 simulated devices without training, and real protocol bytes.

Every device wakes three times at hours of its own, checks in, gets a lease and the model, sends its
update and sleeps as soon as it has its receipt. The fleet is spread so that `RATE` devices wake in
a second however many there are: what grows with the fleet is memory, and the period. Session,
coordinator and codec are the product's; the default codec; a model of 36 params. Each size runs in
a process of its own, whose peak memory is all of it: devices, broker and aggregator. Times per
event are that process's (``cpu_s``), ``seconds`` what the clock on the wall showed.
"""

import gc
import json
import resource
import subprocess
import sys
import time
from typing import Final

from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import TaskConfig
from benchmarks.report import Report, figure, within
from simulator import Diurnal, DryTrainer, World

#: Devices that wake in a second, all over the fleet.
RATE: Final = 50
CHECK_INS: Final = 3
#: A device stays awake no longer than this, with or without its receipt.
AWAKE_S: Final = 18.0
TRAIN_S: Final = 2.0
SIZES: Final = (1_000, 100_000)
QUICK_SIZES: Final = (200, 1_000)
MODEL: Final = {
    "input": [8],
    "layers": [{"type": "dense", "units": 4}],
    "loss": "softmax_cross_entropy",
}
MAX_S: Final = 600.0
MAX_GIB: Final = 4.0
MAX_RATIO: Final = 1.5


def measure(*, quick: bool) -> Report:
    """Run the small and the large fleet. Quick: 200 and 1,000 devices."""
    small, large = (_in_a_process(size) for size in (QUICK_SIZES if quick else SIZES))
    ratio = figure(float(large["us_per_event"]) / float(small["us_per_event"]))
    return {
        "small": {**small},
        "large": {**large},
        "seconds": within(figure(float(large["seconds"])), MAX_S),
        "peak_gib": within(figure(float(large["peak_gib"])), MAX_GIB),
        "time_per_event_ratio": within(ratio, MAX_RATIO),
    }


def simulate(num_devices: int) -> dict[str, float]:
    """Run one fleet; return what it did, and what that cost."""
    began = time.perf_counter()
    period_s = max(num_devices / RATE, 1.1 * AWAKE_S)
    rate = num_devices / period_s
    config = TaskConfig(
        task="scale",
        model=MODEL,
        buffered=Buffered(goal=round(5 * rate), concurrency=round(20 * rate), max_wait_s=5.0),
        lease_ttl_s=round(AWAKE_S),
        max_devices=num_devices,
    )
    world = World(config, bytes(32))
    trainer = DryTrainer()
    for index in range(num_devices):
        phase = index / num_devices
        hours = Diurnal(period_s=period_s, on_fraction=AWAKE_S / period_s, phase=phase)
        name = f"device-{index:06}"
        world.add(name, trainer, lambda _: TRAIN_S, availability=hours, updates_per_wake=1)
    gc.collect()
    gc.disable()  # nothing here makes cycles: looking for them again and again finds none
    built = time.process_time()
    world.run_for(CHECK_INS * period_s)
    cpu_s = time.process_time() - built
    gc.enable()
    receipts = [device.counts["receipts"] for device in world.devices.values()]
    return {
        "devices": num_devices,
        "virtual_s": world.now,
        "events": world.queue.num_events,
        "check_ins": world.server.counts["check_ins"],
        "leases": world.server.counts["leases_given"],
        "receipts": sum(receipts),
        "fewest_receipts_of_a_device": min(receipts),
        "versions": 0 if world.server.coordinator is None else world.server.coordinator.version,
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time(),
        "events_per_cpu_s": world.queue.num_events / cpu_s,
        "us_per_event": 1e6 * cpu_s / world.queue.num_events,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _in_a_process(num_devices: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.fleet_scale", str(num_devices)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return {name: figure(value, 7) for name, value in found.items()}


if __name__ == "__main__":
    print(json.dumps(simulate(int(sys.argv[1]))))
