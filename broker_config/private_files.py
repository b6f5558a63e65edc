"""Files that are made once, or replaced in one step; secrets readable by their owner alone."""

import os
from pathlib import Path
from typing import Final

SECRET: Final = 0o600
PUBLIC: Final = 0o644


def create(path: Path, data: bytes, mode: int = SECRET) -> None:
    """Write a file that does not exist yet, durably. Raises OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes, mode: int = SECRET) -> None:
    """Write a file in one step: at any time the old one is there as a whole, or the new one."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    create(new, data, mode)
    new.replace(path)
