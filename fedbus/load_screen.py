"""A load's figures for people. Pure but for what the meter reads: figures in, renderables out."""

from collections.abc import Mapping

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table

from fedbus.load_figures import Figures, Meter
from fedbus.wording import human_bytes


def picture(meter: Meter, now: float) -> RenderableType:
    """Return the live table."""
    figures = meter.figures(now)
    title = f"fedbus load · {figures['seconds']:.0f} s · {meter.rate():.0f} updates/s"
    return Panel(Group(*tables(figures)), title=title, title_align="left", box=ROUNDED)


def line(meter: Meter, now: float) -> str:
    """Return the same in a line, for where there is no terminal."""
    figures = meter.figures(now)
    return (
        f"{figures['seconds']:6.1f} s  {figures['connected']} of {figures['devices']} connected  "
        f"{figures['updates_counted']} counted, {_refused(figures)}, "
        f"{figures['updates_unanswered']} under way  {meter.rate():.0f}/s"
    )


def tables(figures: Figures) -> list[RenderableType]:
    """Return what happened, how long it took, and what it cost."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    rate = figures["updates_per_s"]
    most, now = figures["connected_at_once"], figures["connected"]
    facts.add_row("devices", f"at most {most} of {figures['devices']} connected, now {now}")
    facts.add_row("", f"{figures['devices_done']} done, {figures['reconnects']} reconnects")
    facts.add_row("updates", f"{figures['updates_counted']} counted, {_refused(figures)}")
    facts.add_row("", f"{figures['updates_unanswered']} without a verdict")
    facts.add_row("", f"{figures['updates_lost']} lost, {figures['counted_twice']} counted twice")
    facts.add_row("updates/s", "" if rate is None else f"{rate}")
    facts.add_row("bytes", f"{_size(figures['bytes_up'])} up, {_size(figures['bytes_down'])} down")
    for problem, count in _table(figures["problems"]).items():
        facts.add_row("problem", f"{problem} ({count})", style="red")
    return [facts, _latencies(figures), _memory(figures)]


def _latencies(figures: Figures) -> RenderableType:
    table = Table("seconds", "p50", "p95", "p99", "max", box=None, header_style="dim")
    for name, key in (
        ("lease to receipt", "lease_to_receipt_s"),
        ("publish to receipt", "publish_to_receipt_s"),
    ):
        seconds = _table(figures[key])
        table.add_row(name, *(f"{seconds[p]:.3f}" for p in ("p50", "p95", "p99", "max") if seconds))
    return table


def _memory(figures: Figures) -> RenderableType:
    table = Table("MiB", "now", "at most", box=None, header_style="dim")
    for name, found in _table(figures["memory"]).items():
        memory = _table(found)
        a_device = memory.get("kib_per_device")
        label = name if a_device is None else f"{name} ({a_device} KiB a device)"
        table.add_row(label, *(_known(memory[key]) for key in ("rss_mib", "peak_mib")))
    return table


def _refused(figures: Figures) -> str:
    refused = _table(figures["updates_refused"])
    return ", ".join(f"{count} {reason}" for reason, count in refused.items()) or "none refused"


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)


def _size(value: object) -> str:
    return human_bytes(float(str(value)))


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
