"""Reports: JSON that comes back, a page that needs nothing else, plots of what there is."""

import json
import re
from dataclasses import replace
from typing import Final

import numpy as np
import pytest
from matplotlib.figure import Figure

from protocol.errors import ConfigError
from protocol.refusals import MEANING, TOO_STALE
from simulator.report import cells, figures, measures
from simulator.report.document import FORMAT, from_json, to_json
from simulator.report.drawing import to_png, to_svg
from simulator.report.measures import TIME_TO_TARGET
from simulator.report.page import to_html
from simulator.report.plots import overview, plots
from simulator.report.runs import Report, Runs
from simulator.result import Note, Point, Result
from tests.support.made_up_results import made_up
from tests.support.page import assert_stands_alone

_NASTY: Final = '<script>alert("1")</script>$\\frac{_'

#: What is left of a run that was cut short at once.
NOTHING: Final = made_up(
    points=(), classes=(), refused={}, notes=(), ended="interrupted", wall_s=0.0
)


def report_of(*groups: tuple[Result, ...]) -> Report:
    return Report(
        command="fedbus simulate x",
        runs=tuple(Runs(name=group[0].scenario, results=group) for group in groups),
    )


def seeds(name: str, *, num: int = 3, slow_best: float = 0.9, pace_s: float = 30.0) -> Report:
    results = (
        made_up(seed, name=name, slow_best=slow_best, pace_s=pace_s + seed) for seed in range(num)
    )
    return report_of(tuple(results))


def against() -> Report:
    first, second = seeds("fedbuff", slow_best=0.85, pace_s=40), seeds("fair", slow_best=0.95)
    return replace(first, runs=first.runs + second.runs)


def dry() -> Report:
    return report_of((made_up(is_dry=True, name="scale"),))


# --- JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [seeds("one", num=1), against(), dry()])
def test_a_report_comes_back_from_json_as_it_was(report: Report) -> None:
    assert from_json(to_json(report)) == report


def test_what_is_not_a_number_is_null() -> None:
    diverged = Point(version=1, at_s=1.0, accuracy=0.1, loss=float("nan"))
    report = report_of((made_up(points=(diverged,)),))
    point = from_json(to_json(report)).runs[0].results[0].points[0]
    assert point == replace(diverged, loss=None)


def test_json_has_the_figures_and_their_differences_for_who_reads_no_code() -> None:
    document = json.loads(to_json(against()))
    assert document["format"] == FORMAT
    first, second = document["figures"]
    gained = second["slow_accuracy"]["less_first"]
    assert gained["mean"] == pytest.approx(
        second["slow_accuracy"]["mean"] - first["slow_accuracy"]["mean"]
    )
    assert gained["num_seeds"] == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(format=2), "format"),
        (lambda d: d["report"]["runs"][0].update(nmae="x"), r"runs\[0\]: unknown key 'nmae'"),
        (lambda d: d["report"]["runs"][0]["results"][0].update(seed="1"), r"results\[0\].seed"),
        (lambda d: d["report"]["runs"][0]["results"][0].pop("virtual_s"), "virtual_s"),
        (
            lambda d: d["report"]["runs"][0]["results"][0]["classes"][0].update(staleness={"a": 1}),
            "no whole number",
        ),
        (lambda d: d["report"]["runs"][0].update(results=[]), "no results"),
        (lambda d: d.update(report=None), "an object is needed"),
    ],
)
def test_a_document_of_another_kind_is_refused_with_the_place(change: object, says: str) -> None:
    document = json.loads(to_json(seeds("one", num=1)))
    assert callable(change)
    change(document)
    with pytest.raises(ConfigError, match=says):
        from_json(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b"1"])
def test_garbage_is_no_report(data: bytes) -> None:
    with pytest.raises(ConfigError, match="report"):
        from_json(data)


