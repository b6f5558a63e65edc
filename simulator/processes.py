"""Runs in processes of their own: one that is killed takes no other along, and begins anew once."""

import contextlib
import ctypes
import multiprocessing
import queue
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from multiprocessing.queues import Queue
from typing import Final, NamedTuple

from simulator.result import Result
from simulator.run import Job, Progress, attempt, failed

#: How often runs are asked for, while a person may want to stop.
POLL_S: Final = 0.2
#: So much progress waits to be taken at most.
MAX_TOLD: Final = 1_000
KILLED: Final = "its process was killed; with fewer runs at once (--workers) each has more memory"


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    progress: Callable[[Progress], None],
    finished: Callable[[Result], None],
    stop: Callable[[], bool],
) -> list[Result]:
    """Run all jobs, ``workers`` at once; return the results in their order.

    As `simulator.sweep.sweep`.
    """
    context = multiprocessing.get_context("spawn")
    # No `Event`: who is killed while asking one would keep its lock for ever.
    stopping = context.RawValue(ctypes.c_bool, 0)
    lanes = [_Lane(context, stopping) for _ in range(workers)]
    todo, idle = deque(enumerate(jobs)), deque(lanes)
    killed: set[int] = set()
    open_: dict[Future[Result], tuple[int, _Lane]] = {}
    done: dict[int, Result] = {}
    try:
        while todo or open_:
            if stop():
                stopping.value = True
                todo.clear()
            while todo and idle:
                place, job = todo.popleft()
                lane = idle.popleft()
                open_[lane.begin(job)] = place, lane
            ended, _ = wait(open_, POLL_S, FIRST_COMPLETED)
            for lane in lanes:
                lane.pass_on(progress)
            for future in ended:
                place, lane = open_.pop(future)
                idle.append(lane)
                result = _result(future)
                if result is None and place not in killed and not stopping.value:
                    killed.add(place)
                    todo.appendleft((place, jobs[place]))
                    continue
                done[place] = result or failed(jobs[place], KILLED)
                finished(done[place])
    finally:
        stopping.value = True
        for lane in lanes:
            lane.end()
    return [done[place] for place in sorted(done)]


def _result(future: Future[Result]) -> Result | None:
    """Return what came out; None: the process is gone."""
    try:
        return future.result()
    except BrokenProcessPool:
        return None


class _Lane:
    """One process, for one run after the other; another one where it was killed."""

    def __init__(self, context: SpawnContext, stopping: ctypes.c_bool) -> None:
        self._context = context
        self._stopping = stopping
        self._start()

    def _start(self) -> None:
        self._told: Queue[Progress] = self._context.Queue(MAX_TOLD)
        lines = (self._stopping, self._told)
        self._pool = ProcessPoolExecutor(1, self._context, _begin, lines)

    def begin(self, job: Job) -> Future[Result]:
        with _deaf():
            try:
                return self._pool.submit(_run, job)
            except BrokenProcessPool:
                self.end()
                self._start()
                return self._pool.submit(_run, job)

    def pass_on(self, progress: Callable[[Progress], None]) -> None:
        while not self._told.empty():
            progress(self._told.get())

    def end(self) -> None:
        self._pool.shutdown()
        self._told.close()


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


# --- in such a process ---------------------------------------------------------------------------


class _Lines(NamedTuple):
    """What ties it to the first one: whether to stop, and what to tell."""

    stopping: ctypes.c_bool
    told: "Queue[Progress]"


_lines: list[_Lines] = []


def _begin(stopping: ctypes.c_bool, told: "Queue[Progress]") -> None:
    told.cancel_join_thread()  # what nobody takes must not keep the process from ending
    _lines.append(_Lines(stopping, told))


def _run(job: Job) -> Result:
    return attempt(job, progress=_tell, stop=lambda: bool(_lines[0].stopping.value))


def _tell(progress: Progress) -> None:
    with contextlib.suppress(queue.Full):  # the next one will be newer
        _lines[0].told.put_nowait(progress)
