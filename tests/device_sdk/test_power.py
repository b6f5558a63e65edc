"""What a device reads of itself, from made-up boards."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk.conditions import Readings
from device_sdk.power import EARLIEST, Board
from tests.support.board import cpu, laptop, plant, supply

NOW = EARLIEST + 1e7
TICKS = os.sysconf("SC_CLK_TCK")


def board(root: Path, files: dict[str, object], *, now: float = NOW, own_cpu: float = 0.0) -> Board:
    plant(root, files)
    return Board(root, clock=lambda: now, own_cpu=lambda: own_cpu)


def test_an_empty_board_says_nothing_but_the_time(tmp_path: Path) -> None:
    local = time.localtime(NOW)
    assert board(tmp_path, {}).read() == Readings(minute=60 * local.tm_hour + local.tm_min)


def test_the_machine_of_this_test_can_be_read() -> None:
    found = Board().read()
    assert found.load is None or 0 <= found.load <= 1
    assert found.battery_percent is None or 0 <= found.battery_percent <= 110


@pytest.mark.parametrize("charging", [True, False])
def test_a_battery_with_a_charger(tmp_path: Path, *, charging: bool) -> None:
    found = board(tmp_path, laptop(percent=43, charging=charging)).read()
    assert (found.charging, found.battery_percent) == (charging, 43)


@pytest.mark.parametrize(
    ("status", "charging"),
    [
        ("Charging", True),
        ("Full", True),
        ("Not charging", True),
        ("Discharging", False),
        ("Unknown", False),
        (None, False),
    ],
)
def test_where_no_charger_is_shown_the_battery_s_word_counts(
    tmp_path: Path, status: str | None, *, charging: bool
) -> None:
    found = board(tmp_path, supply("bms", type="Battery", status=status, capacity=7)).read()
    assert (found.charging, found.battery_percent) == (charging, 7)


def test_a_charger_s_word_stands_above_a_full_battery_s(tmp_path: Path) -> None:
    files = {**laptop(percent=100, charging=False), **supply("BAT0", status="Full")}
    assert board(tmp_path, files).read().charging is False


def test_any_charger_will_do(tmp_path: Path) -> None:
    files = {**laptop(percent=50, charging=False), **supply("usb", type="USB", online=2)}
    assert board(tmp_path, files).read().charging is True


def test_the_emptiest_battery_counts(tmp_path: Path) -> None:
    files = {
        **laptop(percent=50, charging=False),
        **supply("BAT1", type="Battery", capacity=12),
        **supply("BAT2", type="Battery", capacity="unreadable"),
    }
    assert board(tmp_path, files).read().battery_percent == 12


def test_a_mouse_and_an_empty_slot_are_no_batteries(tmp_path: Path) -> None:
    files = {
        **supply("AC", type="Mains", online=1),
        **supply("hid", type="Battery", scope="Device", capacity=3, status="Discharging"),
        **supply("BAT1", type="Battery", present=0, capacity=0),
    }
    found = board(tmp_path, files).read()
    assert (found.charging, found.battery_percent) == (None, None)


def test_the_hottest_sensor_counts_and_those_switched_off_do_not(tmp_path: Path) -> None:
    values = [48_312, 61_500, -274_000, 255_000, "", None]
    files: dict[str, object] = {
        f"sys/class/thermal/thermal_zone{index}/temp": value for index, value in enumerate(values)
    }
    assert board(tmp_path, files).read().temperature_c == 61.5


def test_the_load_is_what_others_used_since_the_last_look(tmp_path: Path) -> None:
    spent = 100.0
    plant(tmp_path, {**cpu(busy=1000, idle=1000), "proc/loadavg": "0.50 1 2 1/100 7"})
    found = Board(tmp_path, clock=lambda: NOW, own_cpu=lambda: spent)
    assert found.read().load == 0.25, "half a core of two, before there is more to say"
    plant(tmp_path, cpu(busy=1000 + 6 * TICKS, idle=1000 + 4 * TICKS))
    spent += 4.0
    assert found.read().load == pytest.approx(0.2), "2 of 10 seconds: the other 4 are our own"
    plant(tmp_path, cpu(busy=1000 + 6 * TICKS, idle=1000 + 14 * TICKS))
    assert found.read().load == 0.0
    plant(tmp_path, cpu(busy=1001 + 6 * TICKS, idle=1000 + 14 * TICKS))
    assert found.read().load == 0.0, "one tick is too short a time to judge by"


def test_a_load_beyond_all_cores_is_one(tmp_path: Path) -> None:
    files: dict[str, object] = {**cpu(busy=1, idle=1), "proc/loadavg": "9.00 1 2 1/100 7"}
    assert board(tmp_path, files).read().load == 1.0


@pytest.mark.parametrize(
    ("files", "is_set"),
    [
        ({}, True),
        ({"sys/class/rtc/rtc0/hctosys": 1}, True),
        ({"run/systemd/timesync/other": ""}, False),
        ({"run/systemd/timesync/other": "", "sys/class/rtc/rtc0/hctosys": 0}, False),
        ({"run/systemd/timesync/other": "", "sys/class/rtc/rtc0/hctosys": 1}, True),
        ({"run/systemd/timesync/synchronized": ""}, True),
    ],
)
def test_a_clock_is_set_by_its_chip_or_by_the_network(
    tmp_path: Path, files: dict[str, object], *, is_set: bool
) -> None:
    assert (board(tmp_path, files).read().minute is not None) == is_set


def test_a_clock_that_shows_the_past_was_not_set(tmp_path: Path) -> None:
    files: dict[str, object] = {"sys/class/rtc/rtc0/hctosys": 1}
    assert board(tmp_path, files, now=EARLIEST - 1).read().minute is None


@given(garbage=st.text(max_size=30) | st.binary(max_size=30))
def test_garbage_is_no_reading(
    tmp_path_factory: pytest.TempPathFactory, garbage: str | bytes
) -> None:
    root = tmp_path_factory.mktemp("board")
    names = ["sys/class/thermal/thermal_zone0/temp", "proc/stat", "proc/loadavg"]
    names += [f"sys/class/power_supply/BAT0/{key}" for key in ("capacity", "status", "online")]
    plant(root, {**dict.fromkeys(names, ""), **supply("BAT0", type="Battery")})
    for name in names:
        raw = garbage if isinstance(garbage, bytes) else garbage.encode("utf-8", "replace")
        (root / name).write_bytes(raw)
    found = Board(root, clock=lambda: NOW)
    assert found.read().charging in {True, False}
    assert found.read().temperature_c is None or garbage
