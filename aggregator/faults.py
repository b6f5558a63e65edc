"""The boundaries of the store, by name, so that a test can kill the process exactly there."""

from typing import Final

#: In the order in which a commit reaches them; the journal's are reached when it has payloads.
FAULT_POINTS: Final = (
    "journal:created",  # a new segment file exists; its folder is not synced yet
    "journal:appended",  # payloads are written; not synced yet
    "journal:synced",  # payloads are durable; no row names them yet
    "sql:before_commit",  # every row is written; nothing is committed
    "sql:after_commit",  # the commit is durable; the caller does not know yet
    "segment:deleted",  # a segment nobody needs is gone; others may still be there
)


def no_fault(_point: str) -> None:
    """Go on: what the service does at every fault point."""
