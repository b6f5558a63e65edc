"""The limits in device.toml, and what `fedbus-device check` says about them."""

from pathlib import Path

import pytest

from device_sdk import cli
from device_sdk.config import TrainingConfig, load_config, parse_bytes
from device_sdk.power import EARLIEST, Board
from protocol.errors import ConfigError
from tests.support.board import laptop, plant


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("32 MiB", 32 << 20),
        ("32MiB", 32 << 20),
        ("1 GiB", 1 << 30),
        ("512 KiB", 512 << 10),
        ("64 MB", 64_000_000),
        ("3 kB", 3_000),
        ("7 B", 7),
        ("4096", 4096),
    ],
)
def test_a_size_has_a_unit(text: str, num_bytes: int) -> None:
    assert parse_bytes(text) == num_bytes
    assert TrainingConfig(memory_budget=text).memory_budget_bytes == num_bytes


def test_no_budget_is_no_limit() -> None:
    assert TrainingConfig().memory_budget_bytes is None


@pytest.mark.parametrize("text", ["32 mb", "MiB", "-1", "1.5 MiB", "1  MiB", "32 MiB ", "٣ MiB"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match='like "32 MiB"'):
        parse_bytes(text)


def configured(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "device.toml"
    file.write_text(f'task = "t"\ndevice = "a"\nstate_dir = "{tmp_path}"\n{text}', encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[training]\nmemory_budget = "much"', "training: memory_budget"),
        ('[training]\nmemory_budget = "0 MiB"', "training: memory_budget"),
        ("[training]\ncpu_limit = -0.5", "training: cpu_limit"),
        ('[training]\nengine = "jax"', "training: engine must be one of numpy, torch, tflite"),
        ('[training]\nengine = "tflite"', "training: engine_file goes with"),
        ('[training]\nengine_file = "a.tflite"', "training: engine_file goes with"),
        ('[training]\nengine = "torch"\nmemory_budget = "9 MB"', "training: memory_budget is kept"),
        ('[conditions]\ntrain_when = "now"', "conditions: train_when"),
        ('[conditions]\nwindow = "night"', "conditions: window"),
        ("[conditions]\nbattery_floor = 50.5", r"conditions\.battery_floor"),
        ("[conditions]\nbattery_flor = 50", "did you mean 'battery_floor'"),
    ],
)
def test_a_mistake_names_its_key(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(configured(tmp_path, text))


def test_check_says_what_is_read_and_why_it_would_not_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, laptop(percent=43, charging=False))
    plant(tmp_path, {"sys/class/thermal/thermal_zone0/temp": 48_312})
    board = Board(tmp_path, clock=lambda: EARLIEST - 1.0)
    monkeypatch.setattr(cli, "Board", lambda: board)
    text = '[conditions]\ntrain_when = "charging, window"\nbattery_floor = 50'
    assert cli.main(["check", "--config", str(configured(tmp_path, text))]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  battery: 43 %, in use",
        "  temperature: 48.3 C",
        "  load of others: unknown",
        "  local time: not set",
        "  would train now: no",
        "    not_charging: it runs on its battery",
        "    clock_not_set: its clock has not been set since it started",
        "    battery_low: the battery is below battery_floor",
    ]
    plant(tmp_path, laptop(percent=50, charging=True))
    text = '[conditions]\ntrain_when = "charging"\nbattery_floor = 50'
    assert cli.main(["check", "--config", str(configured(tmp_path, text))]) == 0
    assert capsys.readouterr().out.endswith("would train now: yes\n")


def test_check_says_that_there_is_no_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configured(tmp_path, '[data]\nfile = "nowhere.npz"')
    assert cli.main(["check", "--config", str(file)]) == 2
    assert f"data.file {tmp_path}/nowhere.npz: there is no such file" in capsys.readouterr().err


def test_a_key_of_old_is_told_where_it_stands_now(tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    file.write_text('task = "t"\ndevice = "a"\nstate_dir = "s"\n[secure]\nkeys = "keys.json"\n')
    with pytest.raises(ConfigError, match=r"secure\.keys: it stands in \[identity\] keys now"):
        load_config(file)
