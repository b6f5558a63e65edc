"""The training thread outlives whatever a user's trainer does."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from device_sdk.actions import Train
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer
from device_sdk.training import Result, TrainingThread

JOB = Train(bytes(16), Assignment(np.zeros(3, np.float32), 1, {}, {}, bytes(32)))


class Scripted(Trainer):
    """Does what it was given to do."""

    def __init__(self, does: Callable[[], object]) -> None:
        self._does = does

    def num_samples(self) -> int:
        return 1

    def train(self, assignment: Assignment) -> Trained:
        del assignment
        return self._does()  # type: ignore[return-value] # what users' trainers may do


def run(does: Callable[[], object]) -> Result:
    finished = threading.Event()
    thread = TrainingThread(Scripted(does), finished.set)
    thread.train(JOB)
    assert finished.wait(10)
    thread.stop(10)
    (result,) = thread.results()
    return result


def fail() -> object:
    raise KeyError("a bug of the user's")


@pytest.mark.parametrize("does", [fail, lambda: None, lambda: (np.zeros(3), 5)])
def test_a_trainer_that_fails_is_a_training_without_result(does: Callable[[], object]) -> None:
    assert run(does) == Result(bytes(16), None)


@pytest.mark.parametrize(("told", "fails"), [(None, False), (1000, True)])
def test_the_memory_budget_of_the_device_reaches_its_engine(
    told: int | None, *, fails: bool
) -> None:
    layers = [{"type": "dense", "units": 2}]
    spec = {"input": [100], "layers": layers, "loss": "softmax_cross_entropy"}
    params = np.zeros(202, np.float32)
    trainer = NumpyTrainer(data=(np.zeros((8, 100), np.float32), np.zeros(8, np.int64)))
    finished = threading.Event()
    thread = TrainingThread(trainer, finished.set, memory_budget_bytes=told)
    thread.train(Train(bytes(16), Assignment(params, 1, spec, {}, bytes(32))))
    assert finished.wait(10)
    thread.stop(10)
    (result,) = thread.results()
    assert (result.trained is None) == fails


def test_a_trainer_may_count_in_numpys_integers() -> None:
    result = run(lambda: Trained(np.ones(3, np.float32), np.int64(7), {}))  # type: ignore[arg-type]
    assert result.trained is not None
    assert type(result.trained.num_samples) is int


def test_a_trainer_that_counts_in_fractions_is_told_so() -> None:
    assert run(lambda: Trained(np.ones(3, np.float32), 7.5, {})).trained is None  # type: ignore[arg-type]
