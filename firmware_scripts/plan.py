"""From what is wanted and what is there to what is to be done. Pure: reads and changes nothing."""

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from firmware_scripts.archives import make_tar, sums
from firmware_scripts.bundle import Bundle
from firmware_scripts.wish import (
    CONFIG,
    CURRENT,
    PASSWORD,
    PREVIOUS,
    RELEASES,
    SETUP_UNIT,
    VENV_READY,
    File,
    Wish,
    wanted_by,
)

#: How many releases stay on a device, the current one among them.
KEPT_RELEASES: Final = 3


class PlanError(Exception):
    """The target cannot be flashed as it is; nothing was changed."""


class Verdict(Enum):
    """What a thing is against what is there."""

    NEW = "new"
    CHANGED = "changed"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Entry:
    """What lies at a path: a ``file`` (value: sha256), a ``link`` (value: its text), ``other``."""

    kind: str
    value: str = ""
    mode: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The target as it is. ``releases``: newest first; ``interpreter``: see target.sh.

    ``unfinished``: an earlier flash was interrupted.
    """

    entries: Mapping[str, Entry] = field(default_factory=dict)
    releases: tuple[str, ...] = ()
    has_etc: bool = True
    runs_systemd: bool = False
    unfinished: bool = False
    interpreter: str = ""

    def release(self, link: str) -> str:
        """Return the release that ``current`` or ``previous`` points to; empty for none."""
        entry = self.entries.get(link, Entry("absent"))
        name = entry.value.removeprefix("releases/")
        return name if entry.kind == "link" and name in self.releases else ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the plan as a person reads it."""

    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done: ``lines`` for people, ``script`` for target.sh, ``payload`` its stdin."""

    lines: tuple[Line, ...]
    script: tuple[str, ...]
    payload: bytes = field(default=b"", repr=False)

    @property
    def changes_nothing(self) -> bool:
        """Whether everything is already as wanted."""
        return not self.script


def paths_of_interest(wish: Wish) -> tuple[str, ...]:
    """Every path whose present state decides what is to be done."""
    release = (file.path for file in _release(wish))
    return (
        *release,
        *(file.path for file in wish.files()),
        *wish.links(),
        PASSWORD,
        CURRENT,
        PREVIOUS,
        VENV_READY,
        wanted_by(SETUP_UNIT),
    )


def make_plan(wish: Wish, found: Found, *, setup_now: bool) -> Plan:
    """Plan a flash. ``setup_now``: make the virtual environment while flashing, not at boot.

    Raises PlanError when the target is not one.
    """
    _check(wish, found)
    release = {file: _verdict(file, found) for file in _release(wish)}
    files = {file: _verdict(file, found) for file in wish.files()}
    links = {path: _link_verdict(path, to, found) for path, to in wish.links().items()}
    name = wish.bundle.name
    current = _link_verdict(CURRENT, f"releases/{name}", found)
    libraries = _libraries(wish, found)
    lines = [
        *(Line(verdict, _describe(file)) for file, verdict in (release | files).items()),
        *(Line(verdict, f"{path} -> {wish.links()[path]}") for path, verdict in links.items()),
        Line(current, f"{CURRENT} -> releases/{name}{_instead_of(found, name)}"),
        Line(libraries, _describe_libraries(wish, setup_now=setup_now)),
    ]
    brings = any(verdict is not Verdict.SAME for verdict in release.values())
    staged = [file for file, verdict in files.items() if verdict is not Verdict.SAME]
    first = [file for file in staged if file in wish.setup_files()]
    builds = setup_now and libraries is not Verdict.SAME
    script = [
        *([_step("bring", name)] if brings else []),
        *(_step("stage", f"{file.mode:o}", file.path) for file in staged),
        "commit",
        *(_step("put", file.path) for file in first),
        *(["libraries"] if builds else []),
        *([_step("release", name)] if brings else []),
        *(_put(file, found) for file in staged if file not in first),
        *(_step("link", wish.links()[path], path) for path in links if links[path] != Verdict.SAME),
        *_obsolete(wish, found),
        *([] if current is Verdict.SAME else _switch(name, found)),
    ]
    if script == ["commit"] and not found.unfinished:
        return Plan(tuple(lines), ())
    script += [_step("prune", old) for old in _too_old(name, found)]
    lines += [Line(Verdict.CHANGED, f"{RELEASES}/{old}: removed") for old in _too_old(name, found)]
    lines += _restart_line(found)
    payload = _payload(wish.bundle if brings else None, staged)
    return Plan(tuple(lines), ("receive", *script, *_restart(found), "finish"), payload)


def plan_rollback(found: Found) -> Plan:
    """Plan the switch back to the release before. Raises PlanError if there is none."""
    current, previous = found.release(CURRENT), found.release(PREVIOUS)
    if previous in {"", current}:
        raise PlanError("there is no release before the current one to roll back to")
    line = Line(Verdict.CHANGED, f"{CURRENT} -> releases/{previous} (was {current or 'none'})")
    script = [_step("link", f"releases/{previous}", CURRENT)]
    script += [_step("link", f"releases/{current}", PREVIOUS)] if current else []
    return Plan((line, *_restart_line(found)), (*script, "durable", *_restart(found)))


def _restart(found: Found) -> list[str]:
    return ["restart"] if found.runs_systemd else []


def _restart_line(found: Found) -> list[Line]:
    text = "the device's service is restarted"
    return [Line(Verdict.CHANGED, text)] if found.runs_systemd else []


def _check(wish: Wish, found: Found) -> None:
    if not found.has_etc:
        raise PlanError("this is no Linux root file system: it has no /etc")
    if found.entries.get(CURRENT, Entry("absent")).kind in {"file", "other"}:
        raise PlanError(f"{CURRENT} is there and no link: move it away")
    if wish.python and not found.interpreter:
        raise PlanError(f"--python {wish.python}: no such program on the target")
    if found.interpreter == "lacking":
        raise PlanError(f"--python {wish.python}: lacks what the SDK needs (see above)")
    if wish.needs_password() and wish.password is None and PASSWORD not in found.entries:
        raise PlanError(f"broker.password_file is {PASSWORD}: give --password-file")


def _release(wish: Wish) -> Iterator[File]:
    folder = f"{RELEASES}/{wish.bundle.name}"
    for path, data in sorted(wish.bundle.files.items()):
        yield File(f"{folder}/{path}", 0o644, data)


def _verdict(file: File, found: Found) -> Verdict:
    entry = found.entries.get(file.path)
    if entry is None:
        return Verdict.NEW
    wanted = Entry("file", hashlib.sha256(file.data).hexdigest(), f"{file.mode:o}")
    return Verdict.SAME if entry == wanted else Verdict.CHANGED


def _link_verdict(path: str, to: str, found: Found) -> Verdict:
    entry = found.entries.get(path)
    if entry is None:
        return Verdict.NEW
    return Verdict.SAME if (entry.kind, entry.value) == ("link", to) else Verdict.CHANGED


def _libraries(wish: Wish, found: Found) -> Verdict:
    if wish.python:
        return Verdict.SAME
    wanted = next(file for file in wish.setup_files() if file.path.endswith("requirements.txt"))
    return _verdict(File(VENV_READY, wanted.mode, wanted.data), found)


def _describe(file: File) -> str:
    size = "secret" if file.secret else f"{len(file.data)} bytes"
    return f"{file.path} ({size}, mode {file.mode:o})"


def _describe_libraries(wish: Wish, *, setup_now: bool) -> str:
    if wish.python:
        return f"libraries: those of {wish.python}"
    source = f"from {len(wish.wheels)} wheels" if wish.wheels else "from the network"
    when = "now" if setup_now else "at first boot"
    return f"libraries: virtual environment {VENV_READY.rpartition('/')[0]}, {source}, {when}"


def _instead_of(found: Found, name: str) -> str:
    old = found.release(CURRENT)
    return f" (was {old})" if old not in {"", name} else ""


def _put(file: File, found: Found) -> str:
    entry = found.entries.get(file.path)
    if file.path != CONFIG or entry is None or entry.kind != "file":
        return _step("put", file.path)
    return f"{_step('keep', CONFIG, f'bak-{entry.value[:12]}')}\n{_step('put', CONFIG)}"


def _obsolete(wish: Wish, found: Found) -> list[str]:
    path = wanted_by(SETUP_UNIT)
    return [_step("remove", path)] if wish.python and path in found.entries else []


def _switch(name: str, found: Found) -> list[str]:
    old = found.release(CURRENT)
    before = [_step("link", f"releases/{old}", PREVIOUS)] if old not in {"", name} else []
    return [*before, "durable", _step("link", f"releases/{name}", CURRENT)]


def _too_old(name: str, found: Found) -> list[str]:
    """Return what exceeds `KEPT_RELEASES`; the new and the old current one always stay."""
    stays = dict.fromkeys([name, found.release(CURRENT) or name, *found.releases])
    return [old for old in list(stays)[KEPT_RELEASES:] if old in found.releases]


def _payload(bundle: Bundle | None, staged: list[File]) -> bytes:
    files = {file.path.removeprefix("/"): file.data for file in staged}
    if bundle is not None:
        files |= {f"release/{name}": data for name, data in bundle.files.items()}
    secrets = {file.path.removeprefix("/"): 0o600 for file in staged if file.secret}
    modes = {**secrets, "sums": 0o600}
    return make_tar({**files, "sums": sums(files)}, modes)


def _step(*words: str) -> str:
    return shlex.join(words)
