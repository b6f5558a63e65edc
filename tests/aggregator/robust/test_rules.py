"""What every rule promises: order does not matter, agreement is kept, a minority cannot win."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.robust import Combine, Float64, mean, norms_of, weighted_mean
from aggregator.robust.centred_clipping import centred_clip
from aggregator.robust.clipping import clipped_mean, usual
from aggregator.robust.coordinates import coordinate_median, trimmed_mean
from aggregator.robust.fltrust import fltrust
from aggregator.robust.geometric_median import geometric_median
from aggregator.robust.krum import krum_scores, multi_krum

SIZE: Final = 6
#: All the rules for 9 rows or more of which up to 2 lie; FLTrust's root is nearly the honest mean.
ROOT: Final = np.linspace(0.8, 1.3, SIZE)
RULES: Final[Mapping[str, Combine]] = {
    "clip": partial(clipped_mean, radius=4.0),
    "median": coordinate_median,
    "trimmed_mean": partial(trimmed_mean, share=0.25),
    "krum": partial(multi_krum, num_attackers=2, num_chosen=1),
    "multi_krum": partial(multi_krum, num_attackers=2),
    "geometric_median": geometric_median,
    "centred_clip": partial(centred_clip, centre=np.ones(SIZE), radius=1.0),
    "fltrust": partial(fltrust, root=ROOT),
}
ALL: Final = {"mean": mean, **RULES}


def honest(num_rows: int, seed: int, spread: float = 0.3) -> Float64:
    """Rows around 1 in every coordinate."""
    return 1.0 + spread * np.random.default_rng(seed).standard_normal((num_rows, SIZE))


seeds = st.integers(0, 1 << 30)


@pytest.mark.parametrize("name", ALL)
@given(seed=seeds, num_rows=st.integers(9, 15))
@settings(max_examples=20)
def test_the_order_of_rows_does_not_matter(name: str, seed: int, num_rows: int) -> None:
    rng = np.random.default_rng(seed)
    rows, weights = honest(num_rows, seed), rng.uniform(0.5, 2.0, num_rows)
    order = rng.permutation(num_rows)
    given_, shuffled = ALL[name](rows, weights), ALL[name](rows[order], weights[order])
    np.testing.assert_allclose(shuffled.vector, given_.vector, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(shuffled.kept, given_.kept[order], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"fltrust"}))
@given(seed=seeds, num_rows=st.integers(9, 15))
@settings(max_examples=20)
def test_rows_that_agree_are_what_comes_out(name: str, seed: int, num_rows: int) -> None:
    rows = np.tile(honest(1, seed), (num_rows, 1))
    weights = np.random.default_rng(seed).uniform(0.5, 2.0, num_rows)
    combined = ALL[name](rows, weights)
    np.testing.assert_allclose(combined.vector, rows[0], rtol=1e-9)
    if name != "krum":
        assert combined.kept.sum() >= num_rows - 2


@pytest.mark.parametrize("name", RULES)
@given(seed=seeds, length=st.sampled_from([0.0, 1.0, 1e3, 1e12]), num_voices=st.integers(1, 2))
@settings(max_examples=40)
def test_two_liars_of_nine_move_it_no_farther_than_the_honest_reach(
    name: str, seed: int, length: float, num_voices: int
) -> None:
    """Whatever they say, and whether they say the same; the mean goes as far as they like."""
    rng = np.random.default_rng(seed)
    lies = length * rng.standard_normal((2, SIZE))
    lies[1] = lies[num_voices - 1]
    rows, weights = np.concatenate([honest(7, seed), lies]), np.ones(9)
    off = float(np.linalg.norm(RULES[name](rows, weights).vector - 1.0))
    assert off < 2.0
    if length == 1e12:
        assert np.linalg.norm(mean(rows, weights).vector) > 1e9


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"krum", "fltrust", "clip"}))
@given(seed=seeds)
@settings(max_examples=10)
def test_liars_far_away_keep_next_to_nothing(name: str, seed: int) -> None:
    rows = np.concatenate([honest(7, seed), np.full((2, SIZE), -1e6)])
    combined = RULES[name](rows, np.ones(9))
    assert combined.kept[7:].max() < 0.01
    assert combined.kept[:7].mean() > 0.5


@pytest.mark.parametrize("name", ALL)
@given(seed=seeds)
@settings(max_examples=10)
def test_rows_are_not_changed(name: str, seed: int) -> None:
    rows, weights = honest(9, seed), np.ones(9)
    rows.setflags(write=False)
    weights.setflags(write=False)
    assert ((ALL[name](rows, weights).kept >= 0) & (ALL[name](rows, weights).kept <= 1)).all()


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"krum", "multi_krum", "fltrust"}))
def test_one_row_is_what_comes_out(name: str) -> None:
    row = np.full((1, SIZE), 0.5)
    np.testing.assert_allclose(ALL[name](row, np.ones(1)).vector, row[0])


# --- single rules --------------------------------------------------------------------------------


@given(seed=seeds, num_rows=st.integers(1, 9))
@settings(max_examples=30)
def test_equal_weights_give_numpys_median(seed: int, num_rows: int) -> None:
    rows = honest(num_rows, seed)
    vector = coordinate_median(rows, np.full(num_rows, 0.3)).vector
    np.testing.assert_allclose(vector, np.median(rows, axis=0), rtol=1e-12)


@given(seed=seeds, num_rows=st.integers(1, 9), share=st.floats(0.0, 0.45))
@settings(max_examples=30)
def test_a_weight_counts_like_as_many_rows(seed: int, num_rows: int, share: float) -> None:
    rows = honest(num_rows, seed)
    times = np.random.default_rng(seed).integers(1, 4, num_rows)
    many = np.repeat(rows, times, axis=0)
    rules: list[Any] = [coordinate_median, geometric_median, partial(trimmed_mean, share=share)]
    for rule in rules:
        weighed = rule(rows, times.astype(np.float64)).vector
        np.testing.assert_allclose(weighed, rule(many, np.ones(len(many))).vector, atol=1e-4)


@given(seed=seeds, num_rows=st.integers(1, 9))
@settings(max_examples=20)
def test_without_anything_to_trim_or_clip_it_is_the_mean(seed: int, num_rows: int) -> None:
    rows, weights = honest(num_rows, seed), np.random.default_rng(seed).uniform(1, 9, num_rows)
    longest = float(norms_of(rows).max())
    for rule in (
        partial(trimmed_mean, share=0.0),
        partial(clipped_mean, radius=longest),
        partial(centred_clip, centre=np.zeros(SIZE), radius=3 * longest),
        partial(multi_krum, num_attackers=0, num_chosen=num_rows),
    ):
        if num_rows < 3 and rule.func is multi_krum:
            continue
        combined = rule(rows, weights)
        np.testing.assert_allclose(combined.vector, weighted_mean(rows, weights), rtol=1e-9)
        if rule.func is not trimmed_mean:
            np.testing.assert_allclose(combined.kept, 1.0, rtol=1e-9)


@given(seed=seeds, num_rows=st.integers(3, 15))
@settings(max_examples=30)
def test_no_point_nearby_has_a_lower_sum_of_distances(seed: int, num_rows: int) -> None:
    rows, weights = honest(num_rows, seed), np.ones(num_rows)
    centre = geometric_median(rows, weights).vector
    nearby = centre + 0.05 * np.random.default_rng(seed).standard_normal((20, SIZE))
    sums = [norms_of(rows - point).sum() for point in (centre, *nearby)]
    assert sums[0] <= min(sums) * (1 + 1e-6)


def test_the_median_of_mostly_nothing_is_nothing() -> None:
    rows = np.array([[0.0, 0.0], [0.0, 0.0], [5.0, 5.0]])
    combined = geometric_median(rows, np.ones(3))
    assert combined.vector.tolist() == [0.0, 0.0]
    assert combined.kept.tolist() == [1.0, 1.0, 0.0]


def test_geometric_median_of_rows_with_nothing_in_common_has_all_of_them() -> None:
    """Sparse updates, each with coordinates of its own: their median by coordinate is 0."""
    rows, weights = np.eye(5), np.ones(5)
    np.testing.assert_allclose(geometric_median(rows, weights).vector, 0.2, rtol=1e-5)
    assert not coordinate_median(rows, weights).vector.any()


def test_krums_scores_are_the_papers() -> None:
    """Of 5 rows and 1 attacker: the two closest neighbours count."""
    rows = np.array([[0.0], [1.0], [2.0], [4.0], [9.0]])
    assert krum_scores(rows, 1).tolist() == [1 + 4, 1 + 1, 1 + 4, 4 + 9, 25 + 49]
    assert multi_krum(rows, np.ones(5), num_attackers=1, num_chosen=1).vector.tolist() == [1.0]


def test_krum_refuses_what_is_too_few() -> None:
    with pytest.raises(ValueError, match="4 rows: Krum needs 5"):
        krum_scores(np.zeros((4, 2)), 1)


def test_clipping_bounds_a_scaled_row_to_the_radius() -> None:
    rows = np.array([[3.0, 4.0], [300.0, 400.0]])
    combined = clipped_mean(rows, np.ones(2), radius=usual([5.0, 5.0, 500.0]))
    np.testing.assert_allclose(combined.vector, [3.0, 4.0])
    np.testing.assert_allclose(combined.kept, [1.0, 0.01])


def test_fltrust_leaves_out_who_points_away_and_shortens_who_exaggerates() -> None:
    rows = np.array([[1.0, 0.0], [100.0, 0.0], [-5.0, 0.0], [0.0, 7.0]])
    combined = fltrust(rows, np.ones(4), root=np.array([2.0, 0.0]))
    np.testing.assert_allclose(combined.vector, [2.0, 0.0])
    np.testing.assert_allclose(combined.kept, [1.0, 0.02, 0.0, 0.0])


@pytest.mark.parametrize("root", [[0.0, 0.0], [-1.0, 0.0]])
def test_fltrust_takes_no_step_if_nobody_is_trusted(root: list[float]) -> None:
    combined = fltrust(np.array([[1.0, 0.0]]), np.ones(1), root=np.array(root))
    assert not combined.vector.any()
    assert not combined.kept.any()
