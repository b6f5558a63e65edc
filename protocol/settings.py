"""Settings: a table (as TOML gives it) becomes a frozen dataclass, checked key by key.

Used for configuration files and for the plan's ``training`` object. Pure: reading the file is the
caller's.
"""

import dataclasses
import sys
import types
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from protocol.errors import ConfigError

S = TypeVar("S")


def build(cls: type[S], table: Mapping[str, Any], where: str = "") -> S:
    """Return ``cls`` built from ``table``; nested dataclasses from nested tables.

    ``where`` is the table's own name in messages. Raises ConfigError for an unknown key, a missing
    one, a value of another type, or whatever ``cls`` itself refuses.
    """
    hints = hints_of(cls)  # type: ignore[arg-type] # classes are hashable, which typing cannot say
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type] # S is a dataclass, which typing cannot say
    refuse_unknown(table, known, where)
    values: dict[str, Any] = {}
    for name, field in known.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], _path(where, name))
        elif _is_required(field):
            raise ConfigError(f"{_path(where, name)}: missing; set it")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


@cache
def hints_of(cls: Hashable) -> Mapping[str, Any]:
    """Return the types of a class's fields: reading annotations takes longer than all the rest."""
    return get_type_hints(cls)


def refuse_unknown(table: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    """Raise ConfigError for a key that is none of ``known``, saying which it may be."""
    names = list(known)
    for key in table:
        if key not in names:
            raise ConfigError(f"{_path(where, key)}: unknown key{_nearest(key, names)}")


@contextmanager
def told_as(key: str) -> Iterator[None]:
    """Put the key that is at fault in front of a ConfigError that does not begin with it."""
    try:
        yield
    except ConfigError as error:
        told = str(error)
        raise ConfigError(told if told.startswith(key) else f"{key}: {told}") from None


def refuse_moved(table: Mapping[str, Any], moved: Mapping[str, str]) -> None:
    """Raise ConfigError for a key ``"table.key"`` of old, saying where it stands now."""
    for old, new in moved.items():
        name, _, key = old.partition(".")
        given = table.get(name)
        if isinstance(given, dict) and key in given:
            raise ConfigError(f"{old}: it stands in {new} now")


def beside(
    table: Mapping[str, Any], keys: Iterable[str], found_at: Callable[[str], str]
) -> dict[str, Any]:
    """Return ``table`` with the files that ``keys`` name where ``found_at`` says they are.

    A key is ``"key"`` at the top or ``"table.key"``. Files are looked for beside the settings' own,
    so that it does not matter from where a command is started. What is empty stays empty.
    """
    placed = dict(table)
    for name in keys:
        where, _, key = name.rpartition(".")
        inner = placed.get(where) if where else placed
        if isinstance(inner, dict) and isinstance(inner.get(key), str) and inner[key]:
            changed = {**inner, key: found_at(inner[key])}
            placed = {**placed, where: changed} if where else changed
    return placed


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _nearest(key: str, known: list[str]) -> str:
    import difflib  # noqa: PLC0415 - only for a mistake, and devices start without it

    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - TOML holds anything
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(option for option in get_args(hint) if option is not type(None))
    if dataclasses.is_dataclass(hint):
        return build(hint, _check(value, dict, where), where)  # type: ignore[arg-type] # a class here
    if get_origin(hint) is tuple:
        items = _check(value, list, where)
        kind = get_args(hint)[0]
        return tuple(_convert(kind, item, f"{where}[{at}]") for at, item in enumerate(items))
    # Written so that NaN is refused, and a whole number that no float can hold.
    if hint is float and type(value) in (int, float) and not abs(value) <= sys.float_info.max:
        raise ConfigError(f"{where}: expected a number that is finite and below 1e308")
    if hint is float and type(value) is int:
        return float(value)
    return _check(value, get_origin(hint) or hint, where)


def _check(value: Any, kind: Any, where: str) -> Any:  # noqa: ANN401
    if kind is Mapping or getattr(kind, "__name__", "") == "Mapping":
        kind = dict
    if kind is not object and type(value) is not kind:
        raise ConfigError(f"{where}: expected {_NAMES.get(kind, kind)}, not {value!r}")
    return value


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: 'text in quotes ("...")',
    bool: "true or false",
    dict: "a table",
    list: "a list",
}
