"""Whose updates weigh how much, so that fast devices do not outvote slow ones."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessConfig:
    """How fast and slow devices are balanced. docs/fleets.md says when to change it."""
