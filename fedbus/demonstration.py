"""A demonstration from the first process to the last: start, follow, show, stop."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live

from aggregator.wording import many
from fedbus.children import Child
from fedbus.datasets import Dataset, Split
from fedbus.federation import TASK, TELEMETRY_S, Federation, Recipe, protocol_of, running_federation
from fedbus.listener import ACCOUNT, Listener
from fedbus.screen import FRAME_LINES, picture
from fedbus.view import Report, TaskView, count
from fedbus.wording import accuracy_text, human_bytes, refusals
from protocol.topics import DEFAULT_PREFIX

REFRESH_S: Final = 0.25
PLAIN_EVERY_S: Final = 1.0
#: The broker, which may share its processor with all devices, is given up after so long a silence.
BROKER_PATIENCE_S: Final = 30.0
#: One round of telemetry and a little.
_LAST_WORDS_S: Final = TELEMETRY_S + 0.3


@dataclass(slots=True)
class Outcome:
    """How it ended. ``problem`` says why it could not go on, if it could not.

    ``seconds`` and ``metrics`` are those of the moment the target was reached, or of the end; the
    view goes on for one round of telemetry, to say what it cost.
    """

    view: TaskView
    broker: str
    target: float
    seconds: float = 0.0
    metrics: Report = field(default_factory=dict)
    reached: bool = False
    interrupted: bool = False
    problem: str = ""


def demonstrate(
    folder: Path,
    recipe: Recipe,
    data: Dataset,
    parts: Split,
    *,
    target: float,
    timeout_s: float,
    console: Console,
) -> Outcome:
    """Run a federation in ``folder`` until ``target`` accuracy, or for ``timeout_s``.

    SIGINT, SIGTERM and SIGHUP end it in good order. Raises BrokerError if there is no broker.
    """
    began = time.monotonic()
    with interrupts() as seen, running_federation(folder, recipe, data, parts) as federation:
        _introduce(federation, data, console)
        with _listener(federation) as listener:
            run = _Run(listener, federation, console, target, began)
            with run.shown():
                while not run.over(timeout_s, interrupted=bool(seen)):
                    listener.listen(REFRESH_S)
        return run.outcome


def _introduce(federation: Federation, data: Dataset, console: Console) -> None:
    broker = federation.broker
    kind = "embedded, for trying things out" if broker.embedded else "with accounts and rules"
    console.print(
        f"broker {broker.name} on {broker.host}:{broker.port} ({kind}), "
        f"an aggregator and {many(len(federation.devices), 'device')}, a process each; "
        f"data: {data.name}",
        highlight=False,
        soft_wrap=not console.is_terminal,
    )


def _listener(federation: Federation) -> Listener:
    broker = federation.broker
    return Listener(
        host=broker.host,
        port=broker.port,
        prefix=DEFAULT_PREFIX,
        task=TASK,
        password_file=broker.files.secret(ACCOUNT),
        protocol=protocol_of(broker),
    )


class _Run:
    """What is looked at again and again while it goes on."""

    def __init__(
        self,
        listener: Listener,
        federation: Federation,
        console: Console,
        target: float,
        began: float,
    ) -> None:
        self.outcome = Outcome(listener.view, federation.broker.name, target)
        self._listener = listener
        self._federation = federation
        self._console = console
        self._began = began
        self._live: Live | None = None
        self._printed_at = began
        self._heard_at = time.monotonic()
        self._mourned: set[str] = set()

    def over(self, timeout_s: float, *, interrupted: bool) -> bool:
        """Look around, show what there is, and return whether this is the end."""
        now = time.monotonic()
        outcome = self.outcome
        if not outcome.reached:
            outcome.seconds = now - self._began
            outcome.metrics = outcome.view.report("metrics")
            accuracy = outcome.view.accuracy
            outcome.reached = accuracy is not None and accuracy >= outcome.target
        outcome.interrupted = interrupted and not outcome.reached
        outcome.problem = self._problem(now)
        self._show(now)
        if outcome.reached:
            return interrupted or now >= self._began + outcome.seconds + _LAST_WORDS_S
        return interrupted or bool(outcome.problem) or outcome.seconds >= timeout_s

    def _problem(self, now: float) -> str:
        if self._listener.connected:
            self._heard_at = now
        elif now >= self._heard_at + BROKER_PATIENCE_S:
            return f"the broker went away: {self._listener.problem or 'no answer'}"
        for child in self._federation.devices:
            if not child.alive:
                self._mourn(child)
        if not self._federation.aggregator.alive:
            return self._federation.aggregator.obituary()
        if len(self._mourned) == len(self._federation.devices):
            return "every device has ended"
        return ""

    def _mourn(self, child: Child) -> None:
        if child.name not in self._mourned:
            self._mourned.add(child.name)
            self._console.print(child.obituary(), markup=False, highlight=False, style="red")

    # --- showing -----------------------------------------------------------------------------

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw on the terminal while the context lasts; without one, lines are printed."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False) as self._live:
            yield

    def _show(self, now: float) -> None:
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
        elif now >= self._printed_at + PLAIN_EVERY_S:
            self._printed_at = now
            self._console.print(self._line(), markup=False, highlight=False, soft_wrap=True)

    def _picture(self) -> RenderableType:
        missing = sorted(self._mourned)
        return picture(
            self.outcome.view,
            title=f"fedbus demo · {time.monotonic() - self._began:.0f} s",
            max_rows=self._console.height - FRAME_LINES - len(missing),
            target=self.outcome.target,
            sizes=self._federation.sizes,
            notes=[f"{name} has ended" for name in missing],
        )

    def _line(self) -> str:
        view = self.outcome.view
        metrics = view.report("metrics")
        refused = ", ".join(f"{reason} {some}" for reason, some in refusals(metrics).items())
        told = [member.telemetry for member in view.members.values()]
        up, down = (sum(count(one, key) for one in told) for key in ("bytes_up", "bytes_down"))
        return (
            f"{time.monotonic() - self._began:5.1f} s  version {count(metrics, 'version'):>3}  "
            f"accuracy {accuracy_text(view.accuracy)}  "
            f"{many(count(metrics, 'updates_accepted'), 'update')} accepted, "
            f"{refused or 'none'} refused  "
            f"{human_bytes(up)} up, {human_bytes(down)} down"
        )


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Collect the signals that ask us to leave; so no clean-up is cut short by one."""
    seen: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
