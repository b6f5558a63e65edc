"""The training thread outlives whatever a user's trainer does."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from device_sdk.actions import Train
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer, TrainingError
from device_sdk.training import Result, TrainingThread
from protocol.errors import ConfigError

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
    result = run(does)
    assert result == Result(bytes(16), None, failed=result.failed)
    assert result.failed


def test_of_an_error_that_may_hold_samples_only_the_kind_is_told() -> None:
    assert run(fail).failed == "KeyError"


def no_data() -> object:
    raise TrainingError("no samples")


def no_room() -> object:
    raise ConfigError("memory budget of 5 bytes: this model needs at least 9")


def test_the_text_of_a_training_error_is_told_and_the_plan_may_be_tried_again() -> None:
    assert run(no_data) == Result(bytes(16), None, failed="no samples")


def test_a_plan_that_the_trainer_refuses_is_unfit() -> None:
    result = run(no_room)
    assert result.is_plan_unfit
    assert result.failed == "memory budget of 5 bytes: this model needs at least 9"


@pytest.mark.parametrize("told", [-1, float("nan")])
def test_skipped_steps_are_a_count(told: float) -> None:
    params = np.ones(3, np.float32)
    assert run(lambda: Trained(params, 1, {"skipped_steps": told})).trained is None
    assert Trained(params, 1, {"skipped_steps": 3.0}).num_skipped == 3
    assert Trained(params, 1, {}).num_skipped == 0


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
    assert ("needs at least" in result.failed) == fails


def test_a_trainer_may_count_in_numpys_integers() -> None:
    result = run(lambda: Trained(np.ones(3, np.float32), np.int64(7), {}))  # type: ignore[arg-type]
    assert result.trained is not None
    assert type(result.trained.num_samples) is int


def test_a_trainer_that_counts_in_fractions_is_told_so() -> None:
    assert run(lambda: Trained(np.ones(3, np.float32), 7.5, {})).trained is None  # type: ignore[arg-type]
