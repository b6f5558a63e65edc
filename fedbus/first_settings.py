"""What a federation begins with: the sample's settings or a file's, with what options say on top.

Much of it is signed for the devices in their first roster: the model's size, clip, buffers, groups,
noise. So it is to be said before, and what follows from it (how large a buffer must be for groups,
what privacy rules out) follows here.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aggregator.config import FILES
from aggregator.privacy.config import CENTRAL, DISTRIBUTED
from aggregator.robust.config import MEAN, RobustConfig
from aggregator.robust.groups import MOST_SPOILT
from aggregator.secure_config import NONE
from fedbus.toml_text import fill, with_lines
from fedbus.workplace import FED, sample
from protocol.errors import ConfigError
from protocol.secagg.parameters import (
    MIN_COHORT,
    MIN_GROUPS,
    PAIRWISE,
    SEEDMASK,
    Parameters,
    defaults,
)
from protocol.topics import DEFAULT_PREFIX

#: What the sample waits for before a version, where there are as many devices.
_GOAL: Final = 10
_TASK: Final = "digits"
_BUFFERED: Final = "buffered"
_ROUNDS: Final = "rounds"
_MILLI: Final = 1_000

#: Where things are is decided by `fedbus init` itself.
_INITS: Final = {
    *("state_dir", "broker.host", "broker.port", "broker.ca_file", "broker.certificate_file"),
    *("broker.key_file", "secure.rosters", "identity.key_file", "identity.enrolment_key"),
}

_Tables = dict[str, dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the operator asks for. ``task`` and ``scheme`` empty: as the settings say.

    ``source``: a file with settings to begin from; None: the sample. ``settings``: ``key=value``
    with the key as in docs/configuration.md. ``group``, ``epsilon``, ``updates``: 0 is none.
    """

    task: str = ""
    scheme: str = ""
    source: Path | None = None
    settings: Sequence[str] = ()
    group: int = 0
    epsilon: float = 0.0
    updates: int = 0


@dataclass(frozen=True, slots=True)
class First:
    """The settings' text, and what else of them a federation is made by."""

    text: str
    task: str
    prefix: str
    scheme: str


def first_settings(wishes: Wishes, num_devices: int) -> First:
    """Return the aggregator's settings for so many devices, but for its files and broker.

    Raises ConfigError that says what to change.
    """
    text, table = _begin(wishes.source)
    said = _parsed(wishes.settings)
    if wishes.task:
        said.setdefault("task", {})["task"] = wishes.task
    if wishes.scheme:
        said.setdefault("secure", {})["scheme"] = wishes.scheme
    if wishes.group:
        said.setdefault("robust", {})["group"] = wishes.group
    asked = _Asked(said, table if wishes.source else {})
    scheme, task = asked.text("secure.scheme", SEEDMASK), asked.text("task.task", _TASK)
    mode = asked.text("task.mode", _ROUNDS if scheme == PAIRWISE else _BUFFERED)
    values = _merged(
        {"secure": {"scheme": scheme}, "task": {"task": task}},
        {"task": {"mode": mode}} if scheme == PAIRWISE else {},
        _sizes(asked, scheme, mode, num_devices),
        _private(wishes, scheme),
        _moved(table, wishes),
        said,
    )
    filled = fill(with_lines(text, values), values)
    return First(filled, task, asked.text("task.prefix", DEFAULT_PREFIX), scheme)


