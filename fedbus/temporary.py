"""A folder for as long as a command runs; what a killed one has left, the next one takes away."""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

#: Locked while the command runs. A folder without it is not touched.
LOCK: Final = "lock"
#: Whoever has made a folder has locked it by then.
SETTLED_S: Final = 60.0


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a folder among the temporary ones that ends with the context.

    First those of this prefix are deleted that are this user's and whose command is gone.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # in use, or not to be deleted by us
            _delete_if_left(folder)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        with (folder / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder


def _delete_if_left(folder: Path) -> None:
    """Raise OSError for a folder that is in use, or that no `temporary_folder` has made."""
    status = folder.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not is_ours or time.time() < status.st_mtime + SETTLED_S:
        return
    with (folder / LOCK).open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
