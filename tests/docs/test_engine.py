"""The page on the engine: what it shows is what the commands print."""

import re
from pathlib import Path

import pytest

from aggregator.config import load_config as load_aggregator
from device_sdk.config import load_config
from device_sdk.engine.layers import LAYERS
from device_sdk.engine.losses import LOSSES
from fedbus.__main__ import main
from fedbus.workplace import sample

PAGE = (Path(__file__).parents[2] / "docs" / "engine.md").read_text(encoding="utf-8")
NUMBERS = {2: "two", 5: "five", 21: "21"}


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


@pytest.fixture
def wearable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "wearable.toml"
    path.write_text(blocks("toml")[0], encoding="utf-8")
    return path


def shown(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_the_models_that_come_with_it_are_those(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "list"]) == 0
    assert capsys.readouterr().out in PAGE


@pytest.mark.usefixtures("wearable")
def test_the_model_is_shown_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "show", "wearable.toml", "--budget", "1 MiB"]) == 0
    picture = next(block for block in blocks("") if "FLOPs" in block)
    assert shown(capsys.readouterr().out) == shown(picture)
    assert main(["model", "show", "wearable.toml", "--budget", "200 KiB"]) == 1
    assert shown(capsys.readouterr().out)[-1] in PAGE


def test_mistakes_are_refused_as_the_page_says(
    wearable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = wearable.read_text()
    for wrong in (
        text.replace("= 6 }", "= 0 }"),
        text.replace('{ type = "global_avg_pool" },', ""),
    ):
        wearable.write_text(wrong)
        assert main(["model", "show", "wearable.toml"]) == 2
        assert capsys.readouterr().err in PAGE


def test_the_device_settings_are_settings(tmp_path: Path) -> None:
    own = re.sub(r"\[(training|conditions)\].*\n", "", sample("device.toml"))
    path = tmp_path / "device.toml"
    path.write_text(own + blocks("toml")[1], encoding="utf-8")
    config = load_config(path)
    assert config.training.memory_budget_bytes == 1 << 20
    assert config.conditions.train_when == "charging, idle"


def test_the_spec_can_stand_in_the_aggregators_configuration(tmp_path: Path) -> None:
    spec, training = blocks("toml")[0].split("[training]")
    text = sample("fed.toml").replace('scheme = "seedmask"', 'scheme = "none"')
    text = re.sub(
        r"\[task\.model\][^\[]*\[64\].*?\n\]\n", f"[task.model]\n{spec}", text, flags=re.DOTALL
    )
    text = re.sub(r"\[task\.training\].*", f"[task.training]{training}", text, count=1)
    path = tmp_path / "fed.toml"
    path.write_text(text, encoding="utf-8")
    assert load_aggregator(path).task.model_spec().input == (128, 9)


def test_the_training_on_a_desk_prints_that(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = next(block for block in blocks("python") if "load_digits" in block)
    exec(compile(code, "docs/engine.md", "exec"), {})  # noqa: S102 - our own page
    fitted, metrics = capsys.readouterr().out.splitlines()
    expected = next(block for block in blocks("") if "Fitted(" in block).splitlines()
    # BLAS rounds in its own way on each processor: the numbers of the page to two digits.
    for found, told in zip((fitted, metrics), expected, strict=True):
        assert re.sub(r"[\d.]+", "", found) == re.sub(r"[\d.]+", "", told)
        numbers = zip(re.findall(r"[\d.]+", found), re.findall(r"[\d.]+", told), strict=True)
        for one, other in numbers:
            assert float(one) == pytest.approx(float(other), rel=0.05, abs=0.01)


def test_as_many_layers_and_losses_as_it_says() -> None:
    assert f"{NUMBERS[len(LAYERS)]} layers, {NUMBERS[len(LOSSES)]} losses, two optimisers" in PAGE
