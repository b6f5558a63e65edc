"""Plots of what was learned: accuracy over time and bytes, overall and by device class."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import EngFormatter, MaxNLocator

from simulator.report import figures, palette, wording
from simulator.report.drawing import Plot
from simulator.report.lines import Line, draw_lines, draw_over_time
from simulator.report.runs import Report, Runs
from simulator.result import Note, Point, Result

_PAIR: Final = 2
_MARGIN: Final = 0.02


def learning_plots(report: Report) -> Iterator[Plot]:
    """Yield them, if anything was trained."""
    if not report.learned:
        return
    yield _over_time(report)
    yield _over_bytes(report)
    yield from _by_class(report)


def notes_of(report: Report) -> tuple[Note, ...]:
    """Return what happened on the way, for all runs alike: of the first run of the first."""
    return report.runs[0].results[0].notes


def note_words(report: Report) -> str:
    """Say what the numbers at the foot of a plot are, where there are some."""
    return " The numbers below stand for what happened then." if notes_of(report) else ""


def band_words(report: Report) -> str:
    """Say what a band and the faint lines are, where there are several seeds."""
    most = max(len(runs.results) for runs in report.runs)
    if most == 1:
        return ""
    if most == _PAIR:
        return " The bold line is the mean of the two seeds, the faint lines."
    return (
        f" A line is the mean of {most} seeds, its band where the true mean lies with 95 %"
        " confidence (Student's t)."
    )


def _over_time(report: Report) -> Plot:
    lines = _lines(report, lambda _: figures.accuracy)
    return Plot(
        name="accuracy_time",
        title="Accuracy against virtual time",
        reading="The accuracy of each new version on rows that no device holds. Higher and further"
        " left is better." + band_words(report) + note_words(report),
        draw=_over_time_drawing(lines, report.target, notes_of(report)),
    )


def _over_bytes(report: Report) -> Plot:
    lines = _lines(report, lambda _: figures.accuracy, over=figures.traffic)

    def draw(figure: FigureBase) -> None:
        axes = figure.subplots()
        draw_lines(axes, lines, report.target)
        _keep_to_accuracies(axes)
        axes.xaxis.set_major_formatter(EngFormatter("B"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel="bytes up and down, all devices together", ylabel="accuracy")
        axes.set_xlim(left=0, right=None if axes.get_xlim()[1] > 0 else 1)

    return Plot(
        name="accuracy_bytes",
        title="Accuracy against bytes",
        reading="The same accuracies over everything that was sent and received until then: models,"
        " updates and all other messages. Where a curve crosses the height you want is what that"
        " accuracy costs.",
        draw=draw,
    )


def _by_class(report: Report) -> Iterator[Plot]:
    """Yield the slow classes' accuracy, side by side; of runs that stand alone, every class's."""
    known = [runs for runs in report.runs if any(p.group_accuracy for p in _points(runs))]
    if known and len(report.runs) > 1 and all(runs.has_slow for runs in known):
        yield _slow_classes(report)
        return
    for index, runs in enumerate(known):
        yield _each_class(report, runs, f"_{index}" if len(report.runs) > 1 else "")


def _slow_classes(report: Report) -> Plot:
    classes = [one for runs in report.runs for one in runs.results[0].classes if one.is_slow]
    slow = wording.listed(list(dict.fromkeys(wording.shown(one.name) for one in classes)))
    lines = _lines(report, figures.slow_accuracy)
    return Plot(
        name="accuracy_slow",
        title="Accuracy on slow classes",
        reading=f"Accuracy on the held-out rows of the slow devices ({slow}). A method that lets"
        " fast devices outvote slow ones stays low here, even where its overall curve looks well.",
        draw=_over_time_drawing(lines, None, notes_of(report)),
    )


def _each_class(report: Report, runs: Runs, suffix: str) -> Plot:
    slow = {one.name for one in runs.results[0].classes if one.is_slow}
    judged = {name for point in _points(runs) for name in point.group_accuracy}
    lines = [
        Line(
            wording.class_label(name, is_slow=name in slow),
            [figures.curve_of(r, figures.class_accuracy(name)) for r in runs.results],
            palette.class_colour(index),
            index,
        )
        for index, name in enumerate(runs.class_names)
        if name in judged
    ]
    of = f", {wording.shown(runs.name)}" if len(report.runs) > 1 else ""
    return Plot(
        name=f"accuracy_slow{suffix}",
        title=f"Accuracy by device class{of}",
        reading="Accuracy on the held-out rows that belong to each device class. Curves far apart"
        " mean that the model serves some devices better than others; slow ones suffer first.",
        draw=_over_time_drawing(lines, None, runs.results[0].notes),
    )


def _over_time_drawing(
    lines: Sequence[Line], target: float | None, notes: Sequence[Note]
) -> Callable[[FigureBase], None]:
    def draw(figure: FigureBase) -> None:
        axes = draw_over_time(figure, lines, target=target, notes=notes, what="accuracy")
        _keep_to_accuracies(axes)

    return draw


def _keep_to_accuracies(axes: Axes) -> None:
    """Show no height that no accuracy has: Student's t knows nothing of 0 and 1."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -_MARGIN), min(high, 1 + _MARGIN))


def _lines(
    report: Report,
    quantity: Callable[[Result], figures.Quantity],
    over: figures.Quantity = figures.virtual_time,
) -> list[Line]:
    return [
        Line(
            runs.name,
            [figures.curve_of(result, quantity(result), over=over) for result in runs.results],
            palette.method_colour(index),
            index,
        )
        for index, runs in enumerate(report.runs)
    ]


def _points(runs: Runs) -> Iterator[Point]:
    return (point for result in runs.results for point in result.points)
