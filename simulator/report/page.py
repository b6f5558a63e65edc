"""A report as one HTML page: nothing in it refers to anything outside it."""

from dataclasses import dataclass
from functools import cache
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from protocol.refusals import MEANING
from simulator.report import cells, figures, measures, palette, wording
from simulator.report.drawing import Plot, to_svg
from simulator.report.plots import plots
from simulator.report.runs import Report, Runs
from simulator.result import FAILED

_UNKNOWN: Final = "a reason unknown to this version"
_MAX_COUNTERS: Final = 60
_MAX_NOTES: Final = 30


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure that is read first: what it is, the number, what it means."""

    title: str
    value: str
    about: str
    mood: str = ""


def to_html(report: Report, drawn: list[Plot] | None = None) -> bytes:
    """Return the page. ``drawn``: its plots, where the caller has them already."""
    rows = cells.rows(report)
    machine = measures.SCALE if report.learned else ()
    page = _template().render(
        report=report,
        title=_title(report),
        about=_about(report),
        facts=_facts(report),
        verdict=cells.verdict(report),
        broken=any(result.ended in {FAILED, "interrupted"} for result in report.every),
        failures=[cells.why_failed(result) for result in report.failures[:_MAX_NOTES]],
        tiles=_tiles(report),
        safe=_safe(report),
        rows=[row for row in rows if row.measure not in machine],
        machine_rows=[row for row in rows if row.measure in machine],
        interval_words=cells.interval_words(report),
        plots=[(plot, Markup(to_svg(plot))) for plot in (drawn or plots(report))],  # noqa: S704 - matplotlib escapes what it writes # nosec B704
        classes=_classes(report),
        refusals=_refusals(report),
        declined=_declined(report),
        notes=report.runs[0].results[0].notes[:_MAX_NOTES],
        num_more_notes=max(0, len(report.runs[0].results[0].notes) - _MAX_NOTES),
        counters=_counters(report),
        hashes=[(runs.name, r.seed, r.model_hash) for runs in report.runs for r in runs.results],
        colours=[palette.method_variable(index) for index in range(len(report.runs))],
        variables=Markup(palette.stylesheet()),  # noqa: S704 - from constants # nosec B704
        wording=wording,
        cells=cells,
    )
    return page.encode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("simulator.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _title(report: Report) -> str:
    return " against ".join(wording.shown(runs.name) for runs in report.runs)


def _about(report: Report) -> list[tuple[str, str]]:
    """Return names and what they are about; once and without a name where all say the same."""
    words = [(runs.name, runs.results[0].about) for runs in report.runs]
    return words if len({about for _, about in words}) > 1 else [("", words[0][1])]


def _facts(report: Report) -> list[str]:
    results = [result for runs in report.runs for result in runs.results]
    seeds = sorted({result.seed for result in results})
    devices = sorted({sum(one.num_devices for one in result.classes) for result in results})
    longest = max(result.virtual_s for result in results)
    return [
        f"{wording.listed([wording.whole(num) for num in devices])} simulated devices",
        f"up to {wording.duration(longest)} of virtual time",
        f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds",
        f"engine {wording.listed(sorted({result.engine for result in results}))}",
        f"{wording.duration(sum(result.wall_s for result in results))} of wall time",
        *([] if report.learned else ["dry: no training"]),
    ]


def _safe(report: Report) -> list[Tile]:
    """Return what must be 0."""
    lost = sum(result.lost for result in report.every)
    twice = sum(result.counted_twice for result in report.every)
    about_lost = "promised, taken or let go, and in no version: devices and bus against the store"
    about_twice = "in two versions, or in one although its device was told no"
    return [
        Tile("Updates lost", wording.whole(lost), about_lost, _mood(lost)),
        Tile("Updates counted twice", wording.whole(twice), about_twice, _mood(twice)),
    ]


def _tiles(report: Report) -> list[Tile]:
    """Return the figures that are read first, of runs that stand alone."""
    if len(report.runs) > 1:
        return []
    wanted = (*measures.LEARNING, measures.FAIRNESS) if report.learned else measures.SCALE[:5]
    return [
        Tile(
            one.title,
            cells.value_text(report, report.runs[0], one),
            cells.about_text(report, one),
        )
        for one in measures.of_report(report)
        if one in wanted
    ]


def _mood(num: int) -> str:
    return "bad" if num else "good"


def _classes(report: Report) -> list[tuple[str, list[list[str]]]]:
    """Return by runs the classes' figures, means of all seeds."""
    return [(runs.name, _class_rows(runs)) for runs in report.runs]


def _class_rows(runs: Runs) -> list[list[str]]:
    num = len(runs.results)
    rows = []
    for index, first in enumerate(runs.results[0].classes):
        every = [result.classes[index] for result in runs.results]
        index_of = [figures.jain(one.updates_per_device) for one in every]
        fair = [value for value in index_of if value is not None]
        rows.append(
            [
                wording.class_label(first.name, is_slow=first.is_slow),
                wording.whole(first.num_devices),
                wording.whole(sum(one.check_ins for one in every) / num),
                wording.whole(sum(one.leases for one in every) / num),
                wording.whole(sum(one.updates_counted for one in every) / num),
                wording.ratio(sum(fair) / len(fair)) if fair else cells.NOTHING,
                wording.size(sum(one.bytes_up for one in every) / num),
                wording.size(sum(one.bytes_down for one in every) / num),
                wording.whole(sum(one.reconnects for one in every) / num),
            ]
        )
    return rows


def _refusals(report: Report) -> list[tuple[str, list[str], str]]:
    """Return reason, times a run for each of the runs, meaning."""
    by_runs = [figures.refusals(runs.results) for runs in report.runs]
    every = figures.refusals(r for runs in report.runs for r in runs.results)
    return [
        (
            wording.shown(reason),
            [
                wording.whole(refused.get(reason, 0) / len(runs.results))
                for refused, runs in zip(by_runs, report.runs, strict=True)
            ],
            MEANING.get(reason, _UNKNOWN),
        )
        for reason in every
    ]


def _declined(report: Report) -> list[str]:
    """Return sentences about devices that did not ask for work, by their own conditions."""
    said = []
    for runs in report.runs:
        for one in runs.results[0].classes:
            reasons = [f"{wording.shown(why)} {num:,}" for why, num in one.declined.items() if num]
            if reasons:
                of = f"{wording.shown(runs.name)}: " if len(report.runs) > 1 else ""
                said.append(f"{of}{wording.shown(one.name)}: {', '.join(reasons)}")
    return said


def _counters(report: Report) -> list[tuple[str, str]]:
    return [
        (wording.shown(key), wording.whole(count))
        for key, count in sorted(report.runs[0].results[0].counters.items())[:_MAX_COUNTERS]
    ]
