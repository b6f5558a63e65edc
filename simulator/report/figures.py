"""What can be read off a run: curves, shares, counts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from simulator.report.bands import Curve
from simulator.result import Point, Result

Quantity = Callable[[Point], float | None]


def accuracy(point: Point) -> float | None:
    """Return the accuracy on all held-out rows."""
    return point.accuracy


def virtual_time(point: Point) -> float:
    """Return when it was measured."""
    return point.at_s


def traffic(point: Point) -> float:
    """Return the bytes that all devices sent and got until then."""
    return float(point.bytes_up + point.bytes_down)


def curve_of(result: Result, quantity: Quantity, *, over: Quantity = virtual_time) -> Curve:
    """Return a quantity over the virtual time, or over another; without what was not measured."""
    pairs = [(over(point), quantity(point)) for point in result.points]
    known = [(x, y) for x, y in pairs if x is not None and y is not None and math.isfinite(y)]
    x, y = zip(*known, strict=True) if known else ((), ())
    return Curve(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))


def slow_accuracy(result: Result) -> Quantity:
    """Return the mean accuracy on the rows of the classes that are slow, at a point."""
    slow = [one.name for one in result.classes if one.is_slow]

    def of(point: Point) -> float | None:
        values = [point.group_accuracy[name] for name in slow if name in point.group_accuracy]
        return sum(values) / len(values) if values else None

    return of


def class_accuracy(name: str) -> Quantity:
    """Return the accuracy on the rows of one class, at a point."""
    return lambda point: point.group_accuracy.get(name)


def jain(counts: Sequence[int]) -> float | None:
    """Return Jain's fairness index: 1 if all counts are alike, 1/n if one of n has all.

    Jain, Chiu, Hawe 1984: (sum x)^2 / (n sum x^2). None where nothing was counted.
    """
    squares = sum(count * count for count in counts)
    return sum(counts) ** 2 / (len(counts) * squares) if squares else None


def fairness(result: Result) -> float | None:
    """Return Jain's index over every device's number of counted updates."""
    return jain([count for one in result.classes for count in one.updates_per_device])


def counted(result: Result) -> int:
    """Return how many updates are in some version."""
    return sum(one.updates_counted for one in result.classes)


def shares(result: Result) -> Mapping[str, tuple[float, float]]:
    """Return by class its share of the devices and its share of the counted updates."""
    num_devices, num_updates = sum(one.num_devices for one in result.classes), counted(result)
    return {
        one.name: (
            one.num_devices / num_devices if num_devices else 0.0,
            one.updates_counted / num_updates if num_updates else 0.0,
        )
        for one in result.classes
    }


def staleness(results: Iterable[Result], name: str | None = None) -> dict[int, int]:
    """Return how many updates of all runs had which staleness, of one class or of all."""
    counts: dict[int, int] = {}
    for result in results:
        for one in result.classes:
            for lateness, count in one.staleness.items() if name in (None, one.name) else ():
                counts[lateness] = counts.get(lateness, 0) + count
    return counts


def total_bytes(result: Result) -> tuple[int, int]:
    """Return what all devices sent, and what they got."""
    return (
        sum(one.bytes_up for one in result.classes),
        sum(one.bytes_down for one in result.classes),
    )


def reached(result: Result, target: float | None) -> Point | None:
    """Return the first point at the target accuracy."""
    if target is None:
        return None
    return next((p for p in result.points if p.accuracy is not None and p.accuracy >= target), None)


def refusals(results: Iterable[Result]) -> dict[str, int]:
    """Return how much was refused in all runs together, by reason, the most frequent first."""
    total: dict[str, int] = {}
    for result in results:
        for reason, count in result.refused.items():
            total[reason] = total.get(reason, 0) + count
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
