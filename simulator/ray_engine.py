"""Runs over a Ray cluster (extra ``[ray]``): seeds and methods apart, and shards of devices apart.

A run is a Ray task. With shards its devices train in actors that hold their data, while the task
lets virtual time pass; trainings that overlap there run at the same time here. A task or an actor
whose process is killed begins anew elsewhere: training is a function of device and assignment, so
the bytes are the same.
"""

from collections.abc import Callable, Sequence
from typing import Final

from device_sdk.trainer import Assignment, Trained
from protocol.errors import ConfigError, LocalProtocolError
from simulator.result import Result
from simulator.run import Job, attempt, failed
from simulator.trainers import Trainers

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


def run_jobs(
    jobs: Sequence[Job],
    *,
    shards: int = 1,
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
    task = _run_job.options(num_cpus=1 if shards == 1 else 0)
    at_once = num_cpus // shards
    todo = list(enumerate(jobs))[::-1]
    open_: dict[ray.ObjectRef[Result], int] = {}
    done: dict[int, Result] = {}
    while (todo or open_) and not stop():
        while todo and len(open_) < at_once:
            place, job = todo.pop()
            open_[task.remote(job, shards)] = place
        ended, _ = ray.wait(list(open_), timeout=POLL_S)
        for reference in ended:
            place = open_.pop(reference)
            done[place] = _result(reference, jobs[place])
            finished(done[place])
    for reference in open_:
        ray.cancel(reference, force=True)
    return [done[place] for place in sorted(done)]


def _result(reference: "ray.ObjectRef[Result]", job: Job) -> Result:
    """Return what came out, or that the run failed, with the first line of Ray's reasons."""
    try:
        return ray.get(reference)
    except RayError as error:
        return failed(job, str(error).partition("\n")[0], RAY)


@ray.remote(max_retries=RETRIES)
def _run_job(job: Job, shards: int) -> Result:
    if shards == 1:
        return attempt(job, engine=RAY)
    return attempt(
        job,
        engine=RAY,
        elsewhere=lambda trainers, now: Sharded(job, shards, trainers, now),
    )


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
