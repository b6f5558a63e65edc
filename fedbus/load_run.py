"""One load from the first connection to the last word: drive, look, show, and judge."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.live import Live

from aggregator.wording import many
from fedbus.demonstration import interrupts
from fedbus.load_figures import Figures, Meter
from fedbus.load_fleet import Fleet
from fedbus.load_screen import line, picture

#: The live table is drawn anew this often; without a terminal, a line is printed this often.
REFRESH_S: Final = 0.5
PLAIN_EVERY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. ``problem`` says why it could not go on, empty if it did."""

    figures: Figures
    interrupted: bool
    problem: str

    @property
    def lost(self) -> int:
        """Updates without a verdict that no device holds any more."""
        return int(str(self.figures["updates_lost"]))

    @property
    def unanswered(self) -> int:
        """Updates without a verdict that their devices still hold, and would send again."""
        return int(str(self.figures["updates_unanswered"])) - self.lost

    @property
    def counted_twice(self) -> int:
        """Updates that were counted in two versions, or got two verdicts."""
        return int(str(self.figures["counted_twice"]))


def drive(
    fleet: Fleet,
    meter: Meter,
    *,
    patience_s: float,
    console: Console,
    trouble: Callable[[], str] = lambda: "",
) -> Outcome:
    """Let a fleet do what it was asked to; end when it has, at Ctrl-C, or when nothing moves.

    Nothing moves: no update and no verdict for ``patience_s``, nor more clients at once than ever.
    ``trouble`` says why it makes no sense to go on, empty while it does.
    """
    watch = _Patience(fleet, patience_s)
    plain_at = 0.0
    problem = ""
    with interrupts() as signals, _live(console) as live:
        fleet.ramp()
        while fleet.num_done < len(fleet.clients) and not signals and not problem:
            _turn(fleet)
            now = time.monotonic()
            meter.look(now)
            problem = trouble() or watch.problem(now)
            if live is not None:
                live.update(picture(meter, now), refresh=True)
            elif now >= plain_at:
                plain_at = now + PLAIN_EVERY_S
                console.print(line(meter, now), markup=False, highlight=False, soft_wrap=True)
        meter.look(time.monotonic())
        return Outcome(meter.figures(time.monotonic()), bool(signals), problem)


def _turn(fleet: Fleet) -> None:
    until = time.monotonic() + REFRESH_S
    while (left_s := until - time.monotonic()) > 0:
        fleet.turn(left_s)


def _live(console: Console) -> "Live | nullcontext[None]":
    return Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext()


class _Patience:
    """Notes when something moved last."""

    def __init__(self, fleet: Fleet, patience_s: float) -> None:
        self._fleet = fleet
        self._patience_s = patience_s
        self._seen: Sequence[int] = ()
        self._most_connected = 0
        self._moved_at = time.monotonic()

    def problem(self, now: float) -> str:
        fleet = self._fleet
        ledger = fleet.ledger
        # Clients that come and go are nothing that moves: a broker may do that for ever.
        self._most_connected = max(self._most_connected, fleet.num_connected)
        seen = (self._most_connected, ledger.num_settled, len(ledger.unanswered))
        if seen != self._seen:
            self._seen, self._moved_at = seen, now
        if now < self._moved_at + self._patience_s:
            return ""
        return f"nothing moved for {self._patience_s:.0f} s: {self._guess()}"

    def _guess(self) -> str:
        fleet = self._fleet
        if fleet.problems:
            [(problem, count)] = fleet.problems.most_common(1)
            return f"{problem} ({many(count, 'time')})"
        if not fleet.num_connected:
            return "no client got in; see --broker, --username and --passwords"
        if fleet.ledger.first_sent_at is None:
            return "no lease came; does an aggregator run this --task under this --prefix?"
        return "updates wait for their verdict; see the aggregator's log"
