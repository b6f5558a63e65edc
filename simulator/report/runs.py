"""What a report is about: scenarios, each run with one seed or several."""

from dataclasses import dataclass

from simulator.result import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """One scenario under its seeds: at least one result. ``name`` is how the report calls it."""

    name: str
    results: tuple[Result, ...]

    @property
    def learned(self) -> bool:
        """Whether anything was trained and judged; not so in dry runs."""
        return any(p.accuracy is not None for result in self.results for p in result.points)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The device classes, in the scenario's order."""
        return tuple(one.name for one in self.results[0].classes)

    @property
    def has_slow(self) -> bool:
        """Whether some device class is marked as slow."""
        return any(one.is_slow for one in self.results[0].classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one command ran: one scenario, or several side by side.

    ``command`` is what to type to get it again; the first of ``runs`` is what others are compared
    with; ``aim`` is the accuracy whose reaching is timed, if it is another than the scenarios'.
    """

    command: str
    runs: tuple[Runs, ...]
    aim: float | None = None

    @property
    def target(self) -> float | None:
        """The accuracy whose reaching is timed: if not said, the highest that a scenario names."""
        if self.aim is not None:
            return self.aim
        targets = [r.target for one in self.runs for r in one.results if r.target is not None]
        return max(targets, default=None)

    @property
    def learned(self) -> bool:
        """Whether anything was trained."""
        return any(one.learned for one in self.runs)

    @property
    def num_results(self) -> int:
        """How many runs there were, all scenarios and seeds."""
        return sum(len(one.results) for one in self.runs)
