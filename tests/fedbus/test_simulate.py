"""`fedbus simulate`: the true command, from a scenario to a report."""

import io
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console, RenderableType

from aggregator.strategy import Float32
from fedbus import live_table
from fedbus.__main__ import main
from fedbus.live_table import Stage
from fedbus.simulate import Wish
from fedbus.simulation import apart, grouped, is_sound
from protocol.errors import ConfigError, LocalProtocolError
from simulator.evaluating import Evaluator, Scores
from simulator.report.cells import verdict
from simulator.report.document import from_json, to_json
from simulator.report.runs import Report, Runs
from simulator.run import Progress
from simulator.scenario import load_scenario
from tests.support.made_up_results import made_up
from tests.support.page import assert_stands_alone

READY: Final = Path(__file__).parents[2] / "simulator" / "scenarios"
EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "fleets"
#: Two devices of two classes that have one seed and few rows: a second or so.
SMALL: Final = """
name = "small"
about = "two <devices>"
duration_s = 12
seed = 7
[data]
source = "digits"
[task.model]
input = [64]
layers = [{ type = "dense", units = 10 }]
loss = "softmax_cross_entropy"
[task.buffered]
goal = 1
concurrency = 2
[[class]]
name = "quick"
count = 1
training = { seconds = 1 }
[[class]]
name = "late"
count = 1
slow = true
training = { seconds = 3 }
"""
COMMAND: Final = (sys.executable, "-m", "fedbus", "simulate")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the report without plots, which take most of the time."""
    monkeypatch.setattr("fedbus.report_files.plots", lambda _report: [])


def report_in(folder: Path) -> Report:
    return from_json((folder / "report.json").read_bytes())


def printed(picture: RenderableType, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(picture)
    return console.export_text()


def test_a_scenario_becomes_figures_a_page_and_plots(
    small: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    out = tmp_path / "out"
    assert main(["simulate", str(small), "--out", str(out), "--json", "-"]) == 0
    said = capfdbinary.readouterr()
    assert said.out == (out / "report.json").read_bytes()
    report = from_json(said.out)
    (result,) = report.runs[0].results
    assert (result.scenario, result.seed, result.ended) == ("small", 7, "duration")
    assert result.points[-1].accuracy
    assert (result.lost, result.counted_twice) == (0, 0)
    page = assert_stands_alone((out / "report.html").read_bytes())
    assert "two <devices>" in page.text
    assert {path.name for path in out.glob("*.png")} >= {"accuracy_time.png", "participation.png"}
    assert b"0 updates lost, 0 counted twice" in said.err
    assert not list(out.glob("*.part"))


def test_ctrl_c_leaves_a_report_of_what_ran(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        [*COMMAND, str(small), "--out", str(out), "--duration", "1000000"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b"small" in process.stdout.readline()  # the first progress: it runs
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 130
    assert b"Interrupted" in rest
    assert report_in(out).runs[0].results[0].ended == "interrupted"
    assert "Interrupted" in assert_stands_alone((out / "report.html").read_bytes()).text


#: Presses Ctrl-C when a module is looked for, where Python ignores what it raises.
PRESSED = """
import signal, sys

class Presses:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            try:
                signal.raise_signal(signal.SIGINT)
                for _ in range(1000): pass
            except KeyboardInterrupt:
                pass

