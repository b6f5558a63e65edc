"""Files of keys: made once, never overwritten, secrets readable by their owner alone."""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError
from protocol.messages import KEY_BYTES

SECRET: Final = 0o600
PUBLIC: Final = 0o644


def create(path: Path, data: bytes, mode: int) -> None:
    """Write a file that does not exist yet, durably. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def create_key(path: Path, key: bytes, mode: int) -> None:
    """Write a key as one line of hex. Raises OSError."""
    create(path, key.hex().encode() + b"\n", mode)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that all may read, whole or not at all, whatever was there. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    create(partial, data, PUBLIC)
    partial.replace(path)


def refuse_existing(paths: Iterable[Path]) -> None:
    """Raise ConfigError for the first of ``paths`` that exists."""
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} exists, and is never overwritten")


def read_secret(path: Path) -> bytes:
    """Read a secret key that nobody else may read. Raises ConfigError that names the file."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: others may read this secret: chmod 600 it")
    return read_key(path)


def read_key(path: Path) -> bytes:
    """Read a key in hex. Raises ConfigError that names the file and shows nothing of it."""
    try:
        return parse_key(path.read_text(encoding="ascii"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ConfigError, UnicodeDecodeError):
        raise ConfigError(f"{path}: expected {KEY_BYTES} bytes in hex") from None


def parse_key(text: str) -> bytes:
    """Return the key that hex digits spell. Raises ConfigError."""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"expected {KEY_BYTES} bytes in hex")
    return key
