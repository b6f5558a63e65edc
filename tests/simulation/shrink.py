"""From a failing history to a small one that fails as well."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tests.simulation.history import History
from tests.simulation.secure_history import SecureHistory

H = TypeVar("H", History, SecureHistory)


def shrink(history: H, fails: Callable[[H], bool]) -> H:
    """Leave out operations, many at once and then one by one, as long as it still ``fails``."""
    size = max(1, len(history.operations) // 2)
    while True:
        smaller = _without(history, size, fails)
        if smaller is None and size == 1:
            return history
        if smaller is None:
            size = max(1, size // 2)
        else:
            history = smaller


def _without(history: H, size: int, fails: Callable[[H], bool]) -> H | None:
    """Return it without some ``size`` neighbouring operations, or None if none can go."""
    operations = history.operations
    for start in range(0, len(operations), size):
        smaller = replace(history, operations=operations[:start] + operations[start + size :])
        if fails(smaller):
            return smaller
    return None
