"""The folder that a report is written to."""

import os
import sys
from pathlib import Path
from typing import Final

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
    if json in {"", STDOUT}:
        return
    beside = Path(json).absolute().parent
    if not beside.is_dir():
        raise ConfigError(f"--json {json}: there is no folder {beside}")
    if Path(json).is_dir():
        raise ConfigError(f"--json {json}: is a folder; name a file, or - for stdout")
    if not os.access(beside, os.W_OK):
        raise ConfigError(f"--json {json}: nothing may be written to {beside}")


def write(report: Report, folder: Path, json: str = "") -> None:
    """Write the page, the document and the plots; ``json`` gets the document too.

    The document comes first: the numbers are there, whatever happens to the pictures. Raises
    ConfigError.
    """
    document = to_json(report)
    _write(folder / DOCUMENT, document)
    if json == STDOUT:
        sys.stdout.buffer.write(document)
        sys.stdout.buffer.flush()
    elif json:
        _write(Path(json), document)
    drawn = plots(report)
    _write(folder / PAGE, to_html(report, drawn))
    both = overview(drawn)
    for plot in drawn if both is None else (*drawn, both):
        _write(folder / f"{plot.name}.png", to_png(plot))


def _write(path: Path, data: bytes) -> None:
    """Write all of the file or nothing."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{path}: {error.strerror}") from None
