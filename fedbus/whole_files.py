"""Files that a command writes at its end: refused at its beginning, and written whole or not."""

import os
from pathlib import Path

from protocol.errors import ConfigError


def check_file(path: Path, option: str) -> None:
    """See now whether a file can be written later. Raises ConfigError that names the option."""
    folder = path.absolute().parent
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder; name a file")
    if not folder.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} {path}: nothing may be written to {folder}")


def write_whole(path: Path, data: bytes) -> None:
    """Write all of the file or nothing. Raises ConfigError."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigError(f"{path}: {error.strerror}") from None
