"""Fill values into a commented TOML file, line by line, so that its comments stay."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from protocol.errors import ConfigError

_TABLE: Final = re.compile(r"\[([\w.-]+)\]")
_KEY: Final = re.compile(r"(# )?(\w+)\s*=\s*([^#]*?)(\s*#.*)?")

Values = Mapping[str, Mapping[str, object]]


class _Line(NamedTuple):
    """A line of the file; ``key`` is empty where it has none, in force or commented out."""

    text: str
    table: str
    key: str = ""
    in_force: bool = False
    value: str = ""
    comment: str = ""

    @property
    def names(self) -> tuple[str, str]:
        return self.table, self.key


def fill(text: str, values: Values) -> str:
    """Return ``text`` with values set by table ("" is the top), where a line has the key.

    A line may be commented out, where none is in force: then it is. Raises ConfigError for a key
    without a line, or whose value goes over several.
    """
    lines = list(_lines(text))
    in_force = {line.names for line in lines if line.in_force}
    missing = {(table, key) for table, keys in values.items() for key in keys}
    filled = []
    for line in lines:
        is_its = line.in_force or line.names not in in_force
        if not (is_its and line.names in missing):
            filled.append(line.text)
            continue
        missing.remove(line.names)
        _check_whole(line)
        set_to = f"{line.key} = {_toml(values[line.table][line.key])}"
        filled.append(f"{set_to:<35} {line.comment}".rstrip())
    if missing:
        table, key = min(missing)
        raise ConfigError(f"no line for {key} in [{table}]: add it to the file")
    return "\n".join(filled) + "\n"


def with_lines(text: str, values: Values) -> str:
    """Return ``text`` with a line, commented out, for every key of ``values`` that has none."""
    lines = list(_lines(text))
    known, tables = {line.names for line in lines}, {line.table for line in lines}
    added = {
        table: [f"# {key} = 0" for key in keys if (table, key) not in known]
        for table, keys in values.items()
    }
    out = added.pop("", [])
    for line in lines:
        out.append(line.text)
        if _TABLE.match(line.text):
            out += added.pop(line.table, [])
    for table, keys in added.items():
        out += [*([] if table in tables else ["", f"[{table}]"]), *keys]
    return "\n".join(out) + "\n"


def _lines(text: str) -> Iterator[_Line]:
    table = ""
    for line in text.splitlines():
        if (opened := _TABLE.match(line)) is not None:
            table = opened[1]
        found = _KEY.fullmatch(line)
        if found is None:
            yield _Line(line, table)
        else:
            comment = (found[4] or "").strip()
            yield _Line(line, table, found[2], found[1] is None, found[3], comment)


def _check_whole(line: _Line) -> None:
    """Refuse to replace the first line of a value that goes on on the next."""
    try:
        tomllib.loads(f"value = {line.value}")
    except tomllib.TOMLDecodeError:
        if line.in_force:
            where = f"{line.table}.{line.key}".removeprefix(".")
            raise ConfigError(
                f"{where}: its value goes over several lines: change it there (`--from FILE`)"
            ) from None


def _toml(value: object) -> str:
    """JSON's spelling of text, numbers and flags is TOML's."""
    return json.dumps(value, ensure_ascii=False)