sys.meta_path.insert(0, Presses())
from fedbus.__main__ import main
sys.exit(main(["simulate", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("module", ["typer", "fedbus.simulate", "jinja2", "fedbus.simulation"])
def test_ctrl_c_before_anything_runs_ends_it_at_once(
    module: str, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", PRESSED, module, str(small), "--out", str(out), "--dry"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
    assert not out.exists()


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_fails_leaves_the_others_a_report_and_a_status(
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluate = Evaluator.evaluate

    def broken(self: Evaluator, params: Float32, now: float) -> Scores:
        if self._trainers.members[0].name in failing and now > 5:
            raise LocalProtocolError("a bug")
        return evaluate(self, params, now)

    failing = {"bad-0"}
    monkeypatch.setattr(Evaluator, "evaluate", broken)
    other = tmp_path / "bad.toml"
    other.write_text(SMALL.replace('"small"', '"bad"').replace('"quick"', '"bad"'))
    out = tmp_path / "out"
    assert (
        main(["simulate", "--compare", str(small), str(other), "--workers=1", f"--out={out}"]) == 1
    )
    said = capsys.readouterr().out
    assert "1 of 2 runs failed" in said
    assert "bad, seed 7: LocalProtocolError: a bug (test_simulate.py" in said
    assert [runs.results[0].ended for runs in report_in(out).runs] == ["duration", "failed"]
    assert "seed 7: LocalProtocolError" in (out / "report.html").read_text(encoding="utf-8")


def test_failed_seeds_stand_beside_the_figures_of_the_others() -> None:
    broken = replace(made_up(seed=2), ended="failed", points=(), counted_twice=1)
    scenario = replace(load_scenario(READY / "heterogeneity.toml"), name=broken.scenario)
    (runs,) = grouped([scenario], [broken, made_up(seed=1)])
    assert ([r.seed for r in runs.results], [r.seed for r in runs.failed]) == ([1], [2])
    report = Report(command="x", runs=(runs,))
    assert verdict(report) == "1 of 2 runs failed; the figures are of the others."
    assert not is_sound(report)
    assert from_json(to_json(report)) == report
    (runs,) = grouped([scenario], [broken])
    assert runs.results == (broken,)


def test_where_nothing_ran_a_sentence_says_why(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.run.Trainers", _refuse)
    assert main(["simulate", str(small), "--out", str(small.parent / "out")]) == 2
    assert capsys.readouterr().err == "fedbus: nothing ran: small, seed 7: no such data\n"


def _refuse(*_: object) -> None:
    raise ConfigError("no such data")


def test_scenarios_are_drawn_side_by_side(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "copy.toml"
    other.write_text(SMALL.replace("seconds = 3", "seconds = 5"))
    out = tmp_path / "out"
    options = ["--seeds", "2", "--seed", "3", "--workers", "1", "--duration=6", "--target=0.2"]
    assert main(["simulate", "--compare", str(small), str(other), *options, "--out", str(out)]) == 0
    report = report_in(out)
    assert [runs.name for runs in report.runs] == ["small", "copy"]
    assert [[r.seed for r in runs.results] for runs in report.runs] == [[3, 4], [3, 4]]
    assert report.command.endswith("copy.toml --seed 3 --seeds 2 --target 0.2 --duration 6")
    said = capsys.readouterr().out
    assert "4 of 4" in said
    assert "less small" in said
    assert "Time to target" in said


def test_a_dry_run_tells_what_the_protocol_costs(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(small), "--dry", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "Time per event" in said
    assert "Events per second" in said
    assert "Accuracy" not in said
    assert not report_in(tmp_path / "out").learned


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--list"),
        (["nobody"], "neither a file nor a ready scenario; there are "),
        (["../scenarios/heterogeneity"], "neither a file"),
        (["missing.toml"], "missing.toml"),
        (["heterogeneity", "heterogeneity"], "add --compare"),
        (["--compare", "heterogeneity"], "at least two"),
        (["{small}", "--engine", "cloud"], "engine 'cloud'"),
        (["{small}", "--out", "{small}"], "--out"),
        (["{small}", "--json", "{small}/x/y.json"], "--json"),
        (["{small}", "--json", "."], "--json .: is a folder; name a file"),
        (["{small}", "--duration", "1e12"], "duration_s"),
        (["{small}", "--shards", "2"], "only with --engine ray"),
        (["{small}", "--dry", "--target", "0.5"], "nothing is learned with --dry"),
    ],
)
def test_what_a_person_can_mend_is_one_sentence(
    argv: list[str],
    says: str,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(small.parent)
    assert main(["simulate", *(word.format(small=small) for word in argv)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not [path for path in small.parent.rglob("*") if path.suffix in {".part", ".png"}]


def test_the_command_of_a_report_gives_the_same_run_again() -> None:
    wish = Wish(
        scenarios=("a b.toml",),
        seed=0,
        num_seeds=2,
        target=0.12345678,
        duration_s=1234567.5,
        is_dry=False,
        engine="local",
        workers=1,
        shards=1,
    )
    assert wish.command == (
        "fedbus simulate 'a b.toml' --seed 0 --seeds 2 --target 0.12345678 --duration 1234567.5"
    )


def test_an_error_in_a_scenario_names_the_line(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small.write_text(SMALL.replace("slow = true", "sloww = true"))
    assert main(["simulate", str(small)]) == 2
    said = capsys.readouterr().err
    line = SMALL.splitlines().index("slow = true") + 1
    assert str(line) in said
    assert "sloww" in said


def test_ready_scenarios_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in READY.glob("*.toml"))
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_examples_are_scenarios(path: Path) -> None:
    assert load_scenario(path).name == path.stem


def test_scenarios_of_one_name_get_their_files_names(small: Path) -> None:
    one = load_scenario(small)
    other = replace(one, name="other")
    assert [s.name for s in apart([one, other], ["a.toml", "b.toml"])] == ["small", "other"]
    assert [s.name for s in apart([one, one], ["x/a.toml", "b.toml"])] == ["a", "b"]
    assert [s.name for s in apart([one, one], ["x/a.toml", "y/a.toml"])] == ["small-1", "small-2"]
    assert [s.name for s in apart([one, one], ["A!.toml", "b.toml"])] == ["small-1", "small-2"]


def test_the_live_table_shows_every_class_and_what_happened(small: Path) -> None:
    progress = Progress(
        scenario="small",
        seed=7,
        at_s=6.0,
        of_s=12.0,
        version=5,
        num_updates=8,
        num_events=1234,
        num_online=1,
        num_devices=2,
        bytes_up=2000,
        bytes_down=9_000_000,
        accuracy=0.5,
        group_accuracy={"quick": 0.75},
        updates_by_class={"quick": 6, "late": 2},
        notes=("late vanished",),
    )
    stage = Stage(progress=progress, scenario=load_scenario(small), events_per_s=99.0)
    seen = printed(live_table.picture([stage], num_ended=1, of=3))
    assert "small · seed 7" in seen
    assert "1 of 3 ended" in seen
    assert "6 s of 12 s" in seen
    assert "late vanished" in seen
    quick, late = (
        next(row for row in seen.splitlines() if name in row) for name in ("quick", "late (slow)")
    )
    assert quick.split()[1:-1] == ["quick", "1", "6", "75%", "0.750"]
    assert "25%" in late
    both = printed(live_table.picture([stage, stage], num_ended=0, of=2))
    assert both.count("6 s of 12 s") == 2
    line = live_table.line(stage)
    for part in ("version 5", "accuracy 0.500", "99 events/s", "1 of 2 online"):
        assert part in line


def test_the_summary_names_what_must_be_zero_in_red_if_it_is_not() -> None:
    assert live_table.safety(0, 0).style == "green"
    assert "red" in str(live_table.safety(0, 1).style)
    runs = (Runs(name="x", results=(made_up(),)),)
    seen = printed(live_table.summary(Report(command="", runs=runs)))
    assert "Accuracy on slow classes" in seen


def test_a_narrow_terminal_cuts_no_number() -> None:
    runs = tuple(Runs(name=name, results=(made_up(name=name),)) for name in ("one", "another"))
    said = printed(live_table.summary(Report(command="x", runs=runs)), width=36)
    assert "…" not in said


@pytest.mark.usefixtures("undrawn")
def test_a_quiet_run_says_nothing_and_json_goes_to_a_file_of_its_own_too(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "figures.json"
    options = ["--dry", "-q", "--out", str(tmp_path / "out"), "--json", str(copy)]
    assert main(["simulate", str(small), *options]) == 0
    assert capsys.readouterr().out == ""
    assert copy.read_bytes() == (tmp_path / "out" / "report.json").read_bytes()
    assert json.loads(copy.read_text())["format"] == 1