def signed_text(given: Parameters) -> str:
    """Say what a change needs a new roster for, and what one attacker can do until then."""
    groups = f"groups of {given.group}" if given.group else "no groups"
    noise = given.multiplier_milli / 1000
    private = f"noise of {noise:g} times the clip" if given.is_private else "no added noise"
    return (
        f"signed for all devices: a model of {given.size - 1} values to mask, sums of"
        f" {given.fewest_updates} to {given.max_contributors} updates, {groups}, {private}"
        " (`fedbus enrol show`); to change it, edit fed.toml, and `fedbus aggregator check` says"
        " what else"
        f"{_unbounded(given)}"
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is asked for explicitly: by options, else by the file that was given."""

    said: _Tables
    given: Mapping[str, Any]

    def find(self, name: str) -> object:
        where, _, key = name.rpartition(".")
        found = self.said.get(where, {}).get(key)
        return _look(self.given, name) if found is None else found

    def text(self, name: str, default: str) -> str:
        found = self.find(name)
        return found if isinstance(found, str) else default

    def number(self, name: str, default: int) -> int:
        found = self.find(name)
        return found if isinstance(found, int) else default


def _look(table: Mapping[str, Any], name: str) -> object:
    found: object = table
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _begin(source: Path | None) -> tuple[str, Mapping[str, Any]]:
    if source is None:
        text = sample(FED)
        return text, tomllib.loads(text)
    try:
        text = source.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"--from {source}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--from {source}: not TOML: {error}") from None


def _parsed(settings: Sequence[str]) -> _Tables:
    """Return ``table.key=value`` by table; what is no TOML value is text."""
    found: _Tables = {}
    for setting in settings:
        name, equals, value = (part.strip() for part in setting.partition("="))
        where, _, key = name.rpartition(".")
        if not (equals and key and value):
            raise ConfigError(f"--set {setting}: say KEY=VALUE, like robust.attackers=0.1")
        try:
            read = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            read = value
        if not isinstance(read, str | int | float | list):
            raise ConfigError(f"--set {setting}: tables and dates stand in a file: --from FILE")
        if name in _INITS:
            raise ConfigError(f"--set {name}: `fedbus init` decides that; see --host and --port")
        found.setdefault(where, {})[key] = read
    return found


def _sizes(asked: _Asked, scheme: str, mode: str, num_devices: int) -> _Tables:
    """How many updates are summed: enough to hide each, and for groups that can be compared."""
    malicious, noise, _ = defaults(max(num_devices, MIN_COHORT))
    least = 1 if scheme == NONE else malicious + 2
    least = max(least, noise + 1) if scheme == PAIRWISE else least
    group = asked.number("robust.group", 0)
    if scheme != NONE and MIN_GROUPS * group > num_devices:
        raise ConfigError(
            f"groups of {group}: a buffer needs {MIN_GROUPS} of them to compare, so"
            f" {MIN_GROUPS * group} devices at least; there are {num_devices}"
        )
    fewest = max(least, MIN_GROUPS * group)
    usual = min(_GOAL, num_devices)
    if mode == _ROUNDS:
        size = max(fewest, asked.number("task.rounds.size", usual))
        quorum = max(fewest, asked.number("task.rounds.quorum", 0))
        sizes: _Tables = {"task.rounds": {"size": size, "quorum": quorum}}
    else:
        goal = max(fewest, asked.number("task.buffered.goal", usual))
        enough = max(fewest, asked.number("task.buffered.min_contributors", least))
        sizes = {"task.buffered": {"goal": goal, "min_contributors": enough}}
    if group and asked.find("robust.attackers") is None:
        sizes["robust"] = {"attackers": _bearable(group)}
    return sizes


def _bearable(group: int) -> float:
    """Return the part of attackers that a rule on groups of so many can bear, rounded down."""
    most = 1.0 - float((1.0 - MOST_SPOILT) ** (1 / group))
    return min(RobustConfig().attackers, math.floor(_MILLI * most) / _MILLI)


def _private(wishes: Wishes, scheme: str) -> _Tables:
    """What ``[privacy]`` needs, and what it rules out elsewhere."""
    if not wishes.epsilon and not wishes.updates:
        return {}
    if not (wishes.epsilon and wishes.updates):
        raise ConfigError(
            "--epsilon and --updates go together: how much may be learned of a device's data, and"
            " from how many updates in all; the noise follows from both"
        )
    mechanism = CENTRAL if scheme == NONE else DISTRIBUTED
    privacy: dict[str, object] = {
        "mechanism": mechanism,
        "epsilon": wishes.epsilon,
        "updates": wishes.updates,
    }
    tables: _Tables = {"privacy": privacy, "task": {"weigh_by_samples": False}}
    return {**tables, "robust": {"rule": MEAN}} if mechanism == CENTRAL else tables


def _moved(table: Mapping[str, Any], wishes: Wishes) -> _Tables:
    """Files that the source names lie where they did."""
    moved: _Tables = {}
    for name in FILES if wishes.source else ():
        where, _, key = name.rpartition(".")
        found = _look(table, name)
        if wishes.source and where and isinstance(found, str) and found:
            moved.setdefault(where, {})[key] = str((wishes.source.parent / found).absolute())
    return moved


def _merged(*given: Mapping[str, Mapping[str, object]]) -> _Tables:
    """Return all tables as one; what comes later counts."""
    merged: _Tables = {}
    for tables in given:
        for name, table in tables.items():
            merged.setdefault(name, {}).update(table)
    return merged


def _unbounded(given: Parameters) -> str:
    """Say, where nothing compares sums, that nothing bounds an attacker either."""
    if given.group:
        return ""
    scheme = "--scheme seedmask " if given.scheme == PAIRWISE else ""
    group = given.min_contributors
    return (
        f"\nnot bounded: one attacker can spoil a sum; `fedbus init {scheme}--group {group}`, with"
        f" {MIN_GROUPS * group} devices or more, has sums of {group} compared, and each hides a"
        f" device among {group} only"
    )
