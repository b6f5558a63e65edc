"""The end of a demonstration: the figures, for people and as JSON, and what to try next."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedbus.datasets import Dataset
from fedbus.demonstration import Outcome
from fedbus.federation import Recipe
from fedbus.view import count, number, text
from fedbus.wording import accuracy_text, human_bytes, refusals

_NEXT: Final = (
    ("fedbus demo --mode rounds", "wait for all devices at every step"),
    ("fedbus demo --scheme none", "no masks: far fewer bytes, and no secrecy"),
    ("fedbus demo --alpha 0.05 --devices 16", "devices that see few labels each"),
    ("fedbus demo --data FILE.npz", "data of your own (x, y, client)"),
    ("fedbus init", "a federation of real devices, secure as it is"),
)
_IF_NOT: Final = (
    ("fedbus demo --timeout 180", "give it more time"),
    ("fedbus demo --alpha 1", "deal labels more evenly"),
    ("fedbus demo --codec dense/float32", "send every number"),
    ("fedbus demo --keep DIR", "keep logs and files, and look at them"),
)


def result_of(
    outcome: Outcome, recipe: Recipe, *, dataset: Dataset, devices: int, alpha: float
) -> Mapping[str, object]:
    """Return the figures of a run, as ``--json`` writes them; None: not known, or of no account.

    Bytes per update come from the devices' own transports: the PUBLISH packets (header, topic and
    payload) that all of them sent and got, by their last telemetry, divided by the updates they had
    receipts for by then. So they contain check-ins, leases, model downloads, receipts and the
    telemetry itself; not TCP, CONNECT, SUBSCRIBE and acknowledgements.
    """
    view = outcome.view
    metrics = outcome.metrics
    told = [member.telemetry for member in view.members.values()]
    num_receipts = sum(count(one, "receipts") for one in told)
    up, down = (sum(count(one, key) for one in told) for key in ("bytes_up", "bytes_down"))
    return {
        "reached": outcome.reached,
        "accuracy": number(metrics, "accuracy"),
        "target": outcome.target,
        "versions": count(metrics, "version"),
        "seconds": round(outcome.seconds, 2),
        "broker": outcome.broker,
        "mqtt": text(view.report("aggregator"), "mqtt"),
        "data": dataset.name,
        "devices": devices,
        "alpha": alpha if dataset.owner is None else None,
        "seed": recipe.seed,
        "mode": recipe.mode,
        "codec": text(metrics, "codec") or recipe.codec,
        "scheme": recipe.scheme,
        "updates_accepted": count(metrics, "updates_accepted"),
        "updates_refused": dict(refusals(metrics)),
        "bytes_up_per_update": round(up / num_receipts) if num_receipts else None,
        "bytes_down_per_update": round(down / num_receipts) if num_receipts else None,
    }


def print_summary(
    console: Console, outcome: Outcome, num_held_out: int, result: Mapping[str, object]
) -> None:
    """Say how it ended, what it cost, and what to try next."""
    if outcome.problem:
        console.print(
            f"\n{outcome.problem}", style="red", markup=False, highlight=False, soft_wrap=True
        )
    console.print(_verdict(outcome, num_held_out))
    console.print(_figures(outcome, result))
    console.print("[dim]what to try next[/dim]")
    for command, what in _advice(outcome):
        console.print(f"  [bold]{command:<38}[/bold] {what}", highlight=False)


def say_where(console: Console, folder: Path) -> None:
    """Say where the files were left."""
    console.print(f"files and logs: {folder}", markup=False, highlight=False, soft_wrap=True)


def _verdict(outcome: Outcome, num_held_out: int) -> Text:
    accuracy = accuracy_text(number(outcome.metrics, "accuracy"))
    if outcome.reached:
        return Text(
            f"\nreached: accuracy {accuracy} on {num_held_out} held-out rows that no device had, "
            f"after {outcome.seconds:.1f} s\n",
            style="bold green",
        )
    why = "" if outcome.problem else "; stopped" if outcome.interrupted else "; time is up"
    return Text(
        f"\nnot reached: accuracy {accuracy}, target {outcome.target:g}, "
        f"after {outcome.seconds:.1f} s{why}\n",
        style="bold red",
    )


def _advice(outcome: Outcome) -> tuple[tuple[str, str], ...]:
    if outcome.reached:
        return _NEXT
    return _IF_NOT[-1:] if outcome.problem else _IF_NOT


def _figures(outcome: Outcome, result: Mapping[str, object]) -> Table:
    grid = Table.grid(padding=(0, 2), pad_edge=True)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    refused = refusals(outcome.metrics)
    reasons = ", ".join(f"{reason} {some}" for reason, some in refused.items())
    grid.add_row("model", f"version {result['versions']}")
    grid.add_row("mode", f"{result['mode']}, codec {result['codec']}, scheme {result['scheme']}")
    grid.add_row(
        "updates",
        f"{result['updates_accepted']} accepted, {sum(refused.values())} refused"
        + (f" ({reasons})" if reasons else ""),
    )
    grid.add_row(
        "bytes per update",
        f"{_size(result['bytes_up_per_update'])} up, {_size(result['bytes_down_per_update'])} down "
        "(of all messages)",
    )
    grid.add_row("broker", f"{result['broker']}, MQTT {result['mqtt'] or 'unknown'}")
    grid.add_row("", "")
    return grid


def _size(num_bytes: object) -> str:
    return human_bytes(num_bytes) if isinstance(num_bytes, int) else "unknown"
