"""From a drawing to bytes: PNG for papers, SVG for the page. Equal values give equal bytes."""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure, FigureBase

from simulator.report import palette

WIDTH_IN: Final = 5.0
_DPI: Final = 160
_PAGE_FONT: Final = "system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture: its file's name, its title, how to read it, and what fills a figure with it."""

    name: str
    title: str
    reading: str
    draw: Callable[[FigureBase], None]
    height_in: float = 3.1
    width_in: float = WIDTH_IN


def to_png(plot: Plot) -> bytes:
    """Return the plot with its title, on white."""
    with _style():
        figure = Figure(figsize=(plot.width_in, plot.height_in + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        if plot.title:
            figure.suptitle(plot.title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        plot.draw(figure)
        out = io.BytesIO()
        figure.savefig(
            out, format="png", dpi=_DPI, metadata={"Software": None}, pil_kwargs={"optimize": True}
        )
    return out.getvalue()


def to_svg(plot: Plot) -> str:
    """Return the plot as an element for the page, whose colours are the page's variables."""
    with _style(salt=plot.name):
        figure = Figure(figsize=(plot.width_in, plot.height_in), layout="constrained")
        FigureCanvasSVG(figure)
        plot.draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _inlined(out.getvalue(), plot.title)


@contextmanager
def _style(salt: str = "png") -> Iterator[None]:
    """Draw in our style. ``salt`` keeps the names inside one SVG apart from those of another."""
    style = mpl.rc_context(
        {
            "axes.axisbelow": True,
            "axes.edgecolor": palette.FAINT,
            "axes.grid": True,
            "axes.labelcolor": palette.INK,
            "axes.labelsize": 9,
            "axes.linewidth": 0.8,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlecolor": palette.INK,
            "axes.titlesize": 9.5,
            "axes.titlelocation": "left",
            "font.family": "DejaVu Sans",
            "font.size": 9,
            "grid.color": palette.GRID,
            "grid.linewidth": 0.8,
            "legend.fontsize": 8.5,
            "legend.frameon": False,
            "legend.labelcolor": palette.INK,
            "lines.dash_capstyle": "butt",
            "lines.linewidth": 1.8,
            "svg.fonttype": "none",
            "svg.hashsalt": salt,
            "text.color": palette.INK,
            "text.parse_math": False,  # names come from scenario files: none is a formula
            "xtick.color": palette.FAINT,
            "xtick.labelcolor": palette.INK,
            "ytick.color": palette.FAINT,
            "ytick.labelcolor": palette.INK,
        }
    )
    with style, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _inlined(svg: str, title: str) -> str:
    """Return the ``<svg>`` element alone: no prologue, no metadata, no fixed size or colours."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"\s*<(metadata|style)[ >].*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r' xmlns(:xlink)?="[^"]*"| id="[\w.]+_\d+"', "", body)
    body = body.replace("xlink:href", "href")
    size = re.search(r'viewBox="[^"]*"', body)
    head = f'<svg {size.group() if size else ""} role="img" aria-label="{title}">'
    body = head + body[body.index(">") + 1 :]
    for paper, (name, _) in palette.VARIABLES.items():
        body = body.replace(paper, f"var(--{name})")
    return re.sub(r"'DejaVu Sans'(, [^;\"]*)?", _PAGE_FONT, body)
