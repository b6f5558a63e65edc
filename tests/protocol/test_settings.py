"""Tables become checked settings, or an error that names the key."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from protocol.errors import ConfigError
from protocol.settings import beside, build


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"size must be at least 1, not {self.size}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    ratio: float = 0.5
    on: bool = False
    words: tuple[str, ...] = ()
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    free: Mapping[str, Any] = field(default_factory=dict)


def test_a_full_table_becomes_the_dataclass() -> None:
    table = {"name": "a", "ratio": 1, "on": True, "words": ["b"], "limit": 3, "inner": {"size": 2}}
    built = build(Outer, {**table, "free": {"x": [1]}})
    assert built == Outer(
        name="a",
        ratio=1.0,
        on=True,
        words=("b",),
        limit=3,
        inner=Inner(size=2),
        free={"x": [1]},
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"name: missing"),
        ({"name": 3}, r"name: expected text in quotes"),
        ({"name": "a", "nam": 1}, r"nam: unknown key; did you mean 'name'"),
        ({"name": "a", "on": 1}, r"on: expected true or false"),
        ({"name": "a", "ratio": "x"}, r"ratio: expected a number"),
        ({"name": "a", "ratio": math.inf}, r"ratio: expected a number that is finite"),
        ({"name": "a", "ratio": math.nan}, r"ratio: expected a number that is finite"),
        ({"name": "a", "ratio": 10**400}, r"ratio: expected a number that is finite"),
        ({"name": "a", "limit": True}, r"limit: expected a whole number"),
        ({"name": "a", "words": "b"}, r"words: expected a list"),
        ({"name": "a", "words": [1]}, r"words\[0\]: expected text"),
        ({"name": "a", "inner": 1}, r"inner: expected a table"),
        ({"name": "a", "inner": {"size": 0}}, r"inner: size must be at least 1"),
        ({"name": "a", "inner": {"sise": 1}}, r"inner\.sise: unknown key; did you mean 'size'"),
    ],
)
def test_a_wrong_table_names_the_key_and_the_mend(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Outer, table)


def test_files_are_looked_for_beside_the_settings() -> None:
    table = {"dir": "state", "inner": {"file": "a/b", "none": "", "root": "/c"}, "other": "d"}
    keys = ["dir", "inner.file", "inner.none", "inner.root", "inner.missing", "nowhere.file"]
    assert beside(table, keys, lambda name: f"farm/{name}") == {
        "dir": "farm/state",
        "inner": {"file": "farm/a/b", "none": "", "root": "farm//c"},
        "other": "d",
    }


def test_what_is_no_text_stays_for_the_check_to_refuse() -> None:
    table = {"name": 3, "inner": 4}
    assert beside(table, ["name", "inner.file"], str.upper) == table
