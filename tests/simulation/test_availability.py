"""Devices come and go at their hours, of their own accord, politely or not."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import TaskConfig
from protocol.errors import ConfigError
from simulator import Always, Availability, Diurnal, DryTrainer, Trace, World, read_trace

MODEL = {
    "input": [8],
    "layers": [{"type": "dense", "units": 4}],
    "loss": "softmax_cross_entropy",
}
CONFIG = TaskConfig(
    task="t", model=MODEL, buffered=Buffered(goal=1, max_wait_s=5.0), check_in_s=6, lease_ttl_s=20
)
SEED = bytes(32)


def changes(availability: Availability, count: int = 8) -> list[tuple[float, bool]]:
    """Return the first changes after the beginning."""
    found, now = [], 0.0
    for _ in range(count):
        now, is_on = availability.next_change(now)
        found.append((now, is_on))
    return found


@settings(deadline=None)
@given(st.floats(0.1, 1e6), st.floats(0.01, 0.99), st.floats(0, 1, exclude_max=True))
def test_hours_go_on_and_off_in_turn_and_always_later(
    period_s: float, on_fraction: float, phase: float
) -> None:
    found = changes(Diurnal(period_s=period_s, on_fraction=on_fraction, phase=phase), 50)
    assert all(before[0] < after[0] for before, after in itertools.pairwise(found))
    # A moment that rounding puts just beyond itself may be named twice, never skipped.
    apart = [
        after for before, after in itertools.pairwise(found) if after[0] > before[0] * (1 + 1e-9)
    ]
    assert all(before[1] != after[1] for before, after in itertools.pairwise(apart))


def test_hours_begin_at_their_phase() -> None:
    found = changes(Diurnal(period_s=100.0, on_fraction=0.25, phase=0.5), 4)
    assert found == [(50.0, True), (75.0, False), (150.0, True), (175.0, False)]
    assert Diurnal(period_s=100.0, on_fraction=0.5, phase=0.75).next_change(0.0) == (25.0, False)


def test_a_trace_ends_and_always_never_does() -> None:
    trace = Trace(intervals=((10.0, 20.0), (20.0, 30.0), (40.0, 50.0)))
    expected = [(10.0, True), (20.0, False), (30.0, False), (40.0, True), (50.0, False)]
    assert changes(trace, 6) == [*expected, (float("inf"), True)]
    assert Always().next_change(5.0) == (float("inf"), False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "device,on_s,off_s\nx,1,2\ny,0,5\n\nx,3.5,4\n"),
        ("a.json", json.dumps({"x": [[1, 2], [3.5, 4]], "y": [[0, 5]]})),
    ],
)
def test_a_file_says_who_is_there_when(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_trace(tmp_path / name) == {
        "x": Trace(intervals=((1.0, 2.0), (3.5, 4.0))),
        "y": Trace(intervals=((0.0, 5.0),)),
    }


def test_a_file_without_devices_is_one_trace(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("on_s,off_s\n1,2\n")
    assert read_trace(tmp_path / "a.csv") == {"": Trace(intervals=((1.0, 2.0),))}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,1,2\n", r"a\.csv:1: begin with the line device,on_s,off_s"),
        ("a.csv", "device,on_s,off_s\nx,1,2\nx,1.5,3\n", r"a\.csv:3: .*must begin at 2"),
        ("a.csv", "device,on_s,off_s\nx,1,two\n", r"a\.csv:2: two numbers"),
        ("a.csv", "device,on_s,off_s\nx,1\n", r"a\.csv:2: 2 columns, not 3"),
        ("a.csv", "device,on_s,off_s\nx,nan,1\n", r"a\.csv:2: interval nan"),
        ("a.csv", "device,on_s,off_s\n", r"a\.csv: holds no interval"),
        ("a.json", '{"x": [[1, 2],\n}', r"a\.json:2: not JSON"),
        ("a.json", "[1]", r"a\.json: begin with"),
        ("a.json", '{"x": [[1, 2], [3]]}', r"a\.json: x\[1\]: \[on_s, off_s\] is expected"),
        ("a.json", '{"x": [[3, 2]]}', r"a\.json: x\[0\]: interval 3"),
        ("a.json", '{"x": 5}', r"a\.json: x: a list"),
        ("b.csv", None, "No such file"),
    ],
)
def test_a_wrong_file_is_refused_where_it_is_wrong(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_trace(tmp_path / name)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"period_s": 0.0}, "period_s"),
        ({"on_fraction": 1.0}, "on_fraction"),
        ({"phase": 1.0}, "phase"),
        ({"drops": 1.5}, "drops"),
    ],
)
def test_impossible_hours_are_refused(table: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Diurnal(**table)


# --- devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("drops", "state"), [(0.0, b"sleeping"), (1.0, b"offline")])
def test_a_device_goes_as_it_is_told_and_comes_back_by_itself(drops: float, state: bytes) -> None:
    world = World(CONFIG, SEED)
    hours = Diurnal(period_s=100.0, on_fraction=0.5, phase=0.1, drops=drops)
    device = world.add("d", DryTrainer(), lambda _: 1.0, availability=hours)
    said = []
    for _ in range(7):
        said.append(world.broker.retained.get(world.topics.state("d")))
        world.run_for(30.0)
    assert said == [None, b"online", state, state, b"online", b"online", state]
    before = device.counts["receipts"]
    world.run_for(50.0)
    assert device.counts["receipts"] > before > 0


def test_what_a_device_had_not_finished_is_settled_when_it_is_back() -> None:
    """Its hours end between the update and the receipt."""
    config = TaskConfig(task="t", model=MODEL, buffered=Buffered(goal=2, max_wait_s=30.0))
    world = World(config, SEED)
    hours = Trace(intervals=((0.0, 10.0), (60.0, 1_000.0)))
    device = world.add("d", DryTrainer(), lambda _: 5.0, availability=hours)
    world.run_for(59.0)
    assert "pending" in device.storage
    world.run_for(30.0)
    assert device.counts["receipts"] == 1


def test_a_device_that_needs_one_receipt_a_wake_sleeps_as_soon_as_it_has_it() -> None:
    world = World(CONFIG, SEED)
    hours = Diurnal(period_s=100.0, on_fraction=0.9)
    device = world.add("d", DryTrainer(), lambda _: 1.0, availability=hours, updates_per_wake=1)
    world.run_for(20.0)
    assert not device.running
    world.run_for(960.0)
    assert device.counts["receipts"] == 10
    assert world.server.counts["leases_given"] == 10  # none for a device that is about to go


def test_no_broker_queues_versions_for_a_device_that_sleeps() -> None:
    world = World(CONFIG, SEED)
    world.add(
        "d", DryTrainer(), lambda _: 1.0, availability=Trace(intervals=((0.0, 5.0), (500.0, 510.0)))
    )
    world.add("e", DryTrainer(), lambda _: 1.0)
    world.run_for(499.0)
    heard = world.devices["d"].counters.received
    world.run_for(2.0)
    assert world.server.counts["updates_accepted"] > 50
    assert world.devices["d"].counters.received - heard < 10
