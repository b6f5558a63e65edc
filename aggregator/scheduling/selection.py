"""Who of the waiting devices gets a lease."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionConfig:
    """How devices are chosen. docs/fleets.md says when to change it."""
