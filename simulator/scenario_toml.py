"""TOML that knows its lines: a mistake is told with file, line and key.

`tomllib` reads the values and says nothing of where they stood. What it accepts is scanned once
more here, for keys only: tables, arrays of tables, dotted keys, inline tables, many-line strings.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from protocol.errors import ConfigError

#: Where a value stands: keys, and places in arrays.
KeyPath = tuple[str | int, ...]

_TOKEN: Final = re.compile(
    r"""
      (?P<blank> [ \t\r]+ | \#[^\n]* )
    | (?P<newline> \n )
    | (?P<text> \"{3} (?: \\. | [^\\] )*? \"{3,5} | '{3} .*? '{3,5}
              | " (?: \\. | [^"\\] )* " | '[^']*' )
    | (?P<bare> [A-Za-z0-9_+:-]+ )
    | (?P<mark> [\[\]{}=,.] )
    """,
    re.VERBOSE | re.DOTALL,
)
#: How messages name a key: `class[1].link.loss`.
_NAMED: Final = re.compile(r"[\w-]+(?:\[\d+\])*(?:\.[\w-]+(?:\[\d+\])*)*")
_STEP: Final = re.compile(r"[\w-]+|(?<=\[)\d+(?=\])")


@dataclass(frozen=True, slots=True)
class Source:
    """A file's content: its ``table``, and the line (from 1) on which each key stands."""

    path: Path
    table: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def error(self, problem: str) -> ConfigError:
        """Return an error that says file and line of the key that ``problem`` begins with."""
        line = self._line(problem)
        where = f"{self.path}:{line}" if line else f"{self.path}"
        return ConfigError(f"{where}: {problem}")

    def _line(self, problem: str) -> int:
        """Return the line of the innermost key that is named, and there; 0: none is.

        What follows a table's name may go on with its keys: ``task: model: loss: 'mse' is none``,
        or with a key of another table: ``secure: robust.group: groups are for masked updates``.
        """
        path: KeyPath = ()
        for part in problem.split(": "):
            named = _NAMED.match(part)
            keys = _path(named[0]) if named else ()
            longer = self._innermost(path, keys)
            if longer == path and len(keys) > 1:
                longer = self._innermost((), keys) or path
            if longer == path:
                break
            path = longer
        return self.lines.get(path, 0)

    def _innermost(self, table: KeyPath, keys: KeyPath) -> KeyPath:
        """Return the longest path from ``table`` along ``keys`` that is there."""
        path = (*table, *keys)
        while path not in self.lines and len(path) > len(table):
            path = path[:-1]
        return path


def read_source(path: Path) -> Source:
    """Read a TOML file. Raises ConfigError that names the file."""
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    return Source(path, table, key_lines(text))


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line of each key, table and element in what `tomllib` takes for TOML."""
    return _Scanner(text).scan()


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


class _Scanner:
    """Follows the grammar just closely enough to know which key it stands in."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0
        self._lines: dict[KeyPath, int] = {}
        self._lengths: dict[KeyPath, int] = {}  # of arrays of tables

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip_newlines():
            if self._takes("["):
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _header(self) -> KeyPath:
        is_array = self._takes("[")
        line = self._tokens[self._next].line
        *parents, last = self._key()
        path: KeyPath = ()
        for parent in parents:
            path = self._newest((*path, parent))
            self._lines.setdefault(path, line)
        path = (*path, last)
        if is_array:
            self._lengths[path] = self._lengths.get(path, 0) + 1
            self._lines.setdefault(path, line)
            path = self._newest(path)
        self._lines.setdefault(path, line)
        self._takes("]")
        self._takes("]")
        return path

    def _newest(self, path: KeyPath) -> KeyPath:
        """Return a table's path; of an array of tables, that of its newest one."""
        return (*path, self._lengths[path] - 1) if path in self._lengths else path

    def _pair(self, table: KeyPath) -> None:
        line = self._tokens[self._next].line
        path = table
        for part in self._key():
            path = (*path, part)
            self._lines.setdefault(path, line)
        self._takes("=")
        self._value(path)

    def _key(self) -> list[str]:
        parts = [_unquoted(self._take())]
        while self._takes("."):
            parts.append(_unquoted(self._take()))
        return parts

    def _value(self, path: KeyPath) -> None:
        if self._takes("{"):
            while self._skip_newlines() and not self._takes("}"):
                self._pair(path)
                self._skip_newlines()
                self._takes(",")
        elif self._takes("["):
            index = 0
            while self._skip_newlines() and not self._takes("]"):
                self._lines[(*path, index)] = self._tokens[self._next].line
                self._value((*path, index))
                index += 1
                self._skip_newlines()
                self._takes(",")
        else:
            self._scalar()

    def _scalar(self) -> None:
        """Pass over a text, a number (two words with a point), or a date (two words)."""
        self._take()
        while self._next < len(self._tokens):
            token = self._tokens[self._next]
            if token.kind != "bare" and token.text != ".":
                return
            self._next += 1

    def _skip_newlines(self) -> bool:
        """Return whether there is more."""
        while self._next < len(self._tokens) and self._tokens[self._next].kind == "newline":
            self._next += 1
        return self._next < len(self._tokens)

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def _takes(self, mark: str) -> bool:
        if self._next < len(self._tokens) and self._tokens[self._next][:2] == ("mark", mark):
            self._next += 1
            return True
        return False


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind != "blank":
            yield _Token(kind, match[0], line)
        line += match[0].count("\n")


def _unquoted(token: _Token) -> str:
    """Return a key's text. Escapes stay: no key of ours has any."""
    return token.text[1:-1] if token.kind == "text" else token.text


def _path(named: str) -> KeyPath:
    return tuple(int(step) if step.isdecimal() else step for step in _STEP.findall(named))
