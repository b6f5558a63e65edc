"""``fedbus simulate``: whole fleets in virtual time, from a scenario file to a report."""

import os
import shlex
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from fedbus.early import INTERRUPTED, leaving_at_once
from protocol.errors import ConfigError

if TYPE_CHECKING:
    from simulator.scenario import Scenario

_FOLDER: Final = Path(__file__).parent.parent / "simulator" / "scenarios"
_MAX_SEEDS: Final = 1000

ScenariosArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="SCENARIO...", help="A .toml file, or the name of a ready scenario."),
]
CompareOption = Annotated[
    bool, typer.Option("--compare", help="Draw several scenarios side by side.")
]
SeedOption = Annotated[
    int | None,
    typer.Option(min=0, max=2**31 - 1, help="Instead of the scenario's own.", show_default=False),
]
SeedsOption = Annotated[
    int, typer.Option(min=1, max=_MAX_SEEDS, help="So many runs, each with the next seed.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where the report goes; default NAME-report, here."),
]
DryOption = Annotated[
    bool, typer.Option("--dry", help="No training: the protocol alone, to see what it costs.")
]
DurationOption = Annotated[
    float | None,
    typer.Option(min=0.001, metavar="S", help="Virtual seconds, instead of the scenario's."),
]
TargetOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Time when this accuracy is reached, and go on; default: the scenario's target.",
        show_default=False,
    ),
]
EngineOption = Annotated[
    str, typer.Option(help="local, or ray: over a Ray cluster. The results are the same.")
]
WorkersOption = Annotated[
    int,
    typer.Option(min=0, max=1024, help="Runs at once; 0: as many as there are processor cores."),
]
ShardsOption = Annotated[
    int, typer.Option(min=1, max=1024, help="With ray: among how many actors devices train.")
]
JsonOption = Annotated[
    str, typer.Option("--json", metavar="OUT", help="Also write report.json here; -: to stdout.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Nothing but errors.")]