# --- the page --------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [seeds("one", num=1), against(), dry()])
def test_the_page_is_whole_and_refers_to_nothing_outside(report: Report) -> None:
    page = assert_stands_alone(to_html(report))
    drawn = plots(report)
    assert page.tags.count("figure") == page.tags.count("svg") == len(drawn)
    for plot in drawn:
        assert plot.reading in page.text
    assert report.command in page.text
    assert MEANING[TOO_STALE] in page.text
    assert "Updates lost" in page.text


def test_equal_results_give_equal_bytes() -> None:
    plot, again = (plots(seeds("one", num=1))[2] for _ in range(2))
    assert to_svg(plot) == to_svg(again)
    assert to_png(plot) == to_png(again)
    assert to_html(report_of((NOTHING,))) == to_html(report_of((NOTHING,)))


def test_names_from_scenario_files_stay_text() -> None:
    nasty = made_up(
        name=_NASTY,
        about=_NASTY,
        class_names=("_a", "\x00b", "日本 & co", _NASTY),
        refused={_NASTY: 2},
        notes=(Note(at_s=1.0, text=_NASTY),),
    )
    classes = tuple(replace(one, declined={_NASTY: 1}) for one in nasty.classes)
    report = report_of((replace(nasty, classes=classes),), (replace(nasty, scenario="b"),))
    page = assert_stands_alone(to_html(report))
    assert page.text.count("alert(") > 10
    assert all(to_png(plot).startswith(b"\x89PNG") for plot in plots(report))


@pytest.mark.parametrize(("lost", "mood"), [(0, b"tile good"), (3, b"tile bad")])
def test_what_is_lost_is_seen(lost: int, mood: bytes) -> None:
    page = to_html(report_of((replace(NOTHING, lost=lost),)))
    assert mood in page
    assert (b"tile bad" in page) == bool(lost)


def test_a_run_that_was_cut_short_at_once_has_a_page() -> None:
    page = assert_stands_alone(to_html(report_of((NOTHING,))))
    assert "Interrupted" in page.text
    assert "Nothing was refused" in page.text
    assert plots(report_of((NOTHING,))) == []


# --- plots -----------------------------------------------------------------------------------


def test_plots_show_what_was_measured_and_nothing_else() -> None:
    learned = ["accuracy_time", "accuracy_bytes", "accuracy_slow"]
    fleet = ["participation", "staleness", "refusals"]
    assert [plot.name for plot in plots(seeds("one"))] == [*learned, *fleet]
    assert [plot.name for plot in plots(against())] == [*learned, *fleet]
    assert [plot.name for plot in plots(dry())] == ["updates_time", *fleet]


def test_a_plot_is_a_png_for_papers_and_follows_the_screen_on_the_page() -> None:
    plot = plots(against())[0]
    assert to_png(plot).startswith(b"\x89PNG")
    svg = to_svg(plot)
    assert "var(--m0)" in svg
    assert "var(--m1)" in svg
    assert not re.search(r"#[0-9a-f]{6}", svg.replace("#ffffff", ""))


def test_an_overview_is_of_what_was_learned() -> None:
    both = overview(plots(against()))
    assert both is not None
    assert to_png(both).startswith(b"\x89PNG")
    assert overview(plots(dry())) is None


def drawing_of(report: Report, name: str) -> Figure:
    figure = Figure()
    next(plot for plot in plots(report) if plot.name == name).draw(figure)
    return figure


def unlike() -> Report:
    """Two scenarios whose device classes have nothing in common."""
    return report_of((made_up(name="a"),), (made_up(name="b", class_names=("x", "y", "lazy")),))


def test_each_scenario_s_classes_stand_beside_their_own_part_of_its_fleet() -> None:
    report = unlike()
    (axes,) = drawing_of(report, "participation").axes
    diamonds = [float(at[0]) for part in axes.collections for at in np.asarray(part.get_offsets())]
    every = [figures.shares(runs.results[0]) for runs in report.runs]
    assert diamonds == [fleet for shares in every for fleet, _ in shares.values()]
    assert sum(diamonds) == pytest.approx(2)


