"""Figures as a person reads them, the same wherever they are shown."""

from collections.abc import Mapping
from typing import Final

from fedbus.view import Report, count, printable, table

_KILO: Final = 1000


def human_bytes(num_bytes: float) -> str:
    """Return a size with three digits or so: 812 B, 1.48 kB, 12.9 MB."""
    size, units = float(num_bytes), ["B", "kB", "MB", "GB", "TB"]
    while round(size) >= _KILO and len(units) > 1:
        size /= _KILO
        units.pop(0)
    return f"{size:.0f} B" if units[0] == "B" else f"{size:.3g} {units[0]}"


def refusals(metrics: Report) -> Mapping[str, int]:
    """Return how many updates and messages were refused, by reason, the most frequent first."""
    refused = table(metrics, "refused")
    counted = {printable(reason): count(refused, reason) for reason in refused}
    return dict(sorted(counted.items(), key=lambda item: -item[1]))


def accuracy_text(accuracy: float | None) -> str:
    """Return an accuracy as a person reads it."""
    return "not yet known" if accuracy is None else f"{accuracy:.3f}"
