"""Plots of who worked: participation, staleness, refusals, and the pace of the whole."""

from collections.abc import Iterator, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from simulator.report import figures, palette, wording
from simulator.report.drawing import Plot
from simulator.report.learning_plots import notes_of
from simulator.report.lines import Line, add_legend, draw_over_time, label_of
from simulator.report.runs import Report, Runs

_MAX_BARS: Final = 40  # staleness values that are shown one by one
_ROOM: Final = 0.86  # of a row, filled by its bars


def fleet_plots(report: Report) -> Iterator[Plot]:
    """Yield those that have something to show."""
    if not report.learned and any(r.points for runs in report.runs for r in runs.results):
        yield _pace(report)
    if any(figures.counted(r) for runs in report.runs for r in runs.results):
        yield _participation(report)
        yield _staleness(report)
    if any(figures.refusals(runs.results) for runs in report.runs):
        yield _refused(report)


def _pace(report: Report) -> Plot:
    lines = [
        Line(
            runs.name,
            [figures.curve_of(r, lambda point: float(point.num_updates)) for r in runs.results],
            palette.method_colour(index),
            index,
        )
        for index, runs in enumerate(report.runs)
    ]

    def draw(figure: FigureBase) -> None:
        notes = notes_of(report)
        axes = draw_over_time(figure, lines, target=None, notes=notes, what="updates counted")
        axes.yaxis.set_major_formatter(EngFormatter())
        axes.set_ylim(bottom=0)

    return Plot(
        name="updates_time",
        title="Updates counted against virtual time",
        reading="How many updates were in some version by then, at each version that was looked"
        " at. Even stairs are a fleet at a steady pace; a step that is longer than the others is a"
        " time in which little was counted.",
        draw=draw,
    )


def _participation(report: Report) -> Plot:
    names = _class_names(report)

    def draw(figure: FigureBase) -> None:
        axes = figure.subplots()
        for index in range(len(report.runs)):
            _draw_shares(axes, report, index, names)
        _label_rows(axes, [_class_label(report, name) for name in names])
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel("share of all counted updates")
        axes.set_xlim(left=0)
        add_legend(axes, len(report.runs) + 1)

    return Plot(
        name="participation",
        title="Who took part",
        reading="Bars are each class's share of the updates that counted; the diamond is its share"
        " of the devices. A bar that ends at its diamond is a class with its fair part. Jain's"
        " index in the legend is 1 when every single device was counted equally often.",
        draw=draw,
        height_in=1.25 + 0.2 * len(names) * max(1.4, len(report.runs)),
    )


def _draw_shares(axes: Axes, report: Report, index: int, names: Sequence[str]) -> None:
    """Draw one scenario's classes: a bar for the updates, a diamond for the devices."""
    runs, thick = report.runs[index], _ROOM / len(report.runs)
    held = _mean_shares(runs)
    rows = {name: row + _offset(index, report, thick) for row, name in enumerate(names)}
    places = [rows[name] for name in held]
    axes.barh(
        places,
        [own for _, own in held.values()],
        height=thick * 0.9,
        color=palette.method_colour(index),
        label=label_of(_with_fairness(runs, alone=len(report.runs) == 1)),
    )
    axes.scatter(
        [fleet for fleet, _ in held.values()],
        places,
        marker="D",
        s=34,
        color=palette.INK,
        edgecolors="white",
        linewidths=0.8,
        label="" if index else "share of the fleet",
        zorder=3,
    )
    for place, (_, own) in zip(places, held.values(), strict=True):
        _write_beside(axes, place, wording.percent(own))


