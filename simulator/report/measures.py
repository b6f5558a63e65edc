"""The numbers of a report, each with its name, its meaning and how it is said."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from simulator.report import figures, wording
from simulator.report.bands import Interval, interval, late_mean
from simulator.report.runs import Report, Runs
from simulator.result import Result


@dataclass(frozen=True, slots=True)
class Measure:
    """One number about a run. ``of`` gets the run and the report's target; None: not to be had."""

    key: str
    title: str
    about: str
    of: Callable[[Result, float | None], float | None]
    say: Callable[[float], str]
    #: Whether more is better (1), worse (-1), or neither (0).
    better: int = 0


def _mean_staleness(result: Result, _target: float | None) -> float | None:
    counts = figures.staleness([result])
    total = sum(counts.values())
    return sum(key * count for key, count in counts.items()) / total if total else None


def _per_update(result: Result, num_bytes: int) -> float | None:
    return num_bytes / figures.counted(result) if figures.counted(result) else None


def _rate(result: Result, _target: float | None) -> float | None:
    return result.num_events / result.wall_s if result.wall_s > 0 else None


def _event_us(result: Result, _target: float | None) -> float | None:
    return 1e6 * result.wall_s / result.num_events if result.num_events else None


def _time_to(result: Result, target: float | None) -> float | None:
    point = figures.reached(result, target)
    return None if point is None else point.at_s


def _bytes_to(result: Result, target: float | None) -> float | None:
    point = figures.reached(result, target)
    return None if point is None else figures.traffic(point)


def _late(result: Result, quantity: figures.Quantity) -> float | None:
    return late_mean(figures.curve_of(result, quantity), result.virtual_s)


ACCURACY: Final = Measure(
    "accuracy",
    "Accuracy",
    "on held-out rows, mean of the last fifth of the time",
    lambda result, _: _late(result, figures.accuracy),
    wording.ratio,
    1,
)
SLOW_ACCURACY: Final = Measure(
    "slow_accuracy",
    "Accuracy on slow classes",
    "held-out rows of the slow device classes, mean of the last fifth of the time",
    lambda result, _: _late(result, figures.slow_accuracy(result)),
    wording.ratio,
    1,
)
TIME_TO_TARGET: Final = Measure(
    "time_to_target_s",
    "Time to target",
    "virtual time until a version had the target accuracy",
    _time_to,
    wording.duration,
    -1,
)
BYTES_TO_TARGET: Final = Measure(
    "bytes_to_target",
    "Bytes to target",
    "up and down, all devices, until a version had the target accuracy",
    _bytes_to,
    wording.size,
    -1,
)
FAIRNESS: Final = Measure(
    "fairness",
    "Fairness",
    "Jain's index over the devices' counted updates: 1 if all have as many, 1/n if one has all",
    lambda result, _: figures.fairness(result),
    wording.ratio,
    1,
)
EVENT_US: Final = Measure(
    "event_us",
    "Time per event",
    "wall time, microseconds",
    _event_us,
    lambda us: f"{us:.3g} µs",
    -1,
)
EVENTS_PER_S: Final = Measure(
    "events_per_s", "Events per second", "of wall time", _rate, wording.whole, 1
)
MEMORY: Final = Measure(
    "peak_rss_bytes",
    "Memory",
    "largest resident size of the process until then, its earlier runs included",
    lambda result, _: float(result.peak_rss_bytes) or None,
    wording.size,
)
DEVICES: Final = Measure(
    "devices",
    "Devices",
    "in the fleet",
    lambda result, _: sum(one.num_devices for one in result.classes),
    wording.whole,
)
LEARNING: Final = (ACCURACY, SLOW_ACCURACY, TIME_TO_TARGET, BYTES_TO_TARGET)
PROTOCOL: Final = (
    Measure(
        "versions",
        "Model versions",
        "steps of the aggregator",
        lambda result, _: max((point.version for point in result.points), default=0),
        wording.whole,
    ),
    Measure(
        "updates",
        "Updates counted",
        "each in exactly one version",
        lambda result, _: figures.counted(result),
        wording.whole,
    ),
    Measure(
        "refused",
        "Refusals",
        "each with its reason, below",
        lambda result, _: sum(result.refused.values()),
        wording.whole,
        -1,
    ),
    Measure(
        "staleness",
        "Mean staleness",
        "of counted updates, in versions",
        _mean_staleness,
        lambda mean: f"{mean:.2f}",
        -1,
    ),
    FAIRNESS,
    Measure(
        "bytes_up_per_update",
        "Bytes up per update",
        "of all messages, by counted update",
        lambda result, _: _per_update(result, figures.total_bytes(result)[0]),
        wording.size,
        -1,
    ),
    Measure(
        "bytes_down_per_update",
        "Bytes down per update",
        "of all messages, by counted update",
        lambda result, _: _per_update(result, figures.total_bytes(result)[1]),
        wording.size,
        -1,
    ),
    Measure(
        "reconnects",
        "Reconnects",
        "connections after a device's first: lost links, reboots, hours away",
        lambda result, _: sum(one.reconnects for one in result.classes),
        wording.whole,
        -1,
    ),
)
SCALE: Final = (
    DEVICES,
    Measure("events", "Events", "in the queue", lambda result, _: result.num_events, wording.whole),
    EVENTS_PER_S,
    EVENT_US,
    MEMORY,
    Measure("wall_s", "Wall time", "on this machine", lambda r, _: r.wall_s, wording.duration, -1),
    Measure("virtual_s", "Virtual time", "", lambda r, _: r.virtual_s, wording.duration),
)


def of_report(report: Report) -> tuple[Measure, ...]:
    """Return what this report has figures of."""
    wanted = (*LEARNING, *PROTOCOL, *SCALE) if report.learned else (*SCALE, *PROTOCOL)
    return tuple(one for one in wanted if any(values(report, runs, one) for runs in report.runs))


def values(report: Report, runs: Runs, measure: Measure) -> dict[int, float]:
    """Return one measure by seed, of the seeds that have it."""
    found = ((result.seed, measure.of(result, report.target)) for result in runs.results)
    return {seed: float(value) for seed, value in found if value is not None}


def overall(report: Report, runs: Runs, measure: Measure) -> Interval | None:
    """Return one measure's mean over the seeds that have it."""
    return interval(list(values(report, runs, measure).values()))


def difference(report: Report, runs: Runs, measure: Measure) -> Interval | None:
    """Return how much more it is than under the first runs, pair by pair of equal seeds."""
    first, own = values(report, report.runs[0], measure), values(report, runs, measure)
    return interval([own[seed] - first[seed] for seed in sorted(own.keys() & first.keys())])


def summary(report: Report) -> list[Mapping[str, object]]:
    """Return every figure of every runs, with half widths of 95 % intervals and differences."""
    return [
        {
            "name": runs.name,
            "seeds": [result.seed for result in runs.results],
            **{
                one.key: {
                    **_of_interval(overall(report, runs, one)),
                    "less_first": _of_interval(difference(report, runs, one)),
                }
                for one in of_report(report)
            },
        }
        for runs in report.runs
    ]


def _of_interval(found: Interval | None) -> dict[str, object]:
    if found is None:
        return {"mean": None, "half_width": None, "num_seeds": 0}
    return {"mean": found.mean, "half_width": found.half_width, "num_seeds": found.num}
