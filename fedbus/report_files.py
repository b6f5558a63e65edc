"""The folder that a report is written to."""

import sys
from pathlib import Path
from typing import Final

from fedbus.whole_files import check_file, write_whole
from protocol.errors import ConfigError
from simulator.report.document import to_json
from simulator.report.drawing import to_png
from simulator.report.page import to_html
from simulator.report.plots import overview, plots
from simulator.report.runs import Report

PAGE: Final = "report.html"
DOCUMENT: Final = "report.json"
STDOUT: Final = "-"


def check_writable(folder: Path, json: str) -> None:
    """Make the folder, and see now whether the report will find its place. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{DOCUMENT}.part"
        part.touch()
        part.unlink()
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}") from None
    if json not in {"", STDOUT}:
        check_file(Path(json), "--json")


def write(report: Report, folder: Path, json: str = "") -> None:
    """Write the page, the document and the plots; ``json`` gets the document too.

    The document comes first: the numbers are there, whatever happens to the pictures. Raises
    ConfigError.
    """
    document = to_json(report)
    write_whole(folder / DOCUMENT, document)
    if json == STDOUT:
        sys.stdout.buffer.write(document)
        sys.stdout.buffer.flush()
    elif json:
        write_whole(Path(json), document)
    drawn = plots(report)
    write_whole(folder / PAGE, to_html(report, drawn))
    both = overview(drawn)
    for plot in drawn if both is None else (*drawn, both):
        write_whole(folder / f"{plot.name}.png", to_png(plot))