def _staleness(report: Report) -> Plot:
    names = [name for name in _class_names(report) if _has_updates(report, name)]
    width = max(1, -(-(_largest_staleness(report) + 1) // _MAX_BARS))

    def draw(figure: FigureBase) -> None:
        rows = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(rows, names, strict=True):
            for index, runs in enumerate(report.runs):
                _draw_distribution(axes, runs, name, index, width)
            axes.grid(visible=False, axis="x")
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.set_ylim(bottom=0)
            axes.set_ylabel(label_of(name), rotation=0, ha="right", va="center")
        rows[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        rows[-1].set_xlabel("staleness (versions)")
        add_legend(rows[0], len(report.runs))

    return Plot(
        name="staleness",
        title="Staleness by device class",
        reading="How many versions had appeared between the one an update was computed from and the"
        " one it went into; each class's updates together are one area. Left is fresh; classes that"
        " sit to the right are slow, or far away, or often asleep. The line is the mean.",
        draw=draw,
        height_in=1.0 + 0.72 * len(names),
    )


def _draw_distribution(axes: Axes, runs: Runs, name: str, index: int, width: int) -> None:
    counts = figures.staleness(runs.results, name)
    total = sum(counts.values())
    colour = palette.method_colour(index)
    if not total:
        axes.plot([], [], color=colour, linewidth=1.2, label=label_of(runs.name))  # for the legend
        return
    parts = [0.0] * (max(counts) // width + 1)
    for staleness, count in counts.items():
        parts[staleness // width] += count / total
    edges = [place * width - 0.5 for place in range(len(parts) + 1)]
    axes.stairs(parts, edges, fill=True, color=colour, alpha=0.35, linewidth=0)
    axes.stairs(parts, edges, color=colour, linewidth=1.2, label=label_of(runs.name))
    mean = sum(staleness * count for staleness, count in counts.items()) / total
    axes.axvline(mean, color=colour, linewidth=1.2, linestyle=palette.dashes(1))


def _refused(report: Report) -> Plot:
    reasons = list(figures.refusals(r for runs in report.runs for r in runs.results))

    def draw(figure: FigureBase) -> None:
        axes = figure.subplots()
        thick = _ROOM / len(report.runs)
        for index, runs in enumerate(report.runs):
            refused = figures.refusals(runs.results)
            bars = axes.barh(
                [row + _offset(index, report, thick) for row in range(len(reasons))],
                [refused.get(reason, 0) / len(runs.results) for reason in reasons],
                height=thick * 0.9,
                color=palette.method_colour(index),
                label=label_of(runs.name),
            )
            axes.bar_label(bars, fmt=wording.whole, padding=4, fontsize=8)
        _label_rows(axes, [wording.shown(reason) for reason in reasons])
        axes.margins(x=0.14)
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("refusals a run")
        add_legend(axes, len(report.runs))

    return Plot(
        name="refusals",
        title="What was refused",
        reading="How often somebody said no, by the reason given. Some reasons are part of a"
        " healthy day, like an update that came too late; the table below has their meanings.",
        draw=draw,
        height_in=1.1 + 0.2 * len(reasons) * max(1.4, len(report.runs)),
    )


def _offset(index: int, report: Report, thick: float) -> float:
    return (index - (len(report.runs) - 1) / 2) * thick


def _write_beside(axes: Axes, row: float, text: str) -> None:
    """Write a number to the right of the axes, where it hides nothing."""
    axes.annotate(
        text,
        (1, row),
        xycoords=("axes fraction", "data"),
        xytext=(2, 0),
        textcoords="offset points",
        fontsize=8,
        va="center",
    )


def _label_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _class_names(report: Report) -> list[str]:
    """Return the classes of all runs, each once, in the scenarios' order."""
    return list(dict.fromkeys(name for runs in report.runs for name in runs.class_names))


def _class_label(report: Report, name: str) -> str:
    for runs in report.runs:
        for one in runs.results[0].classes:
            if one.name == name:
                slow = ", slow" if one.is_slow else ""
                return f"{wording.shown(name)}\n{wording.whole(one.num_devices)} devices{slow}"
    return wording.shown(name)


def _with_fairness(runs: Runs, *, alone: bool) -> str:
    known = [value for value in map(figures.fairness, runs.results) if value is not None]
    name = "share of the updates" if alone else wording.shown(runs.name)
    return f"{name}, Jain {sum(known) / len(known):.2f}" if known else name


def _mean_shares(runs: Runs) -> dict[str, tuple[float, float]]:
    """Return by class its shares of the devices and of the updates, the mean of all seeds."""
    every = [figures.shares(result) for result in runs.results]
    return {
        name: (
            sum(one[name][0] for one in every) / len(every),
            sum(one[name][1] for one in every) / len(every),
        )
        for name in runs.class_names
    }


def _has_updates(report: Report, name: str) -> bool:
    return any(figures.staleness(runs.results, name) for runs in report.runs)


def _largest_staleness(report: Report) -> int:
    names = _class_names(report)
    every = (figures.staleness(runs.results, name) for runs in report.runs for name in names)
    return max((max(counts) for counts in every if counts), default=0)
