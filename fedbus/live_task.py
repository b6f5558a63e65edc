"""A running task on the terminal, drawn anew as it changes."""

from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.live import Live

from fedbus.listener import Listener
from fedbus.screen import FRAME_LINES, picture
from fedbus.status import status_lines

REFRESH_S: Final = 0.25
#: Where there is no terminal.
_LINES_S: Final = 2.0


def show(listener: Listener, folder: Path | None = None) -> None:
    """Show what ``listener`` hears, until Ctrl-C: a picture, or lines if this is no terminal.

    ``folder`` is the operator's, if it is known, for commands that name its files.
    """
    console = Console()
    if not console.is_terminal:
        _print_changes(listener, folder)
    _draw(listener, console)


def _draw(listener: Listener, console: Console) -> None:
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            problem = [] if listener.connected else [f"no broker: {listener.problem}"]
            title = f"task {listener.view.task} at {listener.address}"
            max_rows = console.height - FRAME_LINES
            live.update(
                picture(listener.view, title=title, max_rows=max_rows, notes=problem), refresh=True
            )
            listener.listen(REFRESH_S)


def _print_changes(listener: Listener, folder: Path | None) -> None:
    """Where there is no terminal to draw on: the status again whenever it has changed."""
    shown: list[str] = []
    while True:
        lines = status_lines(listener.view, folder)
        if lines != shown:
            typer.echo("\n".join([*lines, ""]))
        shown = lines
        listener.listen(_LINES_S)
