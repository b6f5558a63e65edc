"""One run of a scenario: virtual time passes until its end, its target, or a person's Ctrl-C.

Same scenario, same seed: the same `Result`, but for how long it took.
"""

import gc
import logging
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from simulator.evaluating import Evaluator
from simulator.fleet import Elsewhere, Fleet
from simulator.measure import Meter
from simulator.result import FAILED, ClassResult, Note, Result
from simulator.scenario import Scenario
from simulator.trainers import Here, Trainers

#: After so many events a run asks whether it shall go on.
EVENTS_A_TURN: Final = 20
#: Progress is told no more often, in seconds: it counts who is online.
TELL_S: Final = 0.25
#: Garbage in cycles is looked for after so many more objects.
COLLECT_AFTER: Final = 100_000
LOCAL: Final = "local"
_logger: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """What to run."""

    scenario: Scenario
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is; ``of_s`` is when it ends at the latest. ``accuracy`` is the newest."""

    scenario: str
    seed: int
    at_s: float
    of_s: float
    version: int
    num_updates: int
    num_events: int
    num_online: int
    num_devices: int
    bytes_up: int
    bytes_down: int
    accuracy: float | None = None
    group_accuracy: Mapping[str, float]
    updates_by_class: Mapping[str, int]
    notes: tuple[str, ...] = ()


@contextmanager
def _seldom_collecting() -> Iterator[None]:
    """Look for cycles after `COLLECT_AFTER` more objects instead of 700: there are next to none.

    Of a hundred thousand devices that are looked through again and again it is a third of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _quiet(_progress: Progress) -> None:
    """Nobody watches."""


def _never() -> bool:
    return False


def run(
    scenario: Scenario,
    seed: int,
    *,
    progress: Callable[[Progress], None] = _quiet,
    stop: Callable[[], bool] = _never,
    engine: str = LOCAL,
    elsewhere: Elsewhere = Here,
) -> Result:
    """Run a scenario. ``stop`` is asked now and then whether to end here: what ran is reported.

    ``progress`` is told every `TELL_S` seconds, and at the end. ``engine`` is a word for the result
    only; ``elsewhere`` says where devices train. What goes wrong on the way ends it as ``failed``,
    with a note that says why. Raises ConfigError if the scenario cannot be set up with this seed.
    """
    began = time.monotonic()
    running = _Run(scenario, seed, elsewhere)
    try:
        with _seldom_collecting():
            ended = running.go(progress, stop)
    except Exception as error:
        _logger.exception("%s, seed %d", scenario.name, seed)
        ended = running.fail(error)
    progress(running.progress())
    return running.result(ended, engine, time.monotonic() - began)


def attempt(
    job: Job,
    *,
    progress: Callable[[Progress], None] = _quiet,
    stop: Callable[[], bool] = _never,
    engine: str = LOCAL,
    elsewhere: Elsewhere = Here,
) -> Result:
    """As `run`; what cannot even be set up, or told of at the end, is a failed run, too."""
    try:
        return run(
            job.scenario, job.seed, progress=progress, stop=stop, engine=engine, elsewhere=elsewhere
        )
    except ConfigError as error:
        return failed(job, str(error), engine)
    except Exception as error:
        _logger.exception("%s, seed %d", job.scenario.name, job.seed)
        return failed(job, _words(error), engine)


def failed(job: Job, why: str, engine: str = LOCAL) -> Result:
    """Return the result of a run of which nothing else is known."""
    scenario = job.scenario
    return Result(
        scenario=scenario.name,
        about=scenario.about,
        seed=job.seed,
        engine=engine,
        ended=FAILED,
        virtual_s=0.0,
        wall_s=0.0,
        num_events=0,
        classes=tuple(
            ClassResult(name=each.name, num_devices=count, is_slow=each.slow)
            for each, count in zip(scenario.classes, scenario.counts, strict=True)
        ),
        points=(),
        model_hash="",
        target=scenario.target or None,
        notes=(Note(at_s=0.0, text=f"failed: {why}"),),
    )


def _words(error: Exception) -> str:
    """Say in a line what went wrong, and where."""
    [*_, last] = traceback.extract_tb(error.__traceback__)
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told} ({Path(last.filename).name}, line {last.lineno})"


