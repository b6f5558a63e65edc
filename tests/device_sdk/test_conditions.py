"""Conditions: may a device train now, and if not, why."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sdk import conditions
from device_sdk.conditions import MEANING, Conditions, Readings
from protocol.errors import ConfigError

MAINS = Readings(load=0.0, temperature_c=40.0, minute=0)
BATTERY = Readings(charging=False, battery_percent=80, load=0.0, temperature_c=40.0, minute=0)
CHARGER = Readings(charging=True, battery_percent=80, load=0.0, temperature_c=40.0, minute=0)
NOTHING = Readings()

readings = st.builds(
    Readings,
    charging=st.none() | st.booleans(),
    battery_percent=st.none() | st.integers(0, 100),
    temperature_c=st.none() | st.floats(-40, 150),
    load=st.none() | st.floats(0, 1),
    minute=st.none() | st.integers(0, 1439),
)


@given(readings)
def test_without_settings_it_always_trains(now: Readings) -> None:
    assert Conditions().against(now) == ""


@pytest.mark.parametrize(("now", "why"), [(MAINS, ""), (CHARGER, ""), (BATTERY, "not_charging")])
def test_charging_means_external_power_and_mains_is_that(now: Readings, why: str) -> None:
    assert Conditions(train_when="charging").against(now) == why


@pytest.mark.parametrize(
    ("load", "why"), [(0.0, ""), (0.3, ""), (0.31, "busy"), (1.0, "busy"), (None, "load_unknown")]
)
def test_idle_is_a_load_up_to_its_ceiling_that_can_be_read(load: float | None, why: str) -> None:
    assert Conditions(train_when="idle", load_ceiling=0.3).against(Readings(load=load)) == why


@pytest.mark.parametrize(
    ("window", "minute", "inside"),
    [
        ("22:00-06:00", 22 * 60, True),
        ("22:00-06:00", 22 * 60 - 1, False),
        ("22:00-06:00", 0, True),
        ("22:00-06:00", 6 * 60 - 1, True),
        ("22:00-06:00", 6 * 60, False),
        ("09:30-10:00", 9 * 60 + 30, True),
        ("09:30-10:00", 10 * 60, False),
        ("09:30-10:00", 0, False),
        ("00:00-23:59", 1439, False),
    ],
)
def test_a_window_may_pass_midnight(window: str, minute: int, *, inside: bool) -> None:
    why = Conditions(train_when="window", window=window).against(Readings(minute=minute))
    assert why == ("" if inside else "outside_window")


@given(first=st.integers(0, 1439), end=st.integers(0, 1439))
def test_a_window_and_the_one_from_its_end_to_its_start_share_the_day(first: int, end: int) -> None:
    if first == end:
        return
    one, other = (
        Conditions(train_when="window", window=f"{a // 60:02}:{a % 60:02}-{b // 60:02}:{b % 60:02}")
        for a, b in ((first, end), (end, first))
    )
    inside = [minute for minute in range(1440) if not one.against(Readings(minute=minute))]
    assert len(inside) == (end - first) % 1440
    assert all(bool(other.against(Readings(minute=minute))) for minute in inside)


def test_no_window_is_kept_by_a_clock_that_was_never_set() -> None:
    assert Conditions(train_when="window").against(NOTHING) == "clock_not_set"


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (MAINS, ""),
        (Readings(charging=False, battery_percent=50), ""),
        (Readings(charging=False, battery_percent=49), "battery_low"),
        (Readings(charging=True, battery_percent=49), "battery_low"),
        (Readings(charging=False), "battery_unknown"),
    ],
)
def test_the_floor_is_the_battery_s_where_there_is_one(now: Readings, why: str) -> None:
    assert Conditions(battery_floor=50).against(now) == why


@pytest.mark.parametrize(
    ("degrees", "why"), [(60.0, ""), (60.1, "too_hot"), (None, "temperature_unknown"), (-5.0, "")]
)
def test_a_ceiling_needs_a_sensor(degrees: float | None, why: str) -> None:
    assert Conditions(temperature_ceiling=60.0).against(Readings(temperature_c=degrees)) == why


def test_several_words_must_all_hold_and_all_reasons_are_told() -> None:
    wanted = Conditions(train_when="charging, window", battery_floor=90, temperature_ceiling=30.0)
    now = Readings(charging=False, battery_percent=89, temperature_c=31.0, minute=12 * 60)
    reasons = list(wanted.reasons(now))
    assert reasons == ["not_charging", "outside_window", "battery_low", "too_hot"]
    assert wanted.against(now) == "not_charging"


@given(readings, st.sampled_from(["always", "charging", "idle", "window", "idle,charging"]))
def test_every_reason_has_a_meaning(now: Readings, when: str) -> None:
    wanted = Conditions(train_when=when, battery_floor=50, temperature_ceiling=50.0)
    assert set(wanted.reasons(now)) <= MEANING.keys()


def test_every_reason_is_documented() -> None:
    page = Path(conditions.__file__).parents[1] / "docs" / "configuration.md"
    rows = re.findall(r"^\| `(\w+)` \| [A-Z][^|]+ \|$", page.read_text(), re.MULTILINE)
    assert MEANING.keys() <= set(rows)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_when", "sometimes"),
        ("train_when", ""),
        ("train_when", "idle,"),
        ("battery_floor", -1),
        ("battery_floor", 101),
        ("temperature_ceiling", -0.5),
        ("load_ceiling", 0.0),
        ("load_ceiling", 1.5),
        ("window", ""),
        ("window", "22:00"),
        ("window", "22:00-22:00"),
        ("window", "24:00-06:00"),
        ("window", "9:00-10:00"),
        ("window", "22:00-06:60"),
        ("window", "22:00-06:00\n"),
        ("window", "22:00-0٦:00"),
    ],
)
def test_what_cannot_be_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        Conditions(**{key: value})  # type: ignore[arg-type] # wrong on purpose
