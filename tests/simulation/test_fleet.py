"""What befalls the devices of a scenario; rogues are held up by their links like others."""

from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.task_config import TaskConfig
from protocol.errors import ConfigError
from simulator import DryTrainer, World
from simulator.availability import Trace
from simulator.result import Result
from simulator.run import run
from simulator.scenario import Scenario, load_scenario

HEAD = """\
name = "fleet"
duration_s = 2000
[dry]
[task]
check_in_s = 10
[task.model]
input = [4]
layers = [{ type = "dense", units = 2 }]
loss = "softmax_cross_entropy"
[task.buffered]
goal = 1
concurrency = 4
[[class]]
name = "a"
training = { seconds = 5 }
"""


MODEL = {
    "input": [4],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}


def scenario(folder: Path, *lines: str) -> Scenario:
    """Return one with a class of these lines."""
    path = folder / "fleet.toml"
    path.write_text(HEAD + "\n".join(lines), encoding="utf-8")
    return load_scenario(path)


def ran(folder: Path, *lines: str) -> Result:
    return run(scenario(folder, *lines), 0)


HOURS = 'availability = { kind = "diurnal", period_s = 200, on_fraction = 0.5 }'


def test_what_vanished_for_good_comes_back_at_no_hour(tmp_path: Path) -> None:
    result = ran(tmp_path, "count = 2", "vanish = 1.0", HOURS)
    assert sorted(note.text for note in result.notes) == ["a-0 vanished", "a-1 vanished"]


@pytest.mark.parametrize("drops", [0.0, 1.0])
def test_hours_that_begin_cut_no_crash_short(drops: float) -> None:
    world = World(TaskConfig(task="t", model=MODEL), bytes(32))
    hours = Trace(intervals=((0.0, 40.0), (50.0, 1_000.0)), drops=drops)
    device = world.add("d", DryTrainer(), lambda _: 5.0, availability=hours)
    world.run_for(35.0)
    device.lose_power(down_s=30.0)
    world.queue.run_until(64.9)
    assert not device.running
    world.queue.run_until(65.1)
    assert device.running


def test_who_loses_power_when_its_hours_end_is_back_when_they_begin() -> None:
    world = World(TaskConfig(task="t", model=MODEL), bytes(32))
    hours = Trace(intervals=((0.0, 40.0), (50.0, 1_000.0)), drops=1.0)
    device = world.add("d", DryTrainer(), lambda _: 5.0, availability=hours)
    seen = []
    for _ in range(6):
        world.run_for(10.0)
        seen.append(device.running)
    assert seen == [True, True, True, False, True, True]


def test_reconnects_are_of_each_device_whoever_has_not_joined_yet(tmp_path: Path) -> None:
    lines = ("joins_within_s = 30_000", "crashes_per_hour = 36", "crash_down_s = 5")
    alone = ran(tmp_path, "count = 1", *lines).classes[0].reconnects
    first = ran(tmp_path, "count = 10", *lines).classes[0].reconnects  # the others join too late
    assert first == alone >= 10


def test_an_aggregator_that_is_killed_while_it_is_down_stays_down_for_longer() -> None:
    world = World(TaskConfig(task="t", model=MODEL), bytes(32))
    world.run_for(10.0)
    world.server.lose_power(down_s=30.0)
    world.run_for(10.0)
    world.server.lose_power(down_s=300.0)
    world.queue.run_until(319.0)
    assert world.server.transport is None
    world.queue.run_until(321.0)
    assert world.server.transport is not None


@pytest.mark.parametrize("attack", ["nan", "flood"])
def test_a_rogue_says_no_more_than_its_link_takes(tmp_path: Path, attack: str) -> None:
    lines = ("count = 1", f'attack = "{attack}"', "messages_per_s = 50")
    counts = {}
    for name, link in (("free", "fibre"), ("narrow", "lora_gateway")):
        short = replace(scenario(tmp_path, *lines, f'link = "{link}"'), duration_s=40)
        result = run(short, 0)
        counts[name] = result.classes[0].check_ins
        assert (result.counters.get("not_sent_by_devices", 0) > 0) is (name == "narrow")
    assert counts["free"] > 1_950
    assert counts["narrow"] < 40 * 5_000 / 8 / 50  # a check-in is larger than 50 bytes


@pytest.mark.parametrize("line", [HOURS, "crashes_per_hour = 1", "vanish = 0.5"])
def test_a_rogue_with_what_only_devices_have_is_refused(tmp_path: Path, line: str) -> None:
    key, _, _ = line.partition(" ")
    with pytest.raises(ConfigError, match=rf"{key}: attack = 'nan' is always there"):
        scenario(tmp_path, "count = 1", 'attack = "nan"', line)


def test_a_flood_answers_no_lease(tmp_path: Path) -> None:
    flood = replace(scenario(tmp_path, "count = 1", 'attack = "flood"'), duration_s=100)
    result = run(flood, 0)
    assert result.classes[0].leases > 0
    assert set(result.refused) == {"malformed", "quarantined", "over_budget"}  # cut off at last
    assert result.refused["malformed"] <= 100  # one a second


@pytest.mark.parametrize("every", [1, 7])
def test_the_last_point_is_of_the_moment_in_which_its_version_appeared(
    tmp_path: Path, every: int
) -> None:
    few = replace(
        scenario(tmp_path, "count = 1", "joins_within_s = 0"), duration_s=60, evaluate_every=every
    )
    often = run(replace(few, evaluate_every=1), 0)
    last, same = run(few, 0).points[-1], often.points[-1]
    assert last == same
    assert last.at_s < 60
