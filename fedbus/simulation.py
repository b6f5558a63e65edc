"""Runs of scenarios, watched: what goes on is shown, what ended is kept, Ctrl-C is heeded."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fedbus import live_table
from fedbus.demonstration import interrupts
from fedbus.live_table import Stage
from protocol.errors import ConfigError
from protocol.topics import check_id
from simulator.report.cells import verdict, why_failed
from simulator.report.runs import Report, Runs
from simulator.result import FAILED, Result
from simulator.run import Progress
from simulator.scenario import Scenario
from simulator.scenario_parts import Dry
from simulator.sweep import sweep

_PLAIN_EVERY_S: Final = 5.0
_Run = tuple[str, int]  # scenario and seed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ran; None where nothing did."""

    report: Report | None
    is_interrupted: bool


def without_training(scenario: Scenario) -> Scenario:
    """Return the same fleet with nothing to learn."""
    return replace(scenario, dry=scenario.dry or Dry(), target=0.0)


def apart(scenarios: Sequence[Scenario], words: Sequence[str]) -> list[Scenario]:
    """Return the scenarios with names that differ: their own, else their files', else numbered."""
    own = [scenario.name for scenario in scenarios]
    stems = [Path(word).stem for word in words]
    numbered = [f"{name}-{place}" for place, name in enumerate(own, start=1)]
    names = next(each for each in (own, stems, numbered) if _is_apart(each))
    return [replace(one, name=name) for one, name in zip(scenarios, names, strict=True)]


def run_all(
    scenarios: Sequence[Scenario],
    *,
    command: str,
    seed: int | None,
    num_seeds: int,
    aim: float | None,
    engine: str,
    workers: int,
    shards: int,
    console: Console,
) -> Outcome:
    """Run every scenario with every seed, until the end or until a signal asks to leave.

    ``seed`` is the first; None: the first scenario's own. ``aim`` is the accuracy whose reaching
    is timed; None: the scenarios' target. Raises ConfigError, also if every run failed as it began.
    """
    first = scenarios[0].seed if seed is None else seed
    watcher = _Watcher(scenarios, len(scenarios) * num_seeds, console)
    with interrupts() as seen, watcher.shown():
        results = sweep(
            scenarios,
            range(first, first + num_seeds),
            engine,
            workers=workers,
            shards=shards,
            progress=watcher.see,
            finished=watcher.finished,
            stop=lambda: bool(seen),
        )
    if results and all(one.ended == FAILED and not one.num_events for one in results):
        raise ConfigError(f"nothing ran: {why_failed(results[0])}")
    report = Report(command=command, runs=grouped(scenarios, results), aim=aim)
    return Outcome(report if report.runs else None, is_interrupted=bool(seen))


def is_sound(report: Report) -> bool:
    """Whether no update was lost, none counted twice, and no run failed."""
    return not any(r.lost or r.counted_twice or r.ended == FAILED for r in report.every)


def print_summary(report: Report, folder: Path, page: str, console: Console) -> None:
    """Say how it ended, the figures, and where the rest lies."""
    lost = sum(result.lost for result in report.every)
    twice = sum(result.counted_twice for result in report.every)
    console.print(Text(verdict(report), style="bold"), soft_wrap=True)
    for failure in report.failures:
        console.print(Text(why_failed(failure), style="red"), soft_wrap=True)
    console.print(live_table.summary(report))
    console.print(live_table.safety(lost, twice))
    console.print(Text(f"report: {folder / page}"), soft_wrap=True)


def _is_apart(names: Sequence[str]) -> bool:
    try:
        for name in names:
            check_id(name, "name")
    except ConfigError:
        return False
    return len(set(names)) == len(names)


def grouped(scenarios: Sequence[Scenario], results: Sequence[Result]) -> tuple[Runs, ...]:
    """Return the results by scenario, of those that have some.

    A run that was cut short as it began says nothing beside one that went on, and one that failed
    nothing beside one that did not.
    """
    begun = [r for r in results if r.ended != "interrupted" or len(r.points) > 1] or results
    by_name = {one.name: [r for r in begun if r.scenario == one.name] for one in scenarios}
    return tuple(_runs(name, found) for name, found in by_name.items() if found)


def _runs(name: str, results: Sequence[Result]) -> Runs:
    in_order = sorted(results, key=lambda result: result.seed)
    sound = tuple(result for result in in_order if result.ended != FAILED)
    if not sound:
        return Runs(name=name, results=tuple(in_order))
    return Runs(name=name, results=sound, failed=tuple(r for r in in_order if r.ended == FAILED))


class _Watcher:
    """What is looked at while runs go on, one or several at once."""

    def __init__(self, scenarios: Sequence[Scenario], num_runs: int, console: Console) -> None:
        self._scenarios = {scenario.name: scenario for scenario in scenarios}
        self._num_runs = num_runs
        self._ended: set[_Run] = set()
        self._open: dict[_Run, Stage] = {}
        self._told_at: dict[_Run, float] = {}
        self._console = console
        self._live: Live | None = None
        self._printed_at = -_PLAIN_EVERY_S

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw on the terminal while the context lasts; without one, lines are printed."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            yield

    def see(self, progress: Progress) -> None:
        """Show how far a run is."""
        now, run = time.monotonic(), (progress.scenario, progress.seed)
        if run in self._ended:
            return  # told late, by another process
        stage = Stage(
            progress=progress,
            scenario=self._scenarios[progress.scenario],
            events_per_s=self._pace(run, progress, now),
        )
        self._open[run], self._told_at[run] = stage, now
        if self._live is not None:
            self._show()
        elif now >= self._printed_at + _PLAIN_EVERY_S:
            self._printed_at = now
            self._print(live_table.line(stage))

    def finished(self, result: Result) -> None:
        """Say in a line that a run ended."""
        run = (result.scenario, result.seed)
        self._ended.add(run)
        self._open.pop(run, None)
        self._show()
        if self._num_runs > 1:
            self._print(f"{len(self._ended):>3} of {self._num_runs}  {live_table.ended(result)}")

    def _pace(self, run: _Run, progress: Progress, now: float) -> float:
        """Return a run's events in a second of ours, since it was heard of last."""
        before = self._open.get(run)
        if before is None or now <= self._told_at[run]:
            return 0.0
        num_events = progress.num_events - before.progress.num_events  # fewer: it began anew
        return num_events / (now - self._told_at[run]) if num_events > 0 else before.events_per_s

    def _show(self) -> None:
        if self._live is not None:
            stages = list(self._open.values())
            picture = live_table.picture(stages, num_ended=len(self._ended), of=self._num_runs)
            self._live.update(picture, refresh=True)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
