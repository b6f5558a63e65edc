"""Many runs: scenarios side by side, each with several seeds.

Same scenario and seed, same result, whatever the engine:

- ``local``: here, one after the other, or in ``workers`` processes (`simulator.processes`);
- ``ray``: over a Ray cluster, runs and shards of devices apart (`simulator.ray_engine`).
"""

from collections.abc import Callable, Sequence
from typing import Final

from protocol.errors import ConfigError
from simulator import processes
from simulator.result import Result
from simulator.run import LOCAL, Job, Progress, attempt
from simulator.scenario import Scenario

RAY: Final = "ray"
ENGINES: Final = (LOCAL, RAY)


def _quiet(_progress: Progress) -> None:
    """Nobody watches."""


def _never() -> bool:
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
    stop: Callable[[], bool] = _never,
) -> list[Result]:
    """Run every scenario with every seed; return the results in that order.

    ``workers`` is how many runs go on at once. ``shards`` (Ray only): among how many actors the
    devices of each run are dealt, to train there; 1: none. ``finished`` is told of each run as it
    ends, in any order, ``progress`` of all that are under way. After ``stop`` no other run begins;
    those under way are reported as far as they came, but for Ray's that do not end within
    `simulator.ray_engine.STOPS_WITHIN_S`, which are left out.

    A run that cannot go on is a result that ``failed``, and all others go on; one whose process is
    killed begins anew before. Raises ConfigError for an engine that is none or not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r}: use {', '.join(ENGINES)}")
    jobs = [Job(scenario, seed) for scenario in scenarios for seed in seeds]
    if engine == RAY:
        from simulator.ray_engine import run_jobs  # noqa: PLC0415 - Ray is an extra

        return run_jobs(jobs, shards=shards, progress=progress, finished=finished, stop=stop)
    if workers > 1 and len(jobs) > 1:
        workers = min(workers, len(jobs))
        return processes.run_jobs(
            jobs, workers=workers, progress=progress, finished=finished, stop=stop
        )
    results = []
    for job in jobs:
        if stop():
            break
        results.append(attempt(job, progress=progress, stop=stop))
        finished(results[-1])
    return results
