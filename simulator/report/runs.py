"""What a report is about: scenarios, each run with one seed or several."""

from dataclasses import dataclass

from simulator.result import FAILED, Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """One scenario under its seeds: at least one result. ``name`` is how the report calls it.

    All figures are of the ``results``. ``failed`` are runs that failed beside them; where all did,
    they are the results, as far as they came.
    """

    name: str
    results: tuple[Result, ...]
    failed: tuple[Result, ...] = ()

    @property
    def every(self) -> tuple[Result, ...]:
        """All runs, those that failed beside others included."""
        return (*self.results, *self.failed)

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
        return len(self.every)

    @property
    def every(self) -> tuple[Result, ...]:
        """All runs, those that failed beside others included."""
        return tuple(result for one in self.runs for result in one.every)

    @property
    def failures(self) -> tuple[Result, ...]:
        """The runs that failed."""
        return tuple(result for result in self.every if result.ended == FAILED)
