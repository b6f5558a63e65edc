"""Many runs: scenarios side by side, each with several seeds.

Same scenario and seed, same result, whatever the engine:

- ``local``: here, one after the other, or in ``workers`` processes of their own;
- ``ray``: over a Ray cluster, runs and shards of devices apart (`simulator.ray_engine`).
"""

import contextlib
import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from typing import Final, NamedTuple

from protocol.errors import ConfigError
from simulator.result import Result
from simulator.run import LOCAL, Job, Progress, run
from simulator.scenario import Scenario

RAY: Final = "ray"
ENGINES: Final = (LOCAL, RAY)
#: How often runs elsewhere are asked for, while a person may want to stop.
POLL_S: Final = 0.2
#: So much progress waits to be taken at most.
MAX_TOLD: Final = 1_000


def _quiet(_progress: Progress) -> None:
    """Nobody watches."""


def _go_on() -> bool:
    return False


def sweep(
    scenarios: Sequence[Scenario],
    seeds: Sequence[int],
    engine: str = LOCAL,
    *,
    workers: int = 1,
    shards: int = 1,
    progress: Callable[[Progress], None] = _quiet,
    finished: Callable[[Result], None] = lambda _result: None,
    stop: Callable[[], bool] = _go_on,
) -> list[Result]:
    """Run every scenario with every seed; return the results in that order.

    ``workers`` is how many runs go on at once. ``shards`` (Ray only): among how many actors the
    devices of each run are dealt, to train there; 1: none. ``finished`` is told of each run as it
    ends, in any order. After ``stop`` no other run begins; those under way are reported as far as
    they came, but for Ray's, which are left out. ``progress`` is told of all runs but Ray's.
    Raises ConfigError for an engine that is none or not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r}: use {', '.join(ENGINES)}")
    jobs = [Job(scenario, seed) for scenario in scenarios for seed in seeds]
    if engine == RAY:
        from simulator.ray_engine import run_jobs  # noqa: PLC0415 - Ray is an extra

        return run_jobs(jobs, shards=shards, finished=finished, stop=stop)
    if workers > 1 and len(jobs) > 1:
        return _in_processes(jobs, min(workers, len(jobs)), progress, finished, stop)
    results = []
    for job in jobs:
        if stop():
            break
        results.append(run(job.scenario, job.seed, progress=progress, stop=stop))
        finished(results[-1])
    return results


def _in_processes(
    jobs: Sequence[Job],
    workers: int,
    progress: Callable[[Progress], None],
    finished: Callable[[Result], None],
    stop: Callable[[], bool],
) -> list[Result]:
    context = multiprocessing.get_context("spawn")
    stopping, told = context.Event(), context.Queue(MAX_TOLD)
    done: dict[int, Result] = {}
    with ProcessPoolExecutor(workers, context, _begin, (stopping, told)) as pool:
        with _deaf():
            open_ = {pool.submit(_run, job): place for place, job in enumerate(jobs)}
        while open_:
            if stop() and not stopping.is_set():
                stopping.set()
                open_ = {run: place for run, place in open_.items() if not run.cancel()}
            ended, _ = wait(open_, POLL_S, FIRST_COMPLETED)
            while not told.empty():
                progress(told.get())
            for future in ended:
                place = open_.pop(future)
                done[place] = future.result()
                finished(done[place])
    return [done[place] for place in sorted(done)]


class _Lines(NamedTuple):
    """What ties a process of a pool to the first one: when to stop, and what to tell."""

    stopping: Event
    told: "Queue[Progress]"


#: In a process of a pool: its lines.
_lines: list[_Lines] = []


@contextmanager
def _deaf() -> Iterator[None]:
    """Begin processes that never hear Ctrl-C: the first one does, and then tells them.

    They inherit the mask, so that no signal meets one that is still being set up.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(stopping: Event, told: "Queue[Progress]") -> None:
    told.cancel_join_thread()  # what nobody takes must not keep the process from ending
    _lines.append(_Lines(stopping, told))


def _run(job: Job) -> Result:
    return run(job.scenario, job.seed, progress=_tell, stop=_lines[0].stopping.is_set)


def _tell(progress: Progress) -> None:
    with contextlib.suppress(queue.Full):  # the next one will be newer
        _lines[0].told.put_nowait(progress)