def test_a_legend_names_scenarios_that_the_first_class_is_not_of() -> None:
    legend = drawing_of(unlike(), "staleness").axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]


def test_the_slow_classes_of_every_scenario_are_named() -> None:
    (plot,) = (plot for plot in plots(unlike()) if plot.name == "accuracy_slow")
    assert "(slow and lazy)" in plot.reading


def test_no_band_of_accuracies_is_drawn_where_none_can_be() -> None:
    apart = tuple(
        replace(result, points=tuple(replace(p, accuracy=share) for p in result.points))
        for result, share in zip(seeds("one").runs[0].results, (0.1, 0.9, 0.95), strict=True)
    )
    for name in ("accuracy_time", "accuracy_bytes"):
        low, high = drawing_of(report_of(apart), name).axes[0].get_ylim()
        assert -0.05 < low < 0.1
        assert 0.95 < high < 1.05


# --- figures ---------------------------------------------------------------------------------


def text_of(report: Report, measure: measures.Measure) -> tuple[str, ...]:
    return next(row.values for row in cells.rows(report) if row.measure is measure)


def test_a_target_that_some_seeds_miss_is_told_by_the_median() -> None:
    never = tuple(replace(p, accuracy=0.2) for p in made_up().points)
    reached = tuple(made_up(seed) for seed in range(2))
    times = [point.at_s for r in reached for point in r.points if (point.accuracy or 0) >= 0.85]
    assert times
    some = report_of((*reached, made_up(2, points=never)))
    (text,) = text_of(some, measures.TIME_TO_TARGET)
    assert text.startswith("median ")
    assert text.endswith("reached by 2 of 3")
    fewer = report_of((reached[0], made_up(1, points=never), made_up(2, points=never)))
    assert text_of(fewer, measures.TIME_TO_TARGET) == ("reached by 1 of 3",)


def test_a_target_that_nobody_reaches_is_said_beside_one_that_is_reached() -> None:
    never = tuple(replace(p, accuracy=0.2) for p in made_up().points)
    report = report_of((made_up(),), (made_up(name="b", points=never),))
    assert text_of(report, measures.TIME_TO_TARGET)[1] == "not reached"


def test_no_verdict_rests_on_the_seeds_that_got_there() -> None:
    plain = tuple(made_up(seed, pace_s=60 + seed) for seed in range(4))
    fast = tuple(made_up(seed, name="b", pace_s=20 + seed) for seed in range(4))
    row = next(r for r in cells.rows(report_of(plain, fast)) if r.measure is TIME_TO_TARGET)
    assert row.differences[0].verdict == "better"
    never = replace(fast[3], points=tuple(replace(p, accuracy=0.2) for p in fast[3].points))
    some = report_of(plain, (*fast[:3], never))
    row = next(r for r in cells.rows(some) if r.measure is TIME_TO_TARGET)
    assert row.differences[0].verdict == ""
    assert row.differences[0].text.endswith("of 3 of 4 seeds")


def test_differences_are_taken_seed_by_seed() -> None:
    """Seeds differ far more than methods do: only pairs can tell."""
    plain = [made_up(seed, pace_s=20 + 10 * seed) for seed in range(4)]
    better = [
        replace(
            result,
            scenario="b",
            points=tuple(
                replace(point, accuracy=point.accuracy + 0.01)
                for point in result.points
                if point.accuracy is not None
            ),
        )
        for result in plain
    ]
    report = report_of(tuple(plain), tuple(better))
    row = next(row for row in cells.rows(report) if row.measure is measures.ACCURACY)
    assert row.differences[0].text.startswith("+0.010")
    assert row.differences[0].verdict == "better"
    assert measures.overall(report, report.runs[0], measures.ACCURACY) is not None


def test_dry_runs_have_figures_of_scale_first_and_no_accuracy() -> None:
    keys = [row.measure.key for row in cells.rows(dry())]
    assert keys[:5] == ["devices", "events", "events_per_s", "event_us", "peak_rss_bytes"]
    assert "accuracy" not in keys