ListOption = Annotated[bool, typer.Option("--list", help="Name the ready scenarios, and leave.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for on the command line, checked."""

    scenarios: tuple[str, ...]
    seed: int | None
    num_seeds: int
    target: float | None
    duration_s: float | None
    is_dry: bool
    engine: str
    workers: int
    shards: int

    @property
    def command(self) -> str:
        """What to type to get the same results again."""
        words = ["fedbus", "simulate", *(["--compare"] if len(self.scenarios) > 1 else [])]
        words += self.scenarios
        words += [] if self.seed is None else ["--seed", str(self.seed)]
        words += ["--seeds", str(self.num_seeds)] if self.num_seeds > 1 else []
        words += [] if self.target is None else ["--target", _exact(self.target)]
        words += [] if self.duration_s is None else ["--duration", _exact(self.duration_s)]
        words += ["--dry"] if self.is_dry else []
        return shlex.join(words)


def simulate(
    scenarios: ScenariosArgument = None,
    *,
    compare: CompareOption = False,
    seed: SeedOption = None,
    seeds: SeedsOption = 1,
    out: OutOption = None,
    dry: DryOption = False,
    duration: DurationOption = None,
    target: TargetOption = None,
    engine: EngineOption = "local",
    workers: WorkersOption = 0,
    shards: ShardsOption = 1,
    json: JsonOption = "",
    quiet: QuietOption = False,
    list_ready: ListOption = False,
) -> None:
    """Run a fleet of simulated devices in virtual time, and draw a report.

    Devices and aggregator run the very code of the product; only time, links and the broker are
    made up. The report is a folder: report.html (all of it, on one page), report.json, and a PNG
    of every plot. Ctrl-C leaves a report of what ran until then.

    Exit status: 0; 1 if an update was lost or counted twice, or a run failed; 130 after Ctrl-C.
    """
    if list_ready:
        typer.echo("\n".join(_ready_lines()))
        return
    wish = Wish(
        scenarios=_checked(scenarios or [], is_comparison=compare),
        seed=seed,
        num_seeds=seeds,
        target=target,
        duration_s=duration,
        is_dry=dry,
        engine=engine,
        workers=workers or os.cpu_count() or 1,
        shards=shards,
    )
    console = Console(stderr=json == "-", quiet=quiet)
    raise typer.Exit(_simulate(wish, out, json, console))


def _simulate(wish: Wish, out: Path | None, json: str, console: Console) -> int:
    """Run, report, and return the exit status."""
    with leaving_at_once():
        _check_extra()
        _check_engine(wish)
        from fedbus import report_files, simulation  # noqa: PLC0415 - they stand on an extra

        loaded = simulation.apart(_loaded(wish), wish.scenarios)
    folder = out or Path("-against-".join(scenario.name for scenario in loaded) + "-report")
    report_files.check_writable(folder, json)
    outcome = simulation.run_all(
        loaded,
        command=wish.command,
        seed=wish.seed,
        num_seeds=wish.num_seeds,
        aim=wish.target,
        engine=wish.engine,
        workers=wish.workers,
        shards=wish.shards,
        console=console,
    )
    if outcome.report is None:
        sys.stderr.write("fedbus: interrupted before anything ran\n")
        return INTERRUPTED
    report_files.write(outcome.report, folder, json)
    simulation.print_summary(outcome.report, folder, report_files.PAGE, console)
    if outcome.is_interrupted:
        return INTERRUPTED
    return int(not simulation.is_sound(outcome.report))


def _loaded(wish: Wish) -> list["Scenario"]:
    """Read the scenarios, and change in them what was asked for."""
    from fedbus import simulation  # noqa: PLC0415 - it stands on an extra
    from simulator.scenario import load_scenario  # noqa: PLC0415

    loaded = []
    for word in wish.scenarios:
        scenario = load_scenario(_path_of(word))
        if wish.duration_s is not None:
            scenario = replace(scenario, duration_s=wish.duration_s)
        if wish.target is not None:
            scenario = replace(scenario, target=0.0)  # timed, but not the end
        loaded.append(simulation.without_training(scenario) if wish.is_dry else scenario)
    return loaded


def _exact(number: float) -> str:
    """Return a number so that it reads back as the same."""
    return repr(number).removesuffix(".0")


def _checked(words: list[str], *, is_comparison: bool) -> tuple[str, ...]:
    if not words:
        raise ConfigError("name a scenario file, or a ready one of `fedbus simulate --list`")
    if is_comparison and len(words) == 1:
        raise ConfigError("--compare: name at least two scenarios")
    if len(words) > 1 and not is_comparison:
        raise ConfigError(f"{len(words)} scenarios: add --compare to draw them side by side")
    return tuple(words)


def _path_of(word: str) -> Path:
    """Return the file of a scenario: one that is there, or a ready one by its name."""
    path = Path(word)
    if path.suffix == ".toml" or path.exists():
        return path
    ready = _FOLDER / f"{word}.toml"
    if path.name != word or not ready.is_file():
        names = ", ".join(found.stem for found in _ready())
        raise ConfigError(f"{word}: neither a file nor a ready scenario; there are {names}")
    return ready


def _ready() -> list[Path]:
    return sorted(_FOLDER.glob("*.toml"))


def _ready_lines() -> list[str]:
    """Return name and description of each, without reading any data."""
    lines = []
    for path in _ready():
        about = tomllib.loads(path.read_text(encoding="utf-8")).get("about", "")
        lines.append(f"{path.stem:<24} {about}")
    return lines


def _check_extra() -> None:
    """Say what is missing before hours are spent, not after."""
    try:
        import simulator.report.page  # noqa: PLC0415 - only whether it is there
        import simulator.sweep  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'fedbus[simulate]'") from None


def _check_engine(wish: Wish) -> None:
    """Say what does not go together before a folder is made."""
    from simulator.sweep import ENGINES, RAY  # noqa: PLC0415 - behind an extra

    if wish.engine not in ENGINES:
        raise ConfigError(f"--engine {wish.engine!r}: use {', '.join(ENGINES)}")
    if wish.engine == RAY:
        import simulator.ray_engine  # noqa: F401, PLC0415 - which says that Ray is missing
    elif wish.shards > 1:
        raise ConfigError("--shards: devices train apart only with --engine ray")
    if wish.is_dry and wish.target is not None:
        raise ConfigError("--target: nothing is learned with --dry; leave out one of the two")
