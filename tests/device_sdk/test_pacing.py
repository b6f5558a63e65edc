"""What stands between two steps: CPU time stays below its share, and a hold is kept."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.actions import Train
from device_sdk.pacing import Abandoned, Pace
from device_sdk.trainer import Assignment, Trained, Trainer
from device_sdk.training import TrainingThread

#: Trains an MLP with the SDK's own engine, alone in its process, under a limit; says CPU and wall.
PACED = """
import sys, time
import numpy as np
from device_sdk.pacing import Pace
from device_sdk.trainer import Assignment, NumpyTrainer
layers = [{"type": "dense", "units": 256}, {"type": "relu"}, {"type": "dense", "units": 6}]
spec = {"input": [256], "layers": layers, "loss": "softmax_cross_entropy"}
size = 256 * 256 + 256 + 256 * 6 + 6
data = np.zeros((640, 256), np.float32), np.arange(640) % 6
pace = Pace(float(sys.argv[1]))
cpu, wall = time.process_time(), time.monotonic()
def pause():
    pace.pause()
    if time.monotonic() - wall > 3:
        print(time.process_time() - cpu, time.monotonic() - wall)
        sys.exit()
training = {"epochs": 100000, "batch_size": 32}
NumpyTrainer(data=data).train(
    Assignment(np.zeros(size, np.float32), 1, spec, training, bytes(32), pause))
"""


class Time:
    """A clock that moves when somebody computes or waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cpu = 7.0
        self.waits: list[float] = []

    def compute(self, seconds: float, *, cores: float = 1.0) -> None:
        self.now += seconds
        self.cpu += seconds * cores

    def wait(self, _gate: threading.Condition, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def pace(self, cpu_limit: float = 0.0) -> Pace:
        return Pace(cpu_limit, clock=lambda: self.now, cpu=lambda: self.cpu, wait=self.wait)


steps = st.lists(
    st.tuples(st.floats(0, 5), st.floats(0, 4), st.floats(0, 5)), min_size=1, max_size=30
)


@given(limit=st.floats(0.05, 4), steps=steps)
def test_over_any_number_of_whole_steps_the_limit_holds(
    limit: float, steps: list[tuple[float, float, float]]
) -> None:
    """Steps of any length, on any number of cores, with any rest of their own in between."""
    time_ = Time()
    pace = time_.pace(limit)
    looks = [(time_.now, time_.cpu)]
    for seconds, cores, rest in steps:
        time_.compute(seconds, cores=cores)
        time_.now += rest
        pace.pause()
        looks.append((time_.now, time_.cpu))
    for first, (began, before) in enumerate(looks):
        for ended, after in looks[first + 1 :]:
            assert after - before <= limit * (ended - began) + 1e-6


def test_it_waits_no_longer_than_it_must() -> None:
    time_ = Time()
    pace = time_.pace(0.5)
    for _ in range(100):
        time_.compute(0.2)
        pace.pause()
    assert time_.now - 1000.0 == pytest.approx(100 * 0.4)


def test_without_a_limit_it_never_waits() -> None:
    time_ = Time()
    pace = time_.pace()
    time_.compute(50, cores=4)
    pace.pause()
    assert not time_.waits


def test_rest_is_not_saved_up() -> None:
    time_ = Time()
    pace = time_.pace(0.5)
    time_.now += 3600
    pace.pause()
    time_.compute(1)
    pace.pause()
    assert time_.waits == [1.0]


def test_a_hold_ends_with_the_lease() -> None:
    time_ = Time()
    pace = time_.pace()
    pace.begin(1090.0)
    pace.hold("not_charging")
    with pytest.raises(Abandoned, match="not_charging"):
        pace.pause()
    assert time_.now == 1090.0
    assert time_.waits == [60.0, 30.0], "it looks at the clock again"


def test_a_lease_that_has_run_out_ends_only_what_waits() -> None:
    time_ = Time()
    pace = time_.pace(0.5)
    pace.begin(1000.5)
    time_.compute(1)
    pace.pause()
    assert time_.now == 1002.0
    pace.hold("too_hot")
    with pytest.raises(Abandoned, match="too_hot"):
        pace.pause()
    assert time_.now == 1002.0


def test_what_passes_in_time_is_waited_for() -> None:
    pace = Pace()
    pace.begin(time.monotonic() + 60)
    pace.hold("busy")
    passed = threading.Event()

    def step() -> None:
        pace.pause()
        passed.set()

    thread = threading.Thread(target=step)
    thread.start()
    assert not passed.wait(0.05)
    pace.hold("too_hot")
    assert not passed.wait(0.05)
    pace.hold("")
    assert passed.wait(10)
    thread.join(10)


class Patient(Trainer):
    """Steps until it is told to end."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.began = threading.Event()

    def num_samples(self) -> int:
        return 1

    def train(self, assignment: Assignment) -> Trained:
        while True:
            assignment.pause()
            self.num_steps += 1
            self.began.set()
            time.sleep(0.001)


def job(ends_at: float) -> Train:
    return Train(bytes(16), Assignment(np.zeros(3, np.float32), 1, {}, {}, bytes(32)), ends_at)


def test_training_that_is_held_until_its_lease_ends_is_abandoned_without_a_step() -> None:
    finished, trainer = threading.Event(), Patient()
    thread = TrainingThread(trainer, finished.set)
    thread.hold("battery_low")
    thread.train(job(time.monotonic() + 0.05))
    assert thread.is_busy
    assert finished.wait(10)
    (result,) = thread.results()
    assert (result.trained, result.abandoned) == (None, "battery_low")
    assert not thread.is_busy
    assert trainer.num_steps == 0
    thread.stop(10)


def test_a_device_that_leaves_waits_for_one_step_only() -> None:
    finished, trainer = threading.Event(), Patient()
    thread = TrainingThread(trainer, finished.set)
    thread.train(job(float("inf")))
    assert trainer.began.wait(10)
    thread.stop(10)
    assert not thread._thread.is_alive()
    (result,) = thread.results()
    assert result.abandoned == "leaving"


@pytest.mark.parametrize("limit", [0.1, 0.4])
def test_the_sdks_engine_stays_below_the_limit_in_a_process_of_its_own(limit: float) -> None:
    """Measured: CPU time over 3 seconds. A busy machine can only make it less."""
    done = subprocess.run(
        [sys.executable, "-c", PACED, str(limit)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    cpu, wall = map(float, done.stdout.split())
    sys.stdout.write(f"limit {limit}: {cpu:.3f} s of CPU in {wall:.3f} s\n")
    assert cpu / wall < 1.1 * limit + 0.02
    assert cpu > 0, "it trains at all"
