"""Runs over a Ray cluster (extra ``[ray]``): seeds and methods apart, and shards of devices apart.

A run is a Ray task. With shards its devices train in actors that hold their data, while the task
lets virtual time pass; trainings that overlap there run at the same time here. A task or an actor
whose process is killed begins anew elsewhere: training is a function of device and assignment, so
the bytes are the same. How far it is, a run tells a board: an actor that keeps the newest word of
each until the process that began all of them looks, and that answers whether to stop.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from device_sdk.trainer import Assignment, Trained
from protocol.errors import ConfigError, LocalProtocolError
from simulator.result import Result
from simulator.run import Job, Progress, attempt, failed
from simulator.trainers import Here, Trainers

try:
    import ray
    from ray.exceptions import RayError
except ModuleNotFoundError:
    raise ConfigError("engine \"ray\" needs Ray: pip install 'fedbus[ray]'") from None

RAY: Final = "ray"
#: How often a run or a shard is begun anew after its process died.
RETRIES: Final = 3
#: How often the cluster is asked for what has ended, while a person may want to stop.
POLL_S: Final = 0.2
#: So long runs may take to end when they are to stop; those that do not are left out.
STOPS_WITHIN_S: Final = 20.0


def run_jobs(
    jobs: Sequence[Job],
    *,
    shards: int = 1,
    progress: Callable[[Progress], None],
    finished: Callable[[Result], None],
    stop: Callable[[], bool],
) -> list[Result]:
    """Run all jobs; return the results in their order. As `simulator.sweep.sweep`.

    Without a cluster (``RAY_ADDRESS``, or `ray.init` before) one is begun on this machine. Raises
    ConfigError if it has too few CPUs for so many shards.
    """
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    num_cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call] # Ray's own
    if shards > num_cpus:
        raise ConfigError(f"shards: {shards}, but the cluster has {num_cpus} CPUs")
    # A run with shards waits for them most of the time, and must not hold what they need.
    task = _run_job.options(num_cpus=1 if shards == 1 else 0, max_retries=RETRIES)
    at_once = num_cpus // shards
    news = _News()
    todo = list(enumerate(jobs))[::-1]
    open_: dict[ray.ObjectRef[Result], int] = {}
    done: dict[int, Result] = {}
    until = math.inf
    while (todo or open_) and time.monotonic() < until:
        if until == math.inf and stop():
            todo.clear()
            until = time.monotonic() + STOPS_WITHIN_S
        while todo and len(open_) < at_once:
            place, job = todo.pop()
            open_[task.remote(job, shards, place, news.board)] = place
        ended, _ = ray.wait(list(open_), timeout=POLL_S) if open_ else ([], [])
        news.pass_on(progress, is_stopping=until < math.inf)
        for reference in ended:
            place = open_.pop(reference)
            done[place] = _result(reference, jobs[place])
            finished(done[place])
    for reference in open_:
        ray.cancel(reference, force=True)
    news.end()
    return [done[place] for place in sorted(done)]


def _result(reference: "ray.ObjectRef[Result]", job: Job) -> Result:
    """Return what came out, or that the run failed, with the first line of Ray's reasons."""
    try:
        return ray.get(reference)
    except RayError as error:
        return failed(job, str(error).partition("\n")[0], RAY)


# --- what runs tell -------------------------------------------------------------------------------


@ray.remote(num_cpus=0, max_restarts=RETRIES)
class _Board:
    """Keeps the newest word of each run until it is taken, and whether all are to stop.

    Soft state: where its process is killed, the next words and the next look bring it back.
    """

    def __init__(self) -> None:
        self._newest: dict[int, Progress] = {}
        self._is_stopping = False

    def tell(self, place: int, progress: Progress) -> bool:
        """Say how far the run of a place is; return whether it is to stop."""
        self._newest[place] = progress
        return self._is_stopping

    def look(self, *, is_stopping: bool) -> list[Progress]:
        """Return what was told since the last look, and tell all runs whether to stop."""
        self._is_stopping = is_stopping
        newest, self._newest = self._newest, {}
        return list(newest.values())


