"""Simulations under way, as a picture for the terminal. Pure: values in, renderables out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from aggregator.wording import many
from fedbus.wording import accuracy_text, human_bytes
from simulator.report import cells
from simulator.report.measures import SCALE
from simulator.report.runs import Report
from simulator.report.wording import class_label, duration, percent, shown, whole
from simulator.result import Result
from simulator.run import Progress
from simulator.scenario import Scenario

_BAR_WIDTH: Final = 40
_VERDICT: Final = {"better": "green", "worse": "red", "": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """How far a run is, and how fast (events in a second of ours)."""

    progress: Progress
    scenario: Scenario
    events_per_s: float

    @property
    def title(self) -> str:
        """Which run this is."""
        return f"{shown(self.progress.scenario)} · seed {self.progress.seed}"


def picture(stages: Sequence[Stage], *, num_ended: int, of: int) -> RenderableType:
    """Return what goes on: one run with its device classes, or several with a line each."""
    parts: list[RenderableType] = []
    title = "fedbus simulate"
    if len(stages) == 1:
        (stage,) = stages
        title = f"{title} · {stage.title}"
        parts += [_run(stage), _classes(stage)]
        parts += [Text(note, style="yellow") for note in stage.progress.notes]
    elif stages:
        parts.append(_side_by_side(stages))
    if of > 1:
        parts.append(_runs(num_ended, of))
    return Panel(Group(*parts), title=title, title_align="left", box=ROUNDED, padding=(0, 1))


def line(stage: Stage) -> str:
    """Return the same in a line, for where there is no terminal."""
    now = stage.progress
    learned = "" if stage.scenario.dry else f"  accuracy {accuracy_text(now.accuracy)}"
    return (
        f"{stage.title}  {duration(now.at_s)} of {duration(now.of_s)}  version {now.version}"
        f"{learned}  {whole(now.num_updates)} updates  {whole(round(stage.events_per_s))} events/s"
        f"  {whole(now.num_online)} of {whole(now.num_devices)} online"
    )


def ended(result: Result) -> str:
    """Return in a line how a run ended."""
    reached = [point.accuracy for point in result.points if point.accuracy is not None]
    learned = f"accuracy {reached[-1]:.3f}, " if reached else ""
    return (
        f"{shown(result.scenario)}, seed {result.seed}: {learned}"
        f"{duration(result.virtual_s)} in {duration(result.wall_s)} ({shown(result.ended)})"
    )


def summary(report: Report) -> RenderableType:
    """Return the report's figures as a table: a column for each scenario, and differences."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    # Folded, not cut: on a narrow terminal half a number would be another one.
    table.add_column("", style="dim", overflow="fold")
    names = [shown(runs.name) for runs in report.runs]
    for title in (*names, *[f"less {names[0]}"] * (len(names) - 1)):
        table.add_column(Text(title), justify="right", overflow="fold")
    for row in cells.rows(report):
        if report.learned and row.measure in SCALE:
            continue  # how fast this machine is: on the page
        differences = [Text(one.text, style=_VERDICT[one.verdict]) for one in row.differences]
        table.add_row(row.measure.title, *(Text(value) for value in row.values), *differences)
    return table


def safety(lost: int, counted_twice: int) -> Text:
    """Return what must be 0."""
    style = "bold red" if lost or counted_twice else "green"
    return Text(f"{many(lost, 'update')} lost, {counted_twice} counted twice", style=style)


def _runs(num_ended: int, of: int) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=of, completed=num_ended, width=_BAR_WIDTH)
    grid.add_row(Text("runs", style="dim"), bar, f"{num_ended} of {of} ended")
    return grid


def _side_by_side(stages: Sequence[Stage]) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    for title in ("seed", "virtual time", "version", "accuracy", "updates", "online", "events/s"):
        table.add_column(title, justify="right", no_wrap=True)
    for stage in stages:
        now = stage.progress
        table.add_row(
            shown(now.scenario),
            str(now.seed),
            f"{duration(now.at_s)} of {duration(now.of_s)}",
            whole(now.version),
            cells.NOTHING if now.accuracy is None else accuracy_text(now.accuracy),
            whole(now.num_updates),
            f"{whole(now.num_online)} of {whole(now.num_devices)}",
            whole(round(stage.events_per_s)),
        )
    return table


def _run(stage: Stage) -> RenderableType:
    now = stage.progress
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1)
    time = Table.grid(padding=(0, 1))
    time.add_row(
        ProgressBar(total=now.of_s, completed=now.at_s, width=_BAR_WIDTH),
        f"{duration(now.at_s)} of {duration(now.of_s)}",
    )
    grid.add_row("virtual time", time)
    grid.add_row("model", Text(f"version {now.version}", style="bold"))
    if stage.scenario.dry is None:
        grid.add_row("accuracy", _accuracy(now.accuracy, stage.scenario.target))
    grid.add_row("updates", f"{whole(now.num_updates)} counted")
    grid.add_row("devices", f"{whole(now.num_online)} of {whole(now.num_devices)} online")
    grid.add_row("bytes", f"{human_bytes(now.bytes_up)} up, {human_bytes(now.bytes_down)} down")
    grid.add_row(
        "pace", f"{whole(round(stage.events_per_s))} events/s, {whole(now.num_events)} until now"
    )
    return grid


def _accuracy(accuracy: float | None, target: float) -> RenderableType:
    if accuracy is None:
        return Text(accuracy_text(accuracy))
    grid = Table.grid(padding=(0, 1))
    is_reached = bool(target) and accuracy >= target
    style = "green" if is_reached else "cyan"
    bar = ProgressBar(total=1.0, completed=accuracy, width=_BAR_WIDTH, complete_style=style)
    goal = f"  target {target:g}" if target else ""
    grid.add_row(bar, Text(accuracy_text(accuracy), style="bold"), Text(goal, style="dim"))
    return grid


def _classes(stage: Stage) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("devices", justify="right")
    table.add_column("updates", justify="right")
    table.add_column("of all", justify="right")
    if stage.scenario.dry is None:
        table.add_column("accuracy on its rows", justify="right")
    accuracies: Mapping[str, float] = stage.progress.group_accuracy
    total = sum(stage.progress.updates_by_class.values()) or 1
    rows: Sequence[tuple[str, bool, int]] = [
        (each.name, each.slow, count)
        for each, count in zip(stage.scenario.classes, stage.scenario.counts, strict=True)
    ]
    for name, is_slow, count in rows:
        updates = stage.progress.updates_by_class.get(name, 0)
        known = [accuracy_text(accuracies.get(name))] if stage.scenario.dry is None else []
        label = class_label(name, is_slow=is_slow)
        table.add_row(label, whole(count), whole(updates), percent(updates / total), *known)
    return table
