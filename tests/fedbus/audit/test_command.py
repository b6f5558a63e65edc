"""``fedbus audit``: what it finds of plain and masked tasks, and the report."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fedbus.app import run
from fedbus.audit import attacks
from fedbus.audit.report import Audit

QUICK = ("--steps", "0", "--trials", "3", "--seed", "1")
MODEL = """
[task.model]
input = [16]
layers = [{type = "dense", units = 12}, {type = "relu"}, {type = "dense", units = 3}]
loss = "softmax_cross_entropy"
"""
PLAIN = f"""
state_dir = "state"
[task]
task = "t"
codec = "dense/float32"
{MODEL}
[secure]
scheme = "none"
"""
MASKED = PLAIN.replace('"none"', '"seedmask"').replace(
    "codec", "buffered = {min_contributors = 3}\ncodec"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def findings(folder: Path, config: str, *more: str) -> dict[str, dict[str, object]]:
    """Run the command; return its findings by what they are on."""
    (folder / "fed.toml").write_text(config, encoding="utf-8")
    assert run(["audit", "--config", "fed.toml", "--json", "found.json", *QUICK, *more]) == 0
    document = json.loads((folder / "found.json").read_bytes())
    assert document == json.loads((folder / "audit-report" / "audit.json").read_bytes())
    return {found["seen"]: found for found in document["findings"]}


def data(folder: Path) -> str:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    x = (rng.normal(size=(600, 16)) + y[:, None]).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=y)
    return "data.npz"


def test_a_plain_task_gives_away_who_was_trained_on(folder: Path) -> None:
    found = findings(folder, PLAIN, "--data", data(folder))
    control, own, model, update = found.values()
    assert control["verdict"] == attacks.SHOWN
    assert float(str(control["value"])) > 0.99
    assert own["attack"] == "inversion"
    assert "8 samples" in str(own["seen"])
    assert {model["attack"], update["attack"]} == {"membership"}
    assert float(str(update["value"])) > 0.6


def test_of_a_masked_task_only_the_controls_show(folder: Path) -> None:
    found = findings(folder, MASKED, "--data", data(folder))
    promised = [each for each in found.values() if each["must_hide"]]
    assert len(promised) == 3
    assert not any(each["broken"] for each in promised)
    controls = [each for seen, each in found.items() if "control" in seen]
    assert [each["verdict"] for each in controls] == [attacks.SHOWN, attacks.SHOWN]


def test_without_data_updates_are_attacked_all_the_same(folder: Path) -> None:
    found = findings(folder, PLAIN)
    assert {each["attack"] for each in found.values()} == {"inversion"}


def test_the_page_stands_alone_and_has_every_finding(folder: Path) -> None:
    found = findings(folder, MASKED)
    page = (folder / "audit-report" / "audit.html").read_text(encoding="utf-8")
    assert all(seen.replace("'", "&#39;") in page for seen in found)
    assert "http" not in page


def test_behind_windows_samples_are_searched_for(folder: Path) -> None:
    layers = """layers = [
      {type = "conv1d", filters = 3, kernel = 3}, {type = "tanh"}, {type = "flatten"},
      {type = "dense", units = 3}]"""
    config = re.sub("layers = .*", layers, PLAIN.replace("input = [16]", "input = [16, 1]"))
    control = next(iter(findings(folder, config).values()))
    assert control["value"] == control["by_chance"] == 0.0  # no formula, no guess
    control = next(iter(findings(folder, config, "--steps", "200").values()))
    assert float(str(control["value"])) > float(str(control["by_chance"])) + 0.2


def test_the_same_seed_finds_the_same(folder: Path) -> None:
    assert findings(folder, PLAIN) == findings(folder, PLAIN)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--config", "gone.toml"), "gone.toml"),
        (("--config", "fed.toml", "--data", "gone.npz"), "gone.npz"),
        (("--config", "fed.toml", "--data", "wrong.npz"), "shape"),
        (("--config", "fed.toml", "--data", "few.npz"), "too few"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], why: str
) -> None:
    (folder / "fed.toml").write_text(PLAIN, encoding="utf-8")
    np.savez(folder / "wrong.npz", x=np.zeros((9, 5), np.float32), y=np.zeros(9, np.int64))
    np.savez(folder / "few.npz", x=np.zeros((9, 16), np.float32), y=np.zeros(9, np.int64))
    assert run(["audit", *options, *QUICK]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


def test_a_broken_promise_is_the_first_thing_said() -> None:
    broken = attacks.Finding("relay", "shares", 0.99, 0.0, 1.0, attacks.SHOWN, must_hide=True)
    assert Audit("c", "t", (), (), [broken]).verdict.startswith("BROKEN: 1")
    kept = attacks.Finding("relay", "shares", 0.0, 0.0, 0.1, attacks.HIDDEN, must_hide=True)
    assert not Audit("c", "t", (), (), [kept]).broken


def test_an_attack_whose_control_fails_is_called_weak() -> None:
    control = attacks.Finding("inversion", "one (the control)", 0.5, 0.4, 0.6, attacks.PARTLY)
    assert "raise --steps" in Audit("c", "t", (), (), [control]).verdict
    good = attacks.Finding("inversion", "one (the control)", 1.0, 0.4, 1.0, attacks.SHOWN)
    assert "raise --steps" not in Audit("c", "t", (), (), [good]).verdict
