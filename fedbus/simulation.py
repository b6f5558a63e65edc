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
from simulator.report.cells import verdict
from simulator.report.runs import Report, Runs
from simulator.result import Result
from simulator.run import Progress
from simulator.scenario import Scenario
from simulator.scenario_parts import Dry
from simulator.sweep import sweep

_PLAIN_EVERY_S: Final = 5.0


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
    engine: str,
    workers: int,
    shards: int,
    console: Console,
) -> Outcome:
    """Run every scenario with every seed, until the end or until a signal asks to leave.

    ``seed`` is the first; None: the first scenario's own. Raises ConfigError.
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
    report = Report(command=command, runs=_grouped(scenarios, results))
    return Outcome(report if report.runs else None, is_interrupted=bool(seen))


def is_sound(report: Report) -> bool:
    """Whether no update was lost and none counted twice."""
    return not any(r.lost or r.counted_twice for runs in report.runs for r in runs.results)


def print_summary(report: Report, folder: Path, page: str, console: Console) -> None:
    """Say how it ended, the figures, and where the rest lies."""
    results = [result for runs in report.runs for result in runs.results]
    lost, twice = sum(r.lost for r in results), sum(r.counted_twice for r in results)
    console.print(Text(verdict(report), style="bold"))
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


def _grouped(scenarios: Sequence[Scenario], results: Sequence[Result]) -> tuple[Runs, ...]:
    """Return the results by scenario, of those that have some.

    A run that was cut short as it began says nothing beside one that went on.
    """
    begun = [r for r in results if r.ended != "interrupted" or len(r.points) > 1] or results
    by_name = {one.name: [r for r in begun if r.scenario == one.name] for one in scenarios}
    return tuple(
        Runs(name=name, results=tuple(sorted(found, key=lambda result: result.seed)))
        for name, found in by_name.items()
        if found
    )


class _Watcher:
    """What is looked at while runs go on."""

    def __init__(self, scenarios: Sequence[Scenario], num_runs: int, console: Console) -> None:
        self._scenarios = {scenario.name: scenario for scenario in scenarios}
        self._num_runs = num_runs
        self._num_ended = 0
        self._console = console
        self._live: Live | None = None
        self._printed_at = -_PLAIN_EVERY_S
        self._seen = (0, 0.0)  # events and time, when the pace was last looked at
        self._pace = 0.0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw on the terminal while the context lasts; without one, lines are printed."""
        if not self._console.is_terminal or self._console.quiet:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
            self._show_runs()
            yield

    def see(self, progress: Progress) -> None:
        """Show how far the run in this process is."""
        now = time.monotonic()
        stage = Stage(
            number=self._num_ended + 1,
            of=self._num_runs,
            progress=progress,
            scenario=self._scenarios[progress.scenario],
            events_per_s=self._measured(progress.num_events, now),
        )
        if self._live is not None:
            self._live.update(live_table.picture(stage), refresh=True)
        elif now >= self._printed_at + _PLAIN_EVERY_S:
            self._printed_at = now
            self._print(live_table.line(stage))

    def finished(self, result: Result) -> None:
        """Say in a line that a run ended."""
        self._num_ended += 1
        self._seen = (0, 0.0)
        self._show_runs()
        if self._num_runs > 1:
            self._print(f"{self._num_ended:>3} of {self._num_runs}  {live_table.ended(result)}")

    def _show_runs(self) -> None:
        if self._live is not None:
            picture = live_table.runs_picture(self._num_ended, self._num_runs)
            self._live.update(picture, refresh=True)

    def _measured(self, num_events: int, now: float) -> float:
        """Return events in a second of ours, since this was last asked."""
        before, at = self._seen
        self._seen = (num_events, now)
        if at and now > at:
            self._pace = (num_events - before) / (now - at)
        return self._pace

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
