"""What stands in the tables of a report, on the page and in the terminal alike."""

from dataclasses import dataclass
from statistics import median
from typing import Final

from simulator.report import measures, wording
from simulator.report.bands import CONFIDENCE, Interval
from simulator.report.measures import BYTES_TO_TARGET, TIME_TO_TARGET, Measure
from simulator.report.runs import Report, Runs
from simulator.result import FAILED, Result

NOTHING: Final = "-"
_ENDED: Final = {
    "duration": "the time was up",
    "target": "the target was reached",
    "updates": "as many updates were counted as were asked for",
}
_TO_TARGET: Final = frozenset({TIME_TO_TARGET.key, BYTES_TO_TARGET.key})


@dataclass(frozen=True, slots=True)
class Difference:
    """How much more one measure is than under the first runs; ``verdict`` is better, worse or ''.

    A verdict is given only where all seeds have the measure and the interval does not contain 0.
    """

    text: str
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One measure: its words, a value for each of the runs, a difference for all but the first."""

    measure: Measure
    values: tuple[str, ...]
    differences: tuple[Difference, ...]


def rows(report: Report) -> list[Row]:
    """Return every figure that this report has."""
    return [
        Row(
            measure,
            tuple(value_text(report, runs, measure) for runs in report.runs),
            tuple(_difference(report, runs, measure) for runs in report.runs[1:]),
        )
        for measure in measures.of_report(report)
    ]


def value_text(report: Report, runs: Runs, measure: Measure) -> str:
    """Return the mean of all seeds and its half width, or what can be said with fewer."""
    found, num = measures.values(report, runs, measure), len(runs.results)
    if measure.key in _TO_TARGET and len(found) < num:
        return _seldom_reached(list(found.values()), num, measure)
    held = measures.overall(report, runs, measure)
    return NOTHING if held is None else _with_half_width(measure, held)


def about_text(report: Report, measure: Measure) -> str:
    """Return what a measure means, in this report."""
    target = f" of {report.target:g}" if measure.key in _TO_TARGET else ""
    return measure.about + target


def interval_words(report: Report) -> str:
    """Say what follows a ± in the tables; empty where nothing does."""
    most = max(len(runs.results) for runs in report.runs)
    if most == 1:
        return ""
    words = f"± is the half width of a {CONFIDENCE:.0%} interval over {most} seeds (Student's t)"
    if len(report.runs) == 1:
        return f"{words}."
    return f"{words}; differences are taken pair by pair of equal seeds."


def _with_half_width(measure: Measure, held: Interval) -> str:
    return _both(measure.say(held.mean), measure, held)


def _both(mean: str, measure: Measure, held: Interval) -> str:
    """Return mean and half width, with their unit once.

    The mean alone where all seeds say the same, or there is but one.
    """
    if not held.half_width:
        return mean
    half = measure.say(held.half_width)
    number, _, unit = mean.partition(" ")
    return f"{number if half.endswith(f' {unit}') else mean} ± {half}"


def _seldom_reached(found: list[float], num: int, measure: Measure) -> str:
    """Name the median, as if who never came there had come last."""
    if not found:
        return "not reached"
    if 2 * len(found) <= num:
        return f"reached by {len(found)} of {num}"
    middle = median([*found, *[float("inf")] * (num - len(found))])
    return f"median {measure.say(middle)}, reached by {len(found)} of {num}"


def _difference(report: Report, runs: Runs, measure: Measure) -> Difference:
    held = measures.difference(report, runs, measure)
    if held is None:
        return Difference(NOTHING)
    if not held.mean and not held.half_width:
        return Difference("the same")
    sign = "−" if held.mean < 0 else "+"  # noqa: RUF001 - a minus
    text = _both(f"{sign}{measure.say(abs(held.mean))}", measure, held)
    if measure.key in _TO_TARGET:
        text += _factor(report, runs, measure)
    most = min(len(report.runs[0].results), len(runs.results))
    if held.num < most:  # who came there is not chosen by chance: no verdict
        return Difference(f"{text}, of {held.num} of {most} seeds")
    if not held.excludes_zero or not measure.better:
        return Difference(text)
    return Difference(text, "better" if held.mean * measure.better > 0 else "worse")


def _factor(report: Report, runs: Runs, measure: Measure) -> str:
    """Return how many times the first runs' mean it is, of the seeds that both have."""
    first = measures.values(report, report.runs[0], measure)
    own = measures.values(report, runs, measure)
    both = first.keys() & own.keys()
    total = sum(first[seed] for seed in both)
    return f" (×{sum(own[seed] for seed in both) / total:.2g})" if total else ""  # noqa: RUF001 - times


def verdict(report: Report) -> str:
    """Say in one sentence how it ended."""
    endings = {result.ended for result in report.every}
    if FAILED in endings:
        return _failures(report)
    if "interrupted" in endings:
        return "Interrupted: the figures are of what ran until then."
    if report.num_results > 1:
        return f"All {report.num_results} runs came to their end."
    result = report.runs[0].results[0]
    why = _ENDED.get(result.ended, wording.shown(result.ended))
    return f"Ended after {wording.duration(result.virtual_s)} of virtual time: {why}."


def why_failed(result: Result) -> str:
    """Say which run failed, and why."""
    why = result.notes[-1].text.removeprefix(f"{FAILED}: ") if result.notes else "nobody knows why"
    return f"{wording.shown(result.scenario)}, seed {result.seed}: {why}"


def _failures(report: Report) -> str:
    num, of = len(report.failures), report.num_results
    if num == of:
        what = "The run" if of == 1 else f"All {of} runs"
        return f"{what} failed; the figures are of what ran until then."
    if any(result.ended == FAILED for runs in report.runs for result in runs.results):
        return (
            f"{num} of {of} runs failed; where all seeds did, figures are of what ran until then."
        )
    return f"{num} of {of} runs failed; the figures are of the others."
