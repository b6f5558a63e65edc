"""``requirements/dev.lock`` pins, by hash, everything that the dev environment asks for."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parent.parent
LOCK: Final = ROOT / "requirements" / "dev.lock"


def pinned() -> dict[str, list[str]]:
    """Return the versions of each package in the lock file."""
    found: dict[str, list[str]] = {}
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line[:1].isalnum():
            requirement = Requirement(line.rstrip(" \\"))
            (only,) = requirement.specifier
            assert only.operator == "==", line
            found.setdefault(canonicalize_name(requirement.name), []).append(only.version)
    return found


def asked(project: dict[str, Any], extra: str) -> Iterator[Requirement]:
    """Yield what an extra asks for, and the extras that it names."""
    for text in project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name != project["name"]:
            yield requirement
        for other in requirement.extras if requirement.name == project["name"] else ():
            yield from asked(project, other)


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return dict(table["project"])


def test_the_lock_file_fits_what_the_project_asks_for() -> None:
    found, given = pinned(), project()
    wanted = [*map(Requirement, given["dependencies"]), *asked(given, "dev")]
    assert len(wanted) > 10
    for requirement in wanted:
        versions = found.get(canonicalize_name(requirement.name), [])
        fits = [each for each in versions if requirement.specifier.contains(each)]
        if not fits:
            pytest.fail(f"{requirement} is not in {LOCK.name}: run make lock")


def test_every_pin_has_its_hashes_and_none_names_a_place() -> None:
    text = LOCK.read_text(encoding="utf-8")
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", text) if entry[0].isalnum()]
    assert len(entries) == sum(map(len, pinned().values()))
    for entry in entries:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "://" not in text
    assert "--index" not in text