class _News:
    """The board as the process sees it that began all: it never waits for it."""

    def __init__(self) -> None:
        self.board = _Board.remote()  # type: ignore[attr-defined] # which the decorator adds
        self._look: ray.ObjectRef[list[Progress]] | None = None

    def pass_on(self, progress: Callable[[Progress], None], *, is_stopping: bool) -> None:
        """Tell of what an earlier look has found, and look again."""
        if self._look is not None:
            if not _has_come(self._look):
                return
            for each in self._found(self._look):
                progress(each)
        self._look = self.board.look.remote(is_stopping=is_stopping)

    def _found(self, look: "ray.ObjectRef[list[Progress]]") -> list[Progress]:
        try:
            return ray.get(look)
        except RayError:  # it was killed; the next words come soon
            return []

    def end(self) -> None:
        """Take it off the cluster."""
        ray.kill(self.board)


class _Line:
    """The board as a run sees it: one word at a time is on its way, and none is waited for."""

    def __init__(self, place: int, board: "ray.actor.ActorHandle[_Board]") -> None:
        self._place = place
        self._board = board
        self._answer: ray.ObjectRef[bool] | None = None
        self._is_stopping = False

    def tell(self, progress: Progress) -> None:
        """Say how far it is, unless the word before is still on its way."""
        if self._answer is not None and not _has_come(self._answer):
            return
        self._hear()
        self._answer = self._board.tell.remote(self._place, progress)

    def stop(self) -> bool:
        """Whether to end here, as it was answered last."""
        return self._is_stopping

    def _hear(self) -> None:
        if self._answer is not None:
            with suppress(RayError):  # nobody watches; the run goes on
                self._is_stopping = ray.get(self._answer)


def _has_come(reference: "ray.ObjectRef[list[Progress]] | ray.ObjectRef[bool]") -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


# --- on the cluster -------------------------------------------------------------------------------


@ray.remote
def _run_job(job: Job, shards: int, place: int, board: "ray.actor.ActorHandle[_Board]") -> Result:
    line = _Line(place, board)
    elsewhere = Here if shards == 1 else partial(Sharded, job, shards)
    return attempt(job, engine=RAY, progress=line.tell, stop=line.stop, elsewhere=elsewhere)


@ray.remote(max_restarts=RETRIES, max_task_retries=RETRIES)
class _Shard:
    """Trains some of the devices of a run."""

    def __init__(self, job: Job) -> None:
        self._trainers = Trainers(job.scenario, job.seed)

    def train(self, device: str, assignment: Assignment, *, has_drifted: bool) -> Trained | None:
        """Train at once; None if that failed."""
        return self._trainers.train(device, assignment, has_drifted=has_drifted)


class Sharded:
    """`simulator.remote.TrainRemote` over actors: each trains every so many-th device."""

    def __init__(self, job: Job, shards: int, trainers: Trainers, now: Callable[[], float]) -> None:
        make = _Shard.remote  # type: ignore[attr-defined] # which the decorator adds
        self._shards = [make(job) for _ in range(shards)]
        self._number = {member.name: member.number for member in trainers.members}
        self._trainers = trainers
        self._now = now

    def submit(self, device: str, assignment: Assignment) -> object:
        """Let the device's shard train, on the data of now."""
        shard = self._shards[self._number[device] % len(self._shards)]
        has_drifted = self._trainers.has_drifted(self._now())
        return shard.train.remote(device, assignment, has_drifted=has_drifted)

    def result(self, handle: object) -> Trained | None:
        """Wait for it."""
        if not isinstance(handle, ray.ObjectRef):
            raise LocalProtocolError("a handle of somebody else's")
        trained: Trained | None = ray.get(handle)
        return trained
