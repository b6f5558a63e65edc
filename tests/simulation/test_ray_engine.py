"""Runs over a local Ray cluster: the same bytes as here, also when processes of it are killed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from device_sdk.trainer import Assignment
from protocol.errors import ConfigError
from simulator.result import FAILED
from simulator.run import Job, Progress, run
from simulator.scenario import Scenario
from simulator.sweep import sweep
from simulator.trainers import Trainers
from tests.simulation.scenario_files import loaded
from tests.simulation.test_run import same
from tests.simulation.test_sweep import Deadly

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

#: How long a cluster may take for what takes seconds.
PATIENCE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two CPUs on this machine. Ray waits 30 s for its own processes: a busy machine takes more."""
    for patience in range(4):
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            break
        except Exception:  # Ray raises no class of its own here
            ray.shutdown()
            if patience == 3:
                raise
    yield
    ray.shutdown()


@pytest.fixture
def small(tmp_path: Path) -> Scenario:
    return loaded(tmp_path, ("duration_s = 30", "duration_s = 12"))


def test_runs_and_shards_of_devices_give_the_same_bytes(small: Scenario) -> None:
    here = [same(each) for each in sweep([small], [0, 1])]
    told: list[Progress] = []
    there = sweep([small], [0, 1], "ray", progress=told.append)
    assert [same(each) for each in there] == here
    assert {(each.scenario, each.seed) for each in told} <= {("small", 0), ("small", 1)}
    assert [same(each) for each in sweep([small], [0], "ray", shards=2)] == here[:1]


def test_a_run_tells_how_far_it_is_and_stops_when_it_is_asked_to(small: Scenario) -> None:
    """Also where the board is killed that it tells it to: that costs some progress."""
    told: list[Progress] = []

    def look(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 1:
            _kill("ray::_Board")

    endless = replace(small, duration_s=1e6)
    (result,) = sweep([endless], [0], "ray", progress=look, stop=lambda: len(told) > 2)
    assert result.ended == "interrupted"
    times = [each.at_s for each in told]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] <= result.virtual_s
    assert len(result.points) > 1


def test_a_run_whose_process_is_killed_is_run_again(small: Scenario) -> None:
    killed: list[int] = []
    watching = threading.Thread(target=lambda: killed.append(_kill("ray::_run_job")), daemon=True)
    watching.start()
    (result,) = sweep([small], [3], "ray")
    watching.join(PATIENCE_S)
    assert killed
    assert same(result) == same(run(small, 3))


def test_a_run_that_is_killed_again_and_again_failed_and_the_others_stay(
    small: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.ray_engine.RETRIES", 1)
    deadly = replace(small, name="deadly", about=Deadly("x"))
    dead, alive = sweep([deadly, small], [0], "ray")
    assert (dead.ended, alive.ended) == (FAILED, "duration")
    assert dead.notes[-1].text.startswith("failed: ")


def test_a_shard_that_is_killed_trains_on(small: Scenario) -> None:
    from simulator.ray_engine import Sharded  # noqa: PLC0415 - it needs Ray

    killed: list[int] = []

    class Killing(Sharded):
        """Loses a process while it trains."""

        def submit(self, device: str, assignment: Assignment) -> object:
            begun = super().submit(device, assignment)
            if assignment.version == 2 and not killed:
                killed.append(_kill("ray::_Shard"))
            return begun

    def elsewhere(trainers: Trainers, now: Callable[[], float]) -> Sharded:
        return Killing(Job(small, 4), 1, trainers, now)

    result = run(small, 4, elsewhere=elsewhere)
    assert killed
    assert same(result) == same(run(small, 4))


def test_more_shards_than_processors_are_refused(small: Scenario) -> None:
    with pytest.raises(ConfigError, match="shards: 3, but the cluster has 2 CPUs"):
        sweep([small], [0], "ray", shards=3)


def _kill(title: str) -> int:
    """Kill a process of the cluster that does something of this title; return its id."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for folder in Path("/proc").glob("[0-9]*"):
            if _title(folder).startswith(title) and _is_ours(folder):
                os.kill(int(folder.name), signal.SIGKILL)
                return int(folder.name)
        time.sleep(0.01)
    raise AssertionError(f"no process {title}")


def _title(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def _is_ours(folder: Path) -> bool:
    """Whether this process started it, or one that it started."""
    while folder.name not in {"0", "1", str(os.getpid())}:
        try:
            stat = (folder / "stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        folder = folder.parent / stat.rpartition(")")[2].split()[1]
    return folder.name == str(os.getpid())
