"""Many runs: one that cannot go on, or whose process is killed, takes no other along."""

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.errors import LocalProtocolError
from simulator.evaluating import Evaluator, Scores
from simulator.processes import KILLED
from simulator.result import FAILED, Result
from simulator.run import Progress
from simulator.scenario import Scenario
from simulator.sweep import sweep
from tests.simulation.scenario_files import loaded
from tests.simulation.test_run import same


class Deadly(str):
    """Text that kills the process it is sent to."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (9,)


@pytest.fixture
def small(tmp_path: Path) -> Scenario:
    return loaded(tmp_path, ("duration_s = 30", "duration_s = 8"))


def ends(results: list[Result]) -> list[str]:
    return [each.ended for each in results]


def test_a_run_that_cannot_be_set_up_failed_and_the_others_stay(small: Scenario) -> None:
    told: list[Result] = []
    wrong = replace(small, name="wrong", data=replace(small.data, min_samples=1000))
    results = sweep([wrong, small], [0, 1], finished=told.append)
    assert ends(results) == ends(told) == [FAILED, FAILED, "duration", "duration"]
    assert "1438 rows are too few" in results[0].notes[-1].text
    assert [each.num_devices for each in results[0].classes] == [4, 2]


def test_a_run_that_breaks_on_the_way_is_told_as_far_as_it_came(
    small: Scenario, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate = Evaluator.evaluate

    def broken(self: Evaluator, params: object, now: float) -> Scores:
        if now > 5:
            raise LocalProtocolError("a bug")
        return evaluate(self, params, now)  # type: ignore[arg-type] # handed through

    monkeypatch.setattr(Evaluator, "evaluate", broken)
    (result,) = sweep([small], [0])
    assert result.ended == FAILED
    assert "LocalProtocolError: a bug (test_sweep.py, line " in result.notes[-1].text
    assert "a bug" in caplog.text
    monkeypatch.undo()
    (whole,) = sweep([small], [0])
    assert result.points == whole.points[: len(result.points)] != ()


@pytest.mark.slow
def test_processes_give_the_same_results_though_one_is_killed(small: Scenario) -> None:
    told: list[Progress] = []
    killed: list[int] = []

    def look(progress: Progress) -> None:
        told.append(progress)
        if not killed:
            for victim in multiprocessing.active_children():
                victim.kill()
                killed.append(victim.pid or 0)

    deadly = replace(small, name="deadly", about=Deadly("x"))
    there = sweep([deadly, small], [3], workers=2, progress=look)
    assert ends(there) == [FAILED, "duration"]
    assert KILLED in there[0].notes[-1].text
    assert same(there[1]) == same(sweep([small], [3])[0])
    assert killed
    assert {each.seed for each in told} == {3}
    assert not multiprocessing.active_children()
