"""The two ways to a target: a folder that holds its root file system, or ``ssh``."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Final, Protocol

_LIBRARY: Final = files("firmware_scripts").joinpath("target.sh").read_text(encoding="utf-8")
_SSH_FAILED: Final = 255


class TargetError(Exception):
    """The target could not be reached, or a step failed there; ``current`` is as it was."""


class Target(Protocol):
    """Where target.sh runs."""

    @property
    def root(self) -> str:
        """The folder that is the root on the target; empty for the machine itself."""

    def run(self, script: Sequence[str], payload: bytes = b"") -> str:
        """Run the lines, ``payload`` on stdin; return what they print. Raises TargetError."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A root file system mounted on this machine; ``Folder("")`` is this machine."""

    root: str

    def run(self, script: Sequence[str], payload: bytes = b"") -> str:
        """See `Target`."""
        return _run(["sh", "-c", _text(self.root, script)], payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """A machine that ssh reaches. ``options`` are as after ``ssh -o``; nothing is set by us.

    ``sudo``: become root there with ``sudo -n``.
    """

    host: str
    port: int | None = None
    options: tuple[str, ...] = ()
    root: str = ""
    sudo: bool = False

    def run(self, script: Sequence[str], payload: bytes = b"") -> str:
        """See `Target`."""
        command = f"{'sudo -n ' if self.sudo else ''}sh -c {quote(_text(self.root, script))}"
        port = [] if self.port is None else ["-p", str(self.port)]
        options = [word for option in self.options for word in ("-o", option)]
        return _run(["ssh", *port, *options, "--", self.host, command], payload)


def open_folder(folder: Path, *, this_machine: bool) -> Folder:
    """Return the target for ``--root``. Raises TargetError for no folder, or ``/`` unasked."""
    if not folder.is_dir():
        raise TargetError(f"--root {folder}: no such folder")
    root = folder.resolve()
    if not root.samefile("/"):
        return Folder(str(root))
    if not this_machine:
        raise TargetError("--root / is this very machine: say so with --this-machine")
    return Folder("")


def _text(root: str, script: Sequence[str]) -> str:
    return "\n".join([f"root={quote(root)}", _LIBRARY, *script])


def _run(command: Sequence[str], payload: bytes) -> str:
    done = subprocess.run(  # noqa: S603 - the words are ours, quoted; the program is sh or ssh
        command, input=payload, capture_output=True, check=False
    )
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == 0:
        sys.stderr.write(f"{said}\n" if said else "")
        return done.stdout.decode(errors="replace")
    if command[0] == "ssh" and done.returncode == _SSH_FAILED:
        raise TargetError(f"ssh: {said or 'no connection'}")
    raise TargetError(said or f"the target's shell ended with {done.returncode}")
