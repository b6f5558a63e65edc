"""What can go wrong with the store, as sentences that say what to do."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import exc

from protocol.errors import LocalProtocolError


class StoreError(Exception):
    """The store cannot keep or give back what it should; the message says what to do.

    After one, nothing of the failed commit may be relied on, neither that it is kept nor that it
    is not: close the store, open it again and go on from its snapshot.
    """


class NoStoreError(StoreError):
    """There is no store yet: no aggregator ever ran this task there."""


_FULL: Final = "the disk is full: free some space, then start again"
_OS_ADVICE: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is used up: free some space, then start again",
    errno.EFBIG: "the file may not grow any more: raise the limit (ulimit -f), then start again",
    errno.EACCES: "no permission: let the aggregator's user read and write it",
    errno.EPERM: "no permission: let the aggregator's user read and write it",
    errno.EROFS: "the file system is read-only: put the store on a writable one",
    errno.EIO: "the disk reports an error: check it, then start again",
}
_SQLITE_ADVICE: Final = {
    "SQLITE_FULL": _FULL,
    "SQLITE_BUSY": "another program holds the database locked: close it, then start again",
    "SQLITE_LOCKED": "another program holds the database locked: close it, then start again",
    "SQLITE_CANTOPEN": "the database cannot be opened: check that its folder is writable",
    "SQLITE_READONLY": "the database is read-only: let the aggregator's user write it",
    "SQLITE_NOTADB": "this file is no SQLite database: move it away or restore a copy",
    "SQLITE_CORRUPT": "the database is damaged: restore a copy",
    "SQLITE_IOERR": "the disk refused a read or write (full, over a limit, or failing): "
    "make room or check it, then start again",
}


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn errors of the disk and the database into StoreError; ``where`` names the store.

    A broken constraint (an id given or journalled twice) is our own bug: LocalProtocolError.
    """
    try:
        yield
    except exc.IntegrityError as error:
        raise LocalProtocolError(f"{where}: {error.orig}") from error
    except exc.DBAPIError as error:
        raise StoreError(f"{where}: {_database_advice(error.orig)}") from error
    except OSError as error:
        advice = _OS_ADVICE.get(error.errno or 0, "check the disk, then start again")
        raise StoreError(f"{error.filename or where}: {advice} ({error.strerror})") from error


def _database_advice(error: BaseException | None) -> str:
    if not isinstance(error, sqlite3.Error):
        return f"the database failed; check it, then start again ({error})"
    name = getattr(error, "sqlite_errorname", "")  # absent where the driver itself complains
    for prefix, advice in _SQLITE_ADVICE.items():
        if name.startswith(prefix):
            return f"{advice} ({error})"
    return f"the database failed; check it, then start again ({error})"