class _Run:
    """A fleet and its meter."""

    def __init__(self, scenario: Scenario, seed: int, elsewhere: Elsewhere) -> None:
        self._scenario = scenario
        self._seed = seed
        trainers = Trainers(scenario, seed)
        self._fleet = Fleet(scenario, seed, trainers, elsewhere)
        self._queue = self._fleet.world.queue
        self._meter = Meter(self._fleet, Evaluator(scenario, trainers), scenario.evaluate_every)
        self._num_events = 0
        self._tell_at = 0.0

    def go(self, progress: Callable[[Progress], None], stop: Callable[[], bool]) -> str:
        """Let time pass; return why it ended."""
        queue, until = self._queue, self._scenario.duration_s
        while queue.next_at() <= until:
            queue.step()
            self._num_events += 1
            if reached := self._reached():
                return reached
            if self._num_events % EVENTS_A_TURN == 0:
                self._tell(progress)
                if stop():
                    return "interrupted"
        queue.run_until(until)
        return "duration"

    def fail(self, error: Exception) -> str:
        """Note why it cannot go on; return how it ended."""
        self._meter.notes.append(Note(at_s=self._queue.now, text=f"failed: {_words(error)}"))
        self._fleet.world.server.store.reopen()  # to be read once more
        return FAILED

    def _tell(self, progress: Callable[[Progress], None]) -> None:
        """Say how far it is, but not much more often than anybody reads it."""
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + TELL_S
            progress(self.progress())

    def _reached(self) -> str:
        """Return which goal is reached, or nothing."""
        scenario, meter = self._scenario, self._meter
        if scenario.updates and meter.num_updates >= scenario.updates:
            return "updates"
        accuracy = meter.points[-1].accuracy if meter.points else None
        if scenario.target and accuracy is not None and accuracy >= scenario.target:
            return "target"
        return ""

    def progress(self) -> Progress:
        """Return how far it is."""
        meter, traffic = self._meter, self._fleet.traffic.values()
        newest = meter.points[-1] if meter.points else None
        return Progress(
            scenario=self._scenario.name,
            seed=self._seed,
            at_s=self._queue.now,
            of_s=self._scenario.duration_s,
            version=meter.version,
            num_updates=meter.num_updates,
            num_events=self._num_events,
            num_online=sum(device.running for device in self._fleet.devices),
            num_devices=self._scenario.num_devices,
            bytes_up=sum(each.bytes_up for each in traffic),
            bytes_down=sum(each.bytes_down for each in traffic),
            accuracy=None if newest is None else newest.accuracy,
            group_accuracy={} if newest is None else newest.group_accuracy,
            updates_by_class=meter.counted_by_class(),
            notes=tuple(note.text for note in meter.notes[-3:]),
        )

    def _counts(self) -> dict[str, int]:
        """Return what the aggregator counted, and what broker and devices could not keep."""
        world = self._fleet.world
        counts = world.server.counts
        counts["dropped_by_broker"] = world.broker.dropped
        counts["not_sent_by_devices"] = sum(each.num_not_sent for each in self._fleet.clients)
        return {key: count for key, count in sorted(counts.items()) if count}

    def result(self, ended: str, engine: str, wall_s: float) -> Result:
        """Return all that was measured."""
        scenario, meter = self._scenario, self._meter
        if ended != FAILED:  # what failed may fail again
            meter.close()
        found = meter.audit()
        counts = self._counts()
        return Result(
            scenario=scenario.name,
            about=scenario.about,
            seed=self._seed,
            engine=engine,
            ended=ended,
            virtual_s=self._queue.now,
            wall_s=wall_s,
            num_events=self._num_events,
            classes=meter.classes(),
            points=tuple(meter.points),
            model_hash=meter.model_hash,
            target=scenario.target or None,
            refused={
                key.removeprefix("refused_"): count
                for key, count in counts.items()
                if key.startswith("refused_")
            },
            counters={
                key: count for key, count in counts.items() if not key.startswith("refused_")
            },
            notes=tuple(meter.notes),
            lost=len(found.lost),
            counted_twice=len(found.counted_twice),
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
