"""What several seeds say together."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.report.bands import Curve, band, interval, late_mean
from simulator.report.figures import jain

values = st.floats(-1e3, 1e3)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    places = sorted(draw(st.sets(st.integers(0, 100), min_size=2, max_size=20)))
    heights = draw(st.lists(values, min_size=len(places), max_size=len(places)))
    return Curve(np.asarray(places, dtype=float), np.asarray(heights))


def curve(*pairs: tuple[float, float]) -> Curve:
    x, y = zip(*pairs, strict=True)
    return Curve(np.asarray(x, dtype=float), np.asarray(y, dtype=float))


def test_an_interval_is_students_t_at_95_percent() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == pytest.approx(2)
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_seed_has_no_interval_and_none_has_no_mean() -> None:
    only = interval([0.5])
    assert only is not None
    assert only.half_width is None
    assert not only.excludes_zero
    assert interval([]) is None


@given(curves(), st.floats(0, 99), st.floats(0.5, 50))
def test_a_span_has_the_mean_of_what_held_in_it(one: Curve, begin: float, span: float) -> None:
    begin = max(begin, float(one.x[0]))
    edges = np.linspace(begin, begin + span, 4)
    fine = np.linspace(begin, begin + span, 30_000, endpoint=False)
    expected = one.at(fine).reshape(3, -1).mean(axis=1)
    assert one.between(edges) == pytest.approx(expected, rel=1e-2, abs=2)


def test_a_value_counts_as_long_as_it_held() -> None:
    one = curve((0, 0.0), (8, 1.0), (9, 0.5))
    assert one.between(np.asarray([0.0, 10.0]))[0] == pytest.approx(0.15)
    assert late_mean(one, 10.0) == pytest.approx(0.75)


def test_a_run_that_was_judged_once_late_has_that_for_its_late_mean() -> None:
    assert late_mean(curve((10, 0.3)), 10.0) == pytest.approx(0.3)
    assert late_mean(Curve(np.zeros(0), np.zeros(0)), 10.0) is None


def test_a_band_lasts_while_all_curves_do() -> None:
    found = band([curve((0, 1), (10, 1)), curve((5, 2), (20, 2)), curve((1, 3), (30, 3))])
    assert found is not None
    assert found.x[0] > 5
    assert found.x[-1] < 10
    assert found.mean == pytest.approx(np.full(len(found.x), 2))
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_two_seeds_make_a_mean_but_no_band() -> None:
    found = band([curve((0, 1), (10, 1)), curve((0, 2), (10, 2))])
    assert found is not None
    assert found.half is None
    assert found.seeds.mean(axis=0) == pytest.approx(found.mean)


def test_curves_that_never_go_on_together_have_no_band() -> None:
    assert band([curve((0, 1), (1, 1)), curve((2, 1), (3, 1))]) is None
    assert band([curve((0, 1), (1, 1)), Curve(np.zeros(0), np.zeros(0))]) is None
    assert band([]) is None


def test_fairness_is_1_for_alike_and_1_of_n_if_one_has_all() -> None:
    assert jain([4, 4, 4]) == pytest.approx(1)
    assert jain([0, 0, 5, 0]) == pytest.approx(1 / 4)
    assert jain([1, 2, 3]) == pytest.approx(36 / (3 * 14))
    assert jain([0, 0]) is None
