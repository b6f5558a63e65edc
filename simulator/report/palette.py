"""Colours that people with any kind of colour vision tell apart, on white paper and on black.

Methods have the colours of Okabe and Ito (2008), device classes those of Paul Tol's "muted" scheme,
so that nobody takes one for the other. On paper they are as here; the page names each by a variable
and gives it a lighter twin for dark screens.
"""

from typing import Final

INK: Final = "#1d2330"
FAINT: Final = "#667085"
GRID: Final = "#e3e6ec"
BAD: Final = "#c2372e"

METHODS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
CLASSES: Final = (
    "#332288",
    "#44aa99",
    "#cc6677",
    "#ddcc77",
    "#88ccee",
    "#882255",
    "#117733",
    "#999933",
    "#aa4499",
)
#: Line styles repeat the difference for who sees no colours at all.
DASHES: Final = (
    "-",
    (0, (6, 1.2)),
    (0, (2.5, 1)),
    (0, (6, 1.2, 1.2, 1.2)),
    (0, (1, 1)),
    (0, (9, 1.5)),
    (0, (4, 1, 1, 1, 1, 1)),
)

#: Colour on paper -> (variable, colour on a dark screen).
VARIABLES: Final = {
    INK: ("ink", "#e8eaf0"),
    FAINT: ("faint", "#9aa3b5"),
    GRID: ("grid", "#2c3342"),
    BAD: ("bad", "#ff7d70"),
    METHODS[0]: ("m0", "#4ba9e8"),
    METHODS[1]: ("m1", "#ff8a3d"),
    METHODS[2]: ("m2", "#2bc79c"),
    METHODS[3]: ("m3", "#e8a2c9"),
    METHODS[4]: ("m4", "#f2bb3f"),
    METHODS[5]: ("m5", "#9bd4f7"),
    METHODS[6]: ("m6", "#a9a9a9"),
    CLASSES[0]: ("c0", "#8f82e6"),
    CLASSES[1]: ("c1", "#5cc4b3"),
    CLASSES[2]: ("c2", "#e58a99"),
    CLASSES[3]: ("c3", "#e6d88f"),
    CLASSES[4]: ("c4", "#9ad7f4"),
    CLASSES[5]: ("c5", "#c25d92"),
    CLASSES[6]: ("c6", "#4fae6c"),
    CLASSES[7]: ("c7", "#bdbd5c"),
    CLASSES[8]: ("c8", "#cc77bd"),
}


def method_colour(index: int) -> str:
    """Return the colour of the report's runs number ``index``."""
    return METHODS[index % len(METHODS)]


def method_variable(index: int) -> str:
    """Return the same colour as the page calls it."""
    return f"var(--{VARIABLES[method_colour(index)][0]})"


def class_colour(index: int) -> str:
    """Return the colour of the device class number ``index``."""
    return CLASSES[index % len(CLASSES)]


def dashes(index: int) -> str | tuple[int, tuple[float, ...]]:
    """Return the line style that goes with colour number ``index``."""
    return DASHES[index % len(DASHES)]


def stylesheet() -> str:
    """Return the variables as CSS: for light screens, and for dark ones."""
    light = "".join(f"--{name}:{paper};" for paper, (name, _) in VARIABLES.items())
    dark = "".join(f"--{name}:{screen};" for name, screen in VARIABLES.values())
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
