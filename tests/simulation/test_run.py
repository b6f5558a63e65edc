"""Runs of scenarios: the same seed gives the same result, and what is measured is what happened."""

import gc
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from device_sdk.trainer import Assignment, Trained
from protocol.errors import ConfigError
from simulator.attackers import flipped, lie
from simulator.drift import drifted
from simulator.evaluating import Evaluator
from simulator.fleet import Fleet
from simulator.result import Result
from simulator.run import COLLECT_AFTER, Progress, run
from simulator.scenario import Scenario, load_scenario
from simulator.scenario_parts import DeviceClass, Drift, Dry, TrainingTime
from simulator.sweep import sweep
from simulator.trainers import Trainers
from tests.simulation.scenario_files import loaded
from tests.simulation.test_scenario_toml import READY

#: Until when a ready scenario is run: until something has befallen it.
UNTIL_S = {
    "attackers": 15,
    "drift": 20,
    "dropouts": 180,
    "heterogeneity": 20,
    "limited_devices": 120,
    "narrow_links": 150,
    "reconnect_storm": 80,
    "scale": 300,
    "scale_100k": 300,
    "secure": 25,
}


def same(result: Result) -> dict[str, object]:
    """What must not differ between two runs."""
    kept = asdict(result)
    for key in ("wall_s", "peak_rss_bytes", "engine"):
        del kept[key]
    return kept


@pytest.fixture
def small(tmp_path: Path) -> Scenario:
    return loaded(tmp_path)


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_a_ready_scenario_loses_nothing_and_counts_nothing_twice(path: Path) -> None:
    scenario = replace(load_scenario(path), duration_s=UNTIL_S[path.stem])
    if scenario.dry is not None:
        scenario = replace(scenario, devices=200, updates=200)
    if scenario.drift is not None:
        scenario = replace(scenario, drift=replace(scenario.drift, at_s=10))
    result = run(scenario, 0)
    assert (result.lost, result.counted_twice) == (0, 0)
    assert sum(each.updates_counted for each in result.classes) == result.points[-1].num_updates > 0


def test_same_seed_same_result_and_another_seed_another(small: Scenario) -> None:
    first, second, other = run(small, 1), run(small, 1), run(small, 2)
    assert same(first) == same(second)
    assert first.model_hash != other.model_hash


