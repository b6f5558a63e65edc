"""From a failing history to a small one that fails as well."""

from collections.abc import Callable
from dataclasses import replace

from tests.simulation.history import History


def shrink(history: History, fails: Callable[[History], bool]) -> History:
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


def _without(history: History, size: int, fails: Callable[[History], bool]) -> History | None:
    """Return it without some ``size`` neighbouring operations, or None if none can go."""
    operations = history.operations
    for start in range(0, len(operations), size):
        smaller = replace(history, operations=operations[:start] + operations[start + size :])
        if fails(smaller):
            return smaller
    return None
