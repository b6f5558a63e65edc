"""`fedbus init`: samples that work, and that name every key with its default."""

import re
import tomllib
from pathlib import Path

import pytest

from aggregator.config import AggregatorConfig, with_fleet
from aggregator.config import load_config as load_aggregator
from device_sdk.config import DeviceConfig
from device_sdk.config import load_config as load_device
from device_sdk.engine.training import TrainingSettings
from fedbus.__main__ import main
from fedbus.init import SAMPLES, sample
from protocol.settings import build
from tests.fedbus.test_configuration_docs import DEVICES_OWN, SETTINGS, plain_fields, sections

#: Commented out with an example, as their default is to leave them out.
WITHOUT_DEFAULT = {"max_steps", "clip_norm", "schedule_steps", "trainable", "trainable_last"}


def uncommented(name: str) -> dict[str, object]:
    """The sample with every commented key in force."""
    return tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", sample(name), flags=re.MULTILINE))


def test_the_samples_pass_their_own_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "new")]) == 0
    assert load_aggregator(tmp_path / "new" / "fed.toml").task.task == "digits"
    assert load_device(tmp_path / "new" / "device.toml").device == "device-1"
    assert main(["aggregator", "check", "--config", str(tmp_path / "new" / "fed.toml")]) == 2
    assert "`fedbus enrol new` makes it" in capsys.readouterr().err


def test_without_masks_the_sample_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fed.toml"
    file.write_text(sample("fed.toml").replace('scheme = "seedmask"', 'scheme = "none"'))
    assert main(["aggregator", "check", "--config", str(file)]) == 0
    said = capsys.readouterr().out
    assert "2410 params" in said
    assert "every update in sight" in said


def test_whether_updates_are_masked_must_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fed.toml"
    file.write_text(sample("fed.toml").replace('scheme = "seedmask"', ""))
    assert main(["aggregator", "check", "--config", str(file)]) == 2
    assert "secure.scheme" in capsys.readouterr().err


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_is_overwritten(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    assert main(["init", str(tmp_path)]) == 2
    assert "exists" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_what_is_commented_out_is_the_default() -> None:
    plain = build(AggregatorConfig, with_fleet(tomllib.loads(sample("fed.toml"))))
    spelled = uncommented("fed.toml")
    task = spelled["task"]
    assert isinstance(task, dict)
    training = {key: value for key, value in task["training"].items() if key not in WITHOUT_DEFAULT}
    assert build(TrainingSettings, training) == TrainingSettings()
    task["training"] = {}
    assert task["strategy"].pop("options") == {"learning_rate": 1.0}
    assert build(AggregatorConfig, with_fleet(spelled)) == plain
    device = uncommented("device.toml")
    assert build(DeviceConfig, device) == build(DeviceConfig, tomllib.loads(sample("device.toml")))


def test_every_key_stands_in_its_sample() -> None:
    for section in sections():
        if section == "task.model":
            continue
        own = section.startswith(DEVICES_OWN)
        for name in (
            ["device.toml"]
            if own
            else ["fed.toml"]
            if section in {"secure", "identity"}
            else SAMPLES
        ):
            found: object = uncommented(name)
            path = section.removeprefix(DEVICES_OWN)
            for part in [] if section.endswith(".toml") else path.split("."):
                found = found.get(part) if isinstance(found, dict) else None
            if section.endswith(".toml") and section != name:
                continue
            if isinstance(found, dict):
                assert plain_fields(SETTINGS[section]).keys() <= found.keys(), (name, section)
