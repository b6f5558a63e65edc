"""Curves on axes: the mean of the seeds, and the band that their true mean lies in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from simulator.report import palette, wording
from simulator.report.bands import Band, Curve, Floats, band
from simulator.result import Note

_BEGINNING: Final = 0.08  # of a curve, which may lie below the axes
_RARE: Final = 0.01  # of the values may lie below them too
_MAX_NOTES: Final = 9
_WIDE_LEGEND: Final = 44  # letters that fit on one line


@dataclass(frozen=True, slots=True)
class Line:
    """What belongs together: one curve a seed, by one name, in one colour and line style."""

    name: str
    curves: Sequence[Curve]
    colour: str
    index: int


def draw_over_time(
    figure: FigureBase,
    lines: Sequence[Line],
    *,
    target: float | None,
    notes: Sequence[Note],
    what: str,
) -> Axes:
    """Draw lines whose x is virtual seconds, in the unit that suits them, with numbered notes."""
    ends = [float(curve.x[-1]) for line in lines for curve in line.curves if len(curve.x)]
    divisor, unit = wording.time_unit(max(ends, default=0.0))
    axes = figure.subplots()
    draw_lines(axes, [_scaled(line, divisor) for line in lines], target)
    for number, note in enumerate(notes[:_MAX_NOTES], start=1):
        _draw_note(axes, number, note.at_s / divisor)
    axes.set(xlabel=f"virtual time ({unit})", ylabel=what)
    axes.set_xlim(0, (max(ends, default=0.0) or divisor) / divisor)
    return axes


def draw_lines(axes: Axes, lines: Sequence[Line], target: float | None = None) -> None:
    """Draw every line's mean and band; the height from what comes after the beginning."""
    heights: list[Floats] = [] if target is None else [np.asarray([target])]
    for line in lines:
        mean = band(line.curves)
        if mean is not None:
            _draw_mean(axes, line, mean)
            heights += _late(mean)
    if target is not None:
        axes.axhline(target, color=palette.FAINT, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"target {target:g}",
            (1, target),
            xytext=(-2, 3),
            ha="right",
            fontsize=7.5,
            color=palette.FAINT,
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
        )
    _fit_height(axes, heights)
    add_legend(axes, len(lines))


def add_legend(axes: Axes, num: int) -> None:
    """Put the names above the axes, where they hide nothing; one name needs none."""
    handles, labels = axes.get_legend_handles_labels()
    if num < 2 or not handles:  # noqa: PLR2004 - one is no choice
        return
    widest = max(len(label) for label in labels) + 6
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1, 1, 0.1),
        borderaxespad=0.2,
        ncols=max(1, min(num, _WIDE_LEGEND // widest)),
        handlelength=2.4,
        columnspacing=1.4,
    )


def label_of(name: str) -> str:
    """Return a label that a legend does not take for a private one."""
    clean = wording.shown(name)
    return f" {clean}" if clean.startswith("_") else clean


def _draw_mean(axes: Axes, line: Line, mean: Band) -> None:
    if mean.half is not None:
        low, high = mean.mean - mean.half, mean.mean + mean.half
        axes.fill_between(mean.x, low, high, color=line.colour, alpha=0.18, linewidth=0)
    elif len(mean.seeds) > 1:
        axes.plot(mean.x, mean.seeds.T, color=line.colour, alpha=0.4, linewidth=0.8)
    axes.plot(
        mean.x,
        mean.mean,
        drawstyle="default" if len(line.curves) > 1 else "steps-post",
        color=line.colour,
        linestyle=palette.dashes(line.index),
        label=label_of(line.name),
    )


def _draw_note(axes: Axes, number: int, at: float) -> None:
    axes.axvline(at, color=palette.FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.annotate(
        str(number),
        (at, 0),
        xycoords=("data", "axes fraction"),
        xytext=(2.5, 3),
        textcoords="offset points",
        fontsize=7.5,
        color=palette.FAINT,
    )


def _late(mean: Band) -> list[Floats]:
    """Return the values after the beginning, which may lie below the axes."""
    half = np.zeros(1) if mean.half is None else mean.half
    begin = int(len(mean.x) * _BEGINNING)
    return [values[begin:] for values in (*mean.seeds, mean.mean - half, mean.mean + half)]


def _fit_height(axes: Axes, heights: Sequence[Floats]) -> None:
    """Show all but rare dips."""
    values = np.concatenate(heights) if heights else np.zeros(0)
    if len(values):
        lowest, highest = float(np.quantile(values, _RARE)), float(values.max())
        margin = 0.06 * (highest - lowest) or 0.05
        axes.set_ylim(lowest - margin, highest + margin)


def _scaled(line: Line, divisor: float) -> Line:
    curves = [Curve(np.asarray(curve.x / divisor), curve.y) for curve in line.curves]
    return Line(line.name, curves, line.colour, line.index)