def test_without_ray_the_extra_is_named(small: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "simulator.ray_engine", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'fedbus\[ray\]'"):
        sweep([small], [0], "ray")
    with pytest.raises(ConfigError, match="engine 'cloud': use local, ray"):
        sweep([small], [0], "cloud")


def test_what_ran_before_ctrl_c_is_reported(small: Scenario) -> None:
    told: list[Progress] = []
    result = run(small, 0, progress=told.append, stop=lambda: bool(told))
    assert result.ended == "interrupted"
    assert 0 < result.virtual_s < small.duration_s
    assert result.points


def test_a_run_leaves_the_collection_of_garbage_as_it_found_it(small: Scenario) -> None:
    before = gc.get_threshold()
    during: list[int] = []

    def stop() -> bool:
        during.append(gc.get_threshold()[0])
        return True

    run(small, 0, stop=stop)
    assert during == [COLLECT_AFTER] != [before[0]]
    assert gc.get_threshold() == before


@pytest.mark.parametrize(
    ("goal", "ended"), [({"target": 0.3}, "target"), ({"updates": 7}, "updates"), ({}, "duration")]
)
def test_a_run_ends_at_its_goal(small: Scenario, goal: dict[str, float], ended: str) -> None:
    result = run(replace(small, **goal), 0)  # type: ignore[arg-type] # of mixed types, by name
    assert result.ended == ended
    assert (result.virtual_s < small.duration_s) is bool(goal)


def test_classes_are_counted_apart(small: Scenario) -> None:
    result = run(small, 0)
    fast, slow = result.classes
    assert fast.is_slow is False
    assert slow.is_slow is True
    assert min(fast.updates_per_device) > max(slow.updates_per_device) > 0
    for each in result.classes:
        assert sum(each.updates_per_device) == sum(each.staleness.values()) == each.updates_counted
        assert each.leases >= each.updates_counted
        assert each.check_ins >= each.leases
        assert each.bytes_down > each.bytes_up > 0
    last = result.points[-1]
    assert last.group_accuracy.keys() == {"fast", "slow"}
    assert last.accuracy is not None
    assert last.accuracy > 0.5
    traffic = sum(each.bytes_up for each in result.classes)
    assert last.bytes_up <= traffic


def test_a_reboot_takes_its_share_and_all_come_back(small: Scenario, tmp_path: Path) -> None:
    scenario = loaded(tmp_path, ("[[class]]", "[[reboot]]\nat_s = 10\n[[class]]"))
    result = run(scenario, 0)
    assert [note.text for note in result.notes] == ["3 devices lose power for 5 s"]
    assert sum(each.reconnects for each in result.classes) == 3
    assert sum(each.reconnects for each in run(small, 0).classes) == 0


def test_devices_that_vanish_stay_away(tmp_path: Path) -> None:
    result = run(loaded(tmp_path, ("slow = true", "vanish = 1.0")), 0)
    assert sorted(note.text for note in result.notes) == ["slow-0 vanished", "slow-1 vanished"]
    assert result.classes[1].updates_counted == 0


def test_devices_sleep_as_their_trace_says(tmp_path: Path) -> None:
    (tmp_path / "hours.csv").write_text("device,on_s,off_s\na,0,3\nb,20,60\n", encoding="utf-8")
    hours = 'availability = { kind = "trace", file = "hours.csv" }'
    result = run(loaded(tmp_path, ("slow = true", hours)), 0)
    assert result.classes[1].updates_per_device[0] == 0
    assert result.classes[1].updates_per_device[1] > 0


def test_a_device_sleeps_after_so_many_updates_of_each_wake(tmp_path: Path) -> None:
    (tmp_path / "hours.csv").write_text("on_s,off_s\n0,14\n15,30\n", encoding="utf-8")
    hours = 'availability = { kind = "trace", file = "hours.csv" }'
    without, with_limit = (
        run(loaded(tmp_path, ("seconds = 6", "seconds = 2"), ("slow = true", hours + more)), 0)
        for more in ("", "\nupdates_per_wake = 1")
    )
    assert min(without.classes[1].updates_per_device) > 2
    assert with_limit.classes[1].updates_per_device == (2, 2)


# --- attacks -------------------------------------------------------------------------------------


def test_updates_of_garbage_are_refused(tmp_path: Path) -> None:
    result = run(loaded(tmp_path, ("slow = true", 'attack = "nan"')), 0)
    assert result.classes[1].leases > 0
    assert result.classes[1].updates_counted == 0
    assert sum(result.refused.values()) >= result.classes[1].leases - 2
    assert result.classes[0].updates_counted > 0


def test_a_flood_is_refused_and_counted(tmp_path: Path) -> None:
    attack = 'attack = "flood"\nmessages_per_s = 20'
    result = run(loaded(tmp_path, ("slow = true", attack)), 0)
    assert 80 <= result.refused["malformed"] < 200  # until both are cut off
    assert result.refused["over_budget"] > 1000  # unread from then on
    assert result.classes[0].updates_counted > 20


@pytest.mark.parametrize("attack", ["sign_flip", "scale", "noise", "free_rider"])
def test_lies_are_told_about_the_delta(attack: str) -> None:
    base = np.ones(1000, np.float32)
    assignment = Assignment(base, 0, {}, {}, bytes(32))
    delta = lie(attack, 3.0, assignment, Trained(base + 1, 5, {})).params - base
    length = float(np.linalg.norm(delta))
    match attack:
        case "sign_flip":
            np.testing.assert_allclose(delta, -3, rtol=1e-5)
        case "scale":
            np.testing.assert_allclose(delta, 3, rtol=1e-5)
        case "noise":
            assert length == pytest.approx(np.sqrt(10) * np.sqrt(1000), rel=0.1)
        case _:
            assert 0 < length < 0.1


def test_flipped_labels_are_counted_from_the_other_end() -> None:
    assert flipped(np.array([0, 3, 9], np.uint8), 10).tolist() == [9, 6, 0]


# --- drift and times -----------------------------------------------------------------------------


def test_drift_changes_data_from_its_moment_on() -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(3, 4), np.array([0, 1, 2])
    mirrored = Drift(at_s=5, kind="mirrored")
    assert drifted(mirrored, x, y, 3, has_begun=False)[0] is x
    assert drifted(mirrored, x, y, 3, has_begun=True)[0][0].tolist() == [1, 0, 3, 2]
    rotated = Drift(at_s=5, kind="rotated_labels")
    assert drifted(rotated, x, y, 3, has_begun=True)[1].tolist() == [1, 2, 0]
    new = Drift(at_s=5, kind="new_labels", labels=(2,))
    assert drifted(new, x, y, 3, has_begun=False)[1].tolist() == [0, 1]
    assert drifted(new, x, y, 3, has_begun=True)[1].tolist() == [0, 1, 2]


def test_a_drift_is_seen_in_what_is_held_out(tmp_path: Path) -> None:
    drift = '[drift]\nat_s = 25\nkind = "rotated_labels"\n[[class]]'
    result = run(loaded(tmp_path, ("[[class]]", drift)), 0)
    before = max(point.accuracy or 0 for point in result.points if point.at_s < 25)
    after = min(point.accuracy or 1 for point in result.points if point.at_s > 25)
    assert before > 0.5 > 2 * after


@pytest.mark.parametrize("split", ["speed", "dirichlet"])
def test_rows_belong_to_the_same_classes_after_labels_turned(tmp_path: Path, split: str) -> None:
    scenario = loaded(
        tmp_path,
        ('"dirichlet"', f'"{split}"\nslow_labels = [7, 8, 9]'),
        ("[[class]]", '[drift]\nat_s = 10\nkind = "rotated_labels"\n[[class]]'),
    )
    trainers = Trainers(scenario, 0)
    dealt = trainers.dealt
    assert dealt is not None
    evaluator = Evaluator(scenario, trainers)
    before, after = (evaluator._prepare(dealt, has_drifted=it) for it in (False, True))
    for one, other in zip(before.cells, after.cells, strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.weights, other.weights)
        np.testing.assert_array_equal((one.y + 1) % 10, other.y)


def test_new_labels_count_for_nobody_before_they_are_there(tmp_path: Path) -> None:
    drift = '[drift]\nat_s = 10\nkind = "new_labels"\nlabels = [8, 9]\n[[class]]'
    scenario = loaded(tmp_path, ("[[class]]", drift))
    trainers = Trainers(scenario, 0)
    assert trainers.dealt is not None
    before = Evaluator(scenario, trainers)._prepare(trainers.dealt, has_drifted=False)
    assert sum(len(cell.x) for cell in before.cells) == len(before.x) < len(trainers.dealt.held_out)
    assert before.y.max() == 7


@pytest.mark.parametrize(
    ("law", "spread"), [("constant", 0.0), ("uniform", 0.5), ("lognormal", 1.0)]
)
@pytest.mark.parametrize("per", ["training", "device"])
def test_training_takes_as_long_as_its_law_says(
    small: Scenario, law: str, spread: float, per: str
) -> None:
    training = TrainingTime(seconds=10, law=law, spread=spread, per=per)
    kind = DeviceClass(name="all", count=400, training=training)
    scenario = replace(small, classes=(kind,), dry=Dry())
    fleet = Fleet(scenario, 0, Trainers(scenario, 0))
    assignment = Assignment(np.ones(1, np.float32), 0, {}, {}, bytes(32))
    drawn = []
    for member in fleet.trainers.members:
        duration = fleet._duration(member)
        drawn.append([duration(assignment) for _ in range(5)])
    times = np.array(drawn)
    assert np.median(times) == pytest.approx(10, rel=0.25)
    assert (np.ptp(times, axis=1) > 0).all() == (per == "training" and law != "constant")
    assert (np.ptp(times) > 0) == (law != "constant")
    if law == "uniform":
        assert times.min() >= 5
        assert times.max() <= 15
