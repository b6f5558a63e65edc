"""A benchmark of several parts keeps what is done, and runs those that are asked for."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import __main__ as command
from benchmarks.report import Report

Measure = Callable[..., Report]


def fails(*, quick: bool) -> Report:
    raise RuntimeError(f"no broker, quick: {quick}")


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a benchmark ``fake`` writes, whose parts are one, two, and three, which looks there."""
    path = tmp_path / "out.json"

    def seen(*, quick: bool) -> Report:
        return {"seen": sorted(json.loads(path.read_text())), "quick": quick}

    parts: dict[str, Measure] = {"one": lambda quick: {"quick": quick}, "two": fails, "three": seen}
    for name, measure in parts.items():
        module = cast("ModuleType", SimpleNamespace(measure=measure))
        monkeypatch.setitem(sys.modules, f"fake_{name}", module)
    of = {"fake": {name: f"fake_{name}" for name in parts}}
    monkeypatch.setattr(command, "BENCHMARKS", of)
    return path


def read(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_a_part_that_fails_costs_itself_alone(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["fake", "--quick", "--json", str(out)]) == 1
    report = read(out)
    assert report["one"] == {"quick": True}
    assert report["two"] == {"error": "RuntimeError: no broker, quick: True"}
    assert {"one", "two"} <= set(report["three"]["seen"])  # written before the third began
    assert report["took_s"].keys() == {"fake one", "fake two", "fake three"}
    printed = capsys.readouterr()
    assert json.loads(printed.out) == report
    assert "[2/3] fake two FAILED after" in printed.err


def test_what_is_done_outlives_an_interrupt(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: bool) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["fake_two"], "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        command.main(["fake", "--json", str(out)])
    assert read(out)["one"] == {"quick": False}


def test_only_the_parts_that_are_asked_for_are_measured(out: Path) -> None:
    assert command.main(["fake", "--only", "three", "one", "--json", str(out)]) == 0
    assert read(out)["took_s"].keys() == {"fake one", "fake three"}


def test_an_unknown_part_is_refused_by_name(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["fake", "--only", "four", "--json", str(out)])
    assert "no part 'four'" in capsys.readouterr().err
    assert not out.exists()


def test_all_benchmarks_stand_side_by_side(out: Path) -> None:
    assert command.main(["all", "--json", str(out)]) == 1
    assert read(out)["fake"].keys() == {"one", "two", "three"}
