"""Models that come with the SDK, as spec files beside this one. Copy one, or ask for it by name."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from protocol.errors import ConfigError

_FOLDER = Path(__file__).parent


def spec_names() -> tuple[str, ...]:
    """The names of all specs that come with the SDK."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def named_spec(name: str) -> Mapping[str, object]:
    """The spec of that name, for `parse_spec`. Raises ConfigError if there is none."""
    if name not in spec_names():
        raise ConfigError(f"model {name!r} is none of {', '.join(spec_names())}")
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
