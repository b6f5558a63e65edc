"""Fill values into a commented TOML file, line by line, so that its comments stay."""

import json
import re
from collections.abc import Mapping
from typing import Final

from protocol.errors import ConfigError

_TABLE: Final = re.compile(r"\[([a-z._]+)\]")
_KEY: Final = re.compile(r"(?:# )?(\w+) = ([^#]*?)(\s*#.*)?")

Values = Mapping[str, Mapping[str, object]]


def fill(text: str, values: Values) -> str:
    """Return ``text`` with values set by table ("" is the top), where a line has the key.

    A line may be commented out: then it is in force. Raises ConfigError for a key without a line.
    """
    missing = {(table, key) for table, keys in values.items() for key in keys}
    lines, table = [], ""
    for line in text.splitlines():
        if (opened := _TABLE.match(line)) is not None:
            table = opened[1]
        found = _KEY.fullmatch(line)
        if found is None or (table, found[1]) not in missing:
            lines.append(line)
            continue
        missing.remove((table, found[1]))
        set_to = f"{found[1]} = {_toml(values[table][found[1]])}"
        comment = (found[3] or "").strip()
        lines.append(f"{set_to:<35} {comment}".rstrip())
    if missing:
        table, key = min(missing)
        raise ConfigError(f"no line for {key} in [{table}]: add it to the file")
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """JSON's spelling of text, numbers and flags is TOML's."""
    return json.dumps(value, ensure_ascii=False)
