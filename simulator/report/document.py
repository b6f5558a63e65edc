"""A report as JSON, there and back. What is not finite (a run that diverged) becomes null."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Final, Union, get_args, get_origin, get_type_hints

from protocol.errors import ConfigError
from simulator.report.measures import summary
from simulator.report.runs import Report

#: Of the document. A reader refuses what it does not know.
FORMAT: Final = 1


def to_json(report: Report) -> bytes:
    """Return the report as a JSON document; ``figures`` in it are for readers, and derived."""
    document = {"format": FORMAT, "report": _plain(report), "figures": _plain(summary(report))}
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def from_json(data: bytes) -> Report:
    """Return the report that `to_json` wrote. Raises ConfigError, which says where it differs."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ConfigError(f"the report is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ConfigError(f'the report has no "format": {FORMAT}: another version wrote it')
    report = _read(Report, document.get("report"), "report")
    if not isinstance(report, Report) or not all(one.results for one in report.runs):
        raise ConfigError("the report has no results")
    return report


def _plain(value: object) -> object:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(held) for held in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read(kind: object, value: object, where: str) -> object:
    """Return ``value`` as ``kind``: a dataclass, a tuple, a mapping, or a plain value or None."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _read_object(kind, value, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (UnionType, Union):
        return None if value is None else _read(_something(inner), value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(inner[0], held, f"{where}[{i}]") for i, held in enumerate(value))
    if origin is Mapping and isinstance(value, dict):
        return {
            _read_key(inner[0], key, where): _read(inner[1], held, f"{where}.{key}")
            for key, held in value.items()
        }
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    raise ConfigError(f"{where}: {value!r:.40} is no {getattr(kind, '__name__', kind)}")


def _read_object(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: an object is needed, not {value!r:.40}")
    hints = get_type_hints(kind)
    unknown = value.keys() - hints.keys()
    if unknown:
        raise ConfigError(f"{where}: unknown key {min(unknown)!r}")
    read = {key: _read(hints[key], held, f"{where}.{key}") for key, held in value.items()}
    try:
        return kind(**read)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def _read_key(kind: object, key: str, where: str) -> object:
    if kind is not int:
        return key
    try:
        return int(key)
    except ValueError:
        raise ConfigError(f"{where}: {key!r:.40} is no whole number") from None


def _something(kinds: tuple[object, ...]) -> object:
    """Return what a value is when it is there."""
    return next(kind for kind in kinds if kind is not NoneType)
