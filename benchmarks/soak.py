"""``python -m benchmarks.soak --minutes 30 --json OUT``: many real clients, for long, with faults.

One process drives all clients (`fedbus.load_fleet`) against mosquitto as we ship it configured and
an aggregator. Broker and aggregator are killed (SIGKILL) and come back, or are frozen for a while;
half of the clients lose power at once and come back within seconds; a tenth break their links every
few seconds. No kill in the last three fifths of the time: the memory of both is looked at from half
time on; the broker's also as what it has in use by its own count. In the end the clients ask for no
more, everything is given time to settle, and the aggregator's store is compared with what each
client was told.
"""

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks.report import Report, origin
from benchmarks.soak_audit import audit
from benchmarks.soak_heap import HeapWatch
from benchmarks.soak_memory import Memory
from benchmarks.soak_world import KillableAggregator, KillableBroker
from fedbus.load_figures import Meter
from fedbus.load_fleet import Fleet, Pace
from fedbus.load_scratch import TASK, device_names
from fedbus.load_trainer import DryTrainer
from protocol.topics import DEFAULT_PREFIX, Topics
from transport.config import BrokerConfig

#: What happens, and when, as part of the time.
FAULTS: Final = (
    (0.10, "broker killed"),
    (0.16, "aggregator killed"),
    (0.22, "half of the clients reboot"),
    (0.28, "broker and aggregator killed"),
    (0.34, "aggregator killed"),
    (0.38, "broker killed"),
    (0.46, "links flap"),
    (0.55, "half of the clients reboot"),
    (0.62, "broker frozen"),
    (0.70, "aggregator frozen"),
    (0.78, "links flap"),
    (0.88, "half of the clients reboot"),
)
#: From here on memory is looked at: the last kill is a while ago.
SETTLED: Final = 0.5
#: How long what is held may take to settle in the end.
DRAIN_S: Final = 150.0
SAMPLES: Final = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How long, how many, how fast. ``train_s``: the mean time of a training."""

    seconds: float
    devices: int
    train_s: float
    seed: int = 0

    @property
    def outage_s(self) -> float:
        """How long what was killed or frozen stays away; and within what clients reboot."""
        return min(10.0, 0.03 * self.seconds)

    @property
    def flap_s(self) -> float:
        """How long links flap."""
        return 0.05 * self.seconds


@dataclass(slots=True)
class World:
    """Everything that can fail."""

    course: Course
    broker: KillableBroker
    aggregator: KillableAggregator
    fleet: Fleet
    heap: HeapWatch
    random: random.Random
    happened: list[Report] = field(default_factory=list)

    def schedule(self, begun: float) -> None:
        """Let the faults happen when it is time."""
        acts: dict[str, Callable[[], None]] = {
            "broker killed": partial(self._kill, broker=True),
            "aggregator killed": partial(self._kill, aggregator=True),
            "broker and aggregator killed": partial(self._kill, broker=True, aggregator=True),
            "half of the clients reboot": self._reboot,
            "links flap": self._flap,
            "broker frozen": partial(self._freeze, lambda: self.broker.pid),
            "aggregator frozen": partial(self._freeze, lambda: self.aggregator.pid),
        }
        for part, what in FAULTS:
            at_s = part * self.course.seconds
            self.fleet.at(begun + at_s, partial(self._happen, at_s, what, acts[what]))

    def _happen(self, at_s: float, what: str, act: Callable[[], None]) -> None:
        self.happened.append({"at_s": round(at_s), "what": what})
        act()

    def _kill(self, *, broker: bool = False, aggregator: bool = False) -> None:
        back_at = time.monotonic() + self.course.outage_s
        if broker:
            self.broker.kill()
            self.fleet.at(back_at, lambda: _ignore(self.broker.start()))
        if aggregator:
            self.aggregator.kill()
            self.fleet.at(back_at, self.aggregator.start)

    def _freeze(self, pid: Callable[[], int]) -> None:
        frozen = pid()
        os.kill(frozen, signal.SIGSTOP)
        thaw = partial(os.kill, frozen, signal.SIGCONT)
        self.fleet.at(time.monotonic() + self.course.outage_s, thaw)

    def _reboot(self) -> None:
        clients = self.fleet.clients
        some = self.random.sample(clients, max(1, len(clients) // 2))
        self.fleet.reboot(some, self.course.outage_s)

    def _flap(self) -> None:
        """Every tenth link, again and again."""
        now, every_s = time.monotonic(), self.course.flap_s / 9
        clients = self.fleet.clients
        some = self.random.sample(clients, max(1, len(clients) // 10))
        for turn in range(9):
            for client in some:
                self.fleet.at(now + (turn + self.random.random()) * every_s, client.flap)


def soak(folder: Path, course: Course) -> Report:
    """Run it in an empty folder; ``good`` says whether nothing was lost or counted twice."""
    _allow_files()
    names = device_names(course.devices)
    broker = KillableBroker(folder / "broker", names)
    aggregator = None
    try:
        running = broker.start()
        aggregator = KillableAggregator(
            folder, running, course.devices, check_in_s=max(1, round(min(30, course.train_s)))
        )
        aggregator.start()
        configs = {
            name: BrokerConfig(
                port=running.port,
                password_file=str(running.files.secret(name)),
                backoff_first_s=0.5,
                backoff_cap_s=max(0.5, course.outage_s),
            )
            for name in names
        }
        retry_s = min(10.0, course.train_s)
        with (
            HeapWatch(running) as heap,
            Fleet(
                Topics(DEFAULT_PREFIX, TASK),
                configs,
                DryTrainer(course.seed),
                num_updates=sys.maxsize,
                pace=Pace(connects_per_s=max(50.0, course.devices / 10), train_s=course.train_s),
                seed=course.seed,
                can_reboot=True,
                retry_first_s=retry_s,
                retry_cap_s=6 * retry_s,
            ) as fleet,
        ):
            world = World(course, broker, aggregator, fleet, heap, random.Random(course.seed))  # noqa: S311
            report = _run(world)
            aggregator.stop()
            report["store"] = found = audit(aggregator.config, fleet.ledger)
        report["good"] = _is_good(report, found)
        return report
    finally:
        if aggregator is not None:
            aggregator.stop()
        broker.stop()


def _run(world: World) -> Report:
    course, fleet = world.course, world.fleet
    begun = time.monotonic()
    meter = Meter(fleet, [], begun)
    memory = {"aggregator": Memory(), "broker": Memory(), "broker_in_use": Memory()}
    world.schedule(begun)
    fleet.ramp()
    sample_at = begun
    while (now := time.monotonic()) < begun + course.seconds:
        fleet.turn(0.25)
        if now < sample_at:
            continue
        sample_at += course.seconds / SAMPLES
        meter.look(now)
        memory["aggregator"].sample(now - begun, world.aggregator.pid)
        memory["broker"].sample(now - begun, world.broker.pid)
        memory["broker_in_use"].note(now - begun, world.broker.pid, world.heap.kib)
        if world.aggregator.obituary:
            raise RuntimeError(world.aggregator.obituary)
        _say(now - begun, world, meter)
    fleet.ask_no_more()
    drained_at = time.monotonic() + DRAIN_S
    while fleet.ledger.unanswered and time.monotonic() < drained_at:
        fleet.turn(0.25)
    figures = meter.figures(time.monotonic())
    settled_at_s = SETTLED * course.seconds
    return {
        "minutes": course.seconds / 60,
        "faults": list(world.happened),
        "load": json.loads(json.dumps(figures)),
        "memory": {name: one.report(settled_at_s) for name, one in memory.items()},
    }


def _say(at_s: float, world: World, meter: Meter) -> None:
    fleet, ledger = world.fleet, world.fleet.ledger
    print(
        f"{at_s:7.1f} s  {fleet.num_connected} connected  {len(ledger.receipts)} counted"
        f"  {len(ledger.refusals)} refused  {len(ledger.unanswered)} held  {meter.rate():.1f}/s",
        file=sys.stderr,
        flush=True,
    )


def _is_good(report: Report, found: Report) -> bool:
    load = report["load"]
    wrong = ("lost", "counted_twice", "receipts_not_counted", "refused_but_counted")
    return (
        isinstance(load, dict)
        and not load["counted_twice"]
        and not load["updates_unanswered"]
        and not any(found[key] for key in (*wrong, "counted_unsent"))
    )


def _allow_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _ignore(_: object) -> None:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and print the report; return 0 only if all is well."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--train-s", type=float, default=40.0, help="mean seconds of a training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the report here too")
    options = parser.parse_args(argv)
    course = Course(
        seconds=60 * options.minutes,
        devices=options.devices,
        train_s=options.train_s,
        seed=options.seed,
    )
    with tempfile.TemporaryDirectory(prefix="fedbus-soak-") as folder:
        report = {"benchmark": "soak", **origin(), **soak(Path(folder), course)}
    text = json.dumps(report, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0 if report["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
