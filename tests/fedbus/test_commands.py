"""The command line as a person meets it: help, and mistakes in one sentence with status 2."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import typer

from fedbus.__main__ import main
from fedbus.commands import COMMANDS as COMMANDS_AT
from fedbus.commands import Command
from fedbus.workplace import sample

#: What takes long to import.
HEAVY = {
    *("numpy", "sqlalchemy", "cryptography", "scipy", "dp_accounting", "sklearn", "asyncio"),
    *("jinja2", "matplotlib", "rich", "paho"),
}
ROOT = Path(__file__).parents[2]
COMMANDS: tuple[list[str], ...] = (
    [],
    ["demo"],
    ["init"],
    ["watch"],
    ["status"],
    ["export"],
    ["model"],
    ["model", "list"],
    ["model", "show"],
    ["aggregator"],
    ["aggregator", "run"],
    ["aggregator", "check"],
    ["broker"],
    ["broker", "up"],
    ["broker", "config"],
    ["doctor"],
    ["flash"],
    ["verify"],
)


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(
    command: list[str], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, flag]) == 0
    assert "Usage: fedbus" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS_AT, ids=lambda command: command.name)
def test_the_line_about_a_command_is_its_own_first_one(command: Command) -> None:
    made = getattr(import_module(command.module), command.attribute)
    own = made.info.help if isinstance(made, typer.Typer) else made.__doc__
    assert (own or "").partition("\n")[0] == command.text


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("fedbus.app", set[str]()),
        ("fedbus.watch", {"paho"}),
        ("fedbus.ca", {"cryptography"}),
        ("fedbus.devices", {"numpy", "sqlalchemy", "asyncio"}),  # SQLAlchemy imports asyncio
        ("device_sdk.cli", set[str]()),
    ],
)
def test_a_command_waits_for_no_library_that_it_does_not_need(
    module: str, needed: set[str]
) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert HEAVY & set(done.stdout.split()) <= needed


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fedbus 0.")


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teach"]) == 2
    assert "teach" in capsys.readouterr().err


def written(tmp_path: Path, old: str, new: str) -> Path:
    """A sample configuration with one change."""
    text = sample("fed.toml").replace('scheme = "seedmask"', 'scheme = "none"')
    text = text.replace("# required = true", "required = false")
    assert old in text
    file = tmp_path / "fed.toml"
    file.write_text(text.replace(old, new), encoding="utf-8")
    return file


WRONG = [
    ("[task.rounds]", "[task.ronds]", "task.ronds: unknown key; did you mean 'rounds'?"),
    ("# goal = 10", "goal = 0", "goal must be from 1"),
    ('task = "digits"', "", "task.task: missing"),
    ('# file = ""', 'file = "held-out.npz"', "held-out.npz"),
    ('# password_file = ""', 'password_file = "gone"', "broker.password_file /"),
]


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong[1])
def test_a_wrong_setting_is_named_in_one_line(
    verb: str,
    wrong: tuple[str, str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new, says = wrong
    assert main(["aggregator", verb, "--config", str(written(tmp_path, old, new))]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_held_out_data_that_does_not_fit_the_model_is_found_before_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "held.npz", x=np.zeros((3, 5), np.float32), y=np.zeros(3, int))
    file = written(tmp_path, '# file = ""', f'file = "{tmp_path / "held.npz"}"')
    assert main(["aggregator", "check", "--config", str(file)]) == 2
    assert "evaluation.file" in capsys.readouterr().err


def test_a_state_folder_that_cannot_be_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    file = written(tmp_path, '"aggregator-state"', f'"{tmp_path / "file" / "state"}"')
    assert main(["aggregator", "run", "--config", str(file)]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mode", "sometimes"], "--mode"),
        (["--codec", "zip"], "codec 'zip'"),
        (["--data", "none.npz"], "none.npz"),
        (["--devices", "0"], "--devices"),
        (["--target", "93"], "--target"),
        (["--alpha", "0"], "--alpha"),
        (["--json", "no/such/folder/out.json"], "--json"),
    ],
)
def test_a_demo_that_cannot_be_is_refused_at_once(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *options]) == 2
    assert says in capsys.readouterr().err


def test_a_folder_in_use_is_not_kept_for_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--keep", str(tmp_path)]) == 2
    assert "--keep" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["watch", "status"])
def test_a_broker_that_is_not_there_is_said_within_the_deadline(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--task", "digits", "--port", "1", "--deadline", "0.5"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_the_bare_install_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in {"fedbus", missing}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert main(["-h"]) == 2
    said = capsys.readouterr().err
    assert missing in said
    assert "pip install 'fedbus[aggregator]'" in said
