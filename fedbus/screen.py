"""A `TaskView` as a picture for the terminal. Pure: values in, renderables out."""

from collections.abc import Iterable, Mapping
from typing import Final

from rich.box import ROUNDED, SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from aggregator.wording import many
from fedbus.view import Member, TaskView, count, number, table, text
from fedbus.wording import accuracy_text, human_bytes, refusals

#: Lines of the picture, and of the prompt below it, that are not devices.
FRAME_LINES: Final = 15

_BAR_WIDTH: Final = 40
_STATE_STYLE: Final = {"online": "green", "sleeping": "yellow", "offline": "red"}


def picture(
    view: TaskView,
    *,
    title: str,
    max_rows: int,
    target: float | None = None,
    sizes: Mapping[str, int] | None = None,
    notes: Iterable[str] = (),
) -> RenderableType:
    """Return the whole picture: the task above, at most ``max_rows`` devices below.

    ``target`` is shown beside the accuracy, ``sizes`` (rows by device) as a column.
    """
    parts: list[RenderableType] = [_task(view, target), _devices(view, max_rows, sizes)]
    parts += [Text(note, style="red") for note in notes]
    return Panel(Group(*parts), title=title, title_align="left", box=ROUNDED, padding=(0, 1))


def _task(view: TaskView, target: float | None) -> RenderableType:
    metrics, rounds = view.report("metrics"), view.report("rounds")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row("aggregator", _aggregator(view))
    grid.add_row("model", Text(f"version {count(metrics, 'version')}", style="bold"))
    grid.add_row("accuracy", _accuracy(view, target))
    grid.add_row("updates", _updates(view))
    grid.add_row("waiting for", Text(text(rounds, "waiting_for") or "…"))
    return grid


def _aggregator(view: TaskView) -> Text:
    state = text(view.report("aggregator"), "state") or "not heard yet"
    mode, codec = text(view.report("rounds"), "mode"), text(view.report("metrics"), "codec")
    line = Text(state, style=_STATE_STYLE.get(state, "yellow"))
    for word in (mode, codec):
        if word:
            line.append(f" · {word}", style="default")
    return line


def _accuracy(view: TaskView, target: float | None) -> Text:
    accuracy = view.accuracy
    reached = target is not None and accuracy is not None and accuracy >= target
    line = Text(accuracy_text(accuracy), style="bold green" if reached else "bold")
    if accuracy is not None:
        line.append("  ").append_text(_bar(accuracy, target, "green" if reached else "cyan"))
    if target is not None:
        line.append(f"  target {target:g}", style="dim")
    return line


def _bar(accuracy: float, target: float | None, style: str) -> Text:
    """A line from 0 to 1, filled up to ``accuracy``, with a mark at ``target``."""
    filled = round(min(max(accuracy, 0.0), 1.0) * _BAR_WIDTH)
    mark = -1 if target is None else min(_BAR_WIDTH - 1, int(target * _BAR_WIDTH))
    bar = Text()
    for place in range(_BAR_WIDTH):
        own = style if place < filled else "bright_black"
        bar.append("┃" if place == mark else "━", style="default" if place == mark else own)
    return bar


def _updates(view: TaskView) -> Text:
    metrics = view.report("metrics")
    line = Text(f"{count(metrics, 'updates_accepted')} accepted", style="green")
    refused = refusals(metrics)
    total = sum(refused.values())
    line.append(f" · {total} refused", style="red" if total else "dim")
    if refused:
        reasons = ", ".join(f"{reason} {some}" for reason, some in refused.items())
        line.append(f" ({reasons})", style="red")
    line.append(f" · {many(count(metrics, 'leases_expired'), 'lease')} ran out", style="dim")
    return line


def _devices(view: TaskView, max_rows: int, sizes: Mapping[str, int] | None) -> RenderableType:
    rows = Table(box=SIMPLE_HEAD, pad_edge=False, expand=False, show_footer=True)
    shown = sorted(view.members.items())[: max(1, max_rows)]
    hidden = len(view.members) - len(shown)
    told = [member.telemetry for member in view.members.values()]
    rows.add_column("device", footer=f"and {hidden} more" if hidden else "together", no_wrap=True)
    rows.add_column("state", no_wrap=True)
    rows.add_column("doing", no_wrap=True, min_width=10)
    if sizes is not None:
        rows.add_column("rows", justify="right", footer=str(sum(sizes.values())))
    rows.add_column("updates", justify="right", footer=str(_sum(told, "receipts")))
    for title, key in (("up", "bytes_up"), ("down", "bytes_down")):
        rows.add_column(
            title, justify="right", min_width=8, footer=human_bytes(_sum(told, key)), no_wrap=True
        )
    training = table(view.report("devices"), "training")
    for name, member in shown:
        own_rows = [] if sizes is None else [str(sizes.get(name, ""))]
        rows.add_row(
            name, _state(member), _doing(name, member, training), *own_rows, *_told(member)
        )
    return rows


def _sum(reports: Iterable[Mapping[str, object]], key: str) -> int:
    return sum(count(report, key) for report in reports)


def _state(member: Member) -> Text:
    state = member.state or "unknown"
    return Text(state, style=_STATE_STYLE.get(state, "dim"))


def _doing(name: str, member: Member, training: Mapping[str, object]) -> Text:
    if member.state != "online":
        return Text("")
    if "turned_away" in member.telemetry:
        return Text(f"turned away: {text(member.telemetry, 'turned_away')}", style="red")
    if "declined" in member.telemetry:
        return Text(f"does not train: {text(member.telemetry, 'declined')}", style="yellow")
    if "failed" in member.telemetry:
        return Text(f"training fails: {text(member.telemetry, 'failed')}", style="yellow")
    if name in training:
        return Text("training")
    return Text(text(member.telemetry, "state"))


def _told(member: Member) -> list[str]:
    said = member.telemetry
    if not said:
        return ["", "", ""]
    up, down = number(said, "bytes_up") or 0, number(said, "bytes_down") or 0
    return [str(count(said, "receipts")), human_bytes(up), human_bytes(down)]
