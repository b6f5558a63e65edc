"""Every plot of a report, in the order in which it is read."""

from collections.abc import Sequence

from matplotlib.figure import FigureBase

from simulator.report.drawing import WIDTH_IN, Plot
from simulator.report.fleet_plots import fleet_plots
from simulator.report.learning_plots import learning_plots
from simulator.report.runs import Report


def plots(report: Report) -> list[Plot]:
    """Return what this report has to show: nothing of what was not measured."""
    return [*learning_plots(report), *fleet_plots(report)]


def overview(drawn: Sequence[Plot]) -> Plot | None:
    """Return the two plots that say most, as one picture; None where nothing was learned."""
    names = ("accuracy_time", "accuracy_slow")
    pair = [plot for name in names for plot in drawn if plot.name == name]
    if len(pair) < len(names):
        return None

    def draw(figure: FigureBase) -> None:
        for part, plot in zip(figure.subfigures(1, len(pair), squeeze=False)[0], pair, strict=True):
            plot.draw(part)
            part.suptitle(plot.title, x=0.02, ha="left", fontsize=10)

    return Plot(
        name="overview",
        title="",
        reading=" ".join(plot.reading for plot in pair),
        draw=draw,
        width_in=2 * WIDTH_IN,
    )
