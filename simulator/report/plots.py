"""Every plot of a report, in the order in which it is read."""

from simulator.report.drawing import Plot
from simulator.report.fleet_plots import fleet_plots
from simulator.report.learning_plots import learning_plots
from simulator.report.runs import Report


def plots(report: Report) -> list[Plot]:
    """Return what this report has to show: nothing of what was not measured."""
    return [*learning_plots(report), *fleet_plots(report)]
