"""T shares say nothing, and no choice of questions makes more than T holders answer two sums."""

import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import combinations, pairwise
from math import comb

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.secagg.field import P16, Q31, Elements, lagrange, uniform
from protocol.secagg.shares import TEST_COLUMNS, Sharing, add, deal
from protocol.stream import derive
from tests.support.elimination import left_kernel, rank

SEED = bytes(range(32))
NUMBERS = [(10, 7, 4), (20, 14, 10), (20, 16, 6), (32, 24, 12), (12, 8, 6), (3, 3, 2), (3, 2, 1)]
CHI_SQUARE_15_AT_0_001 = 37.7
MAX_SUBSETS = 1000


def dealing(sharing: Sharing) -> Elements:
    """(N, U - T + T): a column of data and noise -> the shares of all holders."""
    known = sharing.data_points + sharing.share_points[: sharing.num_noise]
    return lagrange(known, sharing.share_points, sharing.modulus)


def noise_part(sharing: Sharing) -> Elements:
    return dealing(sharing)[:, sharing.num_blocks :]


def singular(matrices: Elements, modulus: int) -> npt.NDArray[np.bool_]:
    """Which of many square matrices (M, T, T) have determinant zero: elimination on all at once."""
    work, every = matrices.copy(), np.arange(len(matrices))
    bad = np.zeros(len(matrices), dtype=np.bool_)
    for step in range(work.shape[1]):
        pivot = step + (work[:, step:, step] != 0).argmax(axis=1)
        work[every, pivot], work[every, step] = work[every, step].copy(), work[every, pivot].copy()
        bad |= work[:, step, step] == 0
        # Row times pivot minus pivot row times entry: zero below, determinants keep being nonzero.
        for row in range(step + 1, work.shape[1]):
            kept = work[:, row] * work[:, step, step, np.newaxis] % modulus
            gone = work[:, step] * work[:, row, step, np.newaxis] % modulus
            work[:, row] = (kept - gone) % modulus
    return bad


def subsets(num_holders: int, size: int) -> list[tuple[int, ...]]:
    if comb(num_holders, size) <= MAX_SUBSETS:
        return list(combinations(range(num_holders), size))
    draw = random.Random(2)  # noqa: S311 - a sample of cases, not a secret
    return [tuple(draw.sample(range(num_holders), size)) for _ in range(MAX_SUBSETS)]


@pytest.mark.parametrize("modulus", [P16, Q31])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_what_is_dealt_is_the_dealing_matrix_times_data_and_noise(
    numbers: tuple[int, int, int], modulus: int
) -> None:
    """So that the claims on this matrix below are claims on `deal`."""
    sharing = Sharing(*numbers, modulus)
    secret = uniform(SEED, (sharing.num_blocks,), modulus)
    shares = deal(secret, sharing, SEED)[:, 0]
    column = [*secret.tolist(), *shares[: sharing.num_noise].tolist()]
    expected = dealing(sharing).astype(object) @ np.array(column, dtype=object) % modulus
    assert shares.tolist() == expected.tolist()


@pytest.mark.parametrize("modulus", [P16, Q31])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_every_minor_of_the_noise_is_invertible(
    numbers: tuple[int, int, int], modulus: int
) -> None:
    """Then any T shares are uniform whatever the secret: each value has one noise that makes it."""
    sharing = Sharing(*numbers, modulus)
    noise = noise_part(sharing)
    chosen = np.array(subsets(sharing.num_holders, sharing.num_noise))
    assert not singular(noise[chosen], modulus).any()


def test_a_singular_minor_would_be_seen() -> None:
    matrices = np.array([[[1, 2], [2, 4]], [[1, 2], [2, 5]], [[0, 1], [1, 0]], [[0, 1], [0, 2]]])
    assert singular(matrices, P16).tolist() == [True, False, False, True]


@pytest.mark.parametrize("modulus", [P16, Q31])
@pytest.mark.parametrize("holder", [0, 5, 11])
def test_a_single_share_is_uniform(holder: int, modulus: int) -> None:
    """A constant secret; holders below and above T; chi-square over 16 bins, p > 0.001."""
    sharing = Sharing(12, 8, 6, modulus)
    secret = np.full(2 * 16_000, 7)
    share = deal(secret, sharing, derive(SEED, "chi"))[holder]
    counts = np.bincount(share * 16 // modulus, minlength=16)
    expected = share.size / 16
    assert ((counts - expected) ** 2 / expected).sum() < CHI_SQUARE_15_AT_0_001


def test_the_same_secret_is_dealt_afresh_by_another_seed() -> None:
    sharing = Sharing(10, 7, 4, Q31)
    secret = np.arange(30)
    first, again, other = (deal(secret, sharing, derive(SEED, index)) for index in (0, 0, 1))
    assert np.array_equal(first, again)
    assert (first != other).all()


def test_test_columns_are_uniform_at_all_points_and_stay_out_of_answers() -> None:
    """Receipts show test columns + combinations: see the last test for what a sum of them shows."""
    sharing = Sharing(10, 7, 4, Q31)
    secret = np.arange(30)
    shares = deal(secret, sharing, SEED)
    tests = shares[:, -TEST_COLUMNS:]
    known = sharing.share_points[: sharing.num_answers]
    at_data = lagrange(known, sharing.data_points, Q31).astype(object) @ tests[:7] % Q31
    assert np.unique(at_data.astype(np.int64)).size == sharing.num_blocks * TEST_COLUMNS
    for holder in range(10):
        assert add(shares[[holder]], Q31).tolist() == shares[holder, :-TEST_COLUMNS].tolist()


# Split views. A holder puts a mask into one answer, ever. An aggregator with t colluding holders
# (who give away every single share) asks each honest holder for sums over groups of its choice.

NUM_DEALERS = 4
Group = AbstractSet[int]
Views = Sequence[Sequence[Group]]


def seen(sharing: Sharing, num_colluders: int, views: Views) -> tuple[Elements, ...]:
    """What was answered, as linear maps of all data (answers, dealers, U - T) and all noise."""
    rows = dealing(sharing)
    groups = [[frozenset({dealer}) for dealer in range(NUM_DEALERS)]] * num_colluders + list(views)
    answers = [
        np.multiply.outer([int(dealer in group) for dealer in range(NUM_DEALERS)], rows[holder])
        for holder, view in enumerate(groups)
        for group in view
    ]
    every = np.array(answers, dtype=np.int64).reshape(-1, NUM_DEALERS, sharing.num_answers)
    return every[..., : sharing.num_blocks], every[..., sharing.num_blocks :]


def revealed(sharing: Sharing, num_colluders: int, views: Views) -> Elements:
    """All functionals of the data that some combination of the answers shows free of noise."""
    data, noise = seen(sharing, num_colluders, views)
    free = left_kernel(noise.reshape(len(noise), -1), sharing.modulus)
    shown = free.astype(object) @ data.reshape(len(data), -1).astype(object)
    return np.asarray(shown % sharing.modulus, dtype=np.int64)


def of_group(group: Group, sharing: Sharing) -> Elements:
    """The functionals that a correct sum over the group shows."""
    members = [int(dealer in group) for dealer in range(NUM_DEALERS)]
    return np.kron(members, np.eye(sharing.num_blocks, dtype=np.int64))


groups = st.sets(st.integers(0, NUM_DEALERS - 1), min_size=2).map(frozenset)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), modulus=st.sampled_from([P16, Q31]))
def test_split_views_show_one_consistent_sum_or_nothing(data: st.DataObject, modulus: int) -> None:
    """N, t, T, U = 9, 1, 5, 7: 2 T >= N + t."""
    choice = data.draw(st.lists(groups, min_size=1, max_size=3))
    asked = data.draw(st.lists(st.sampled_from(choice), min_size=8, max_size=8))
    sharing = Sharing(9, 7, 5, modulus)
    shown = revealed(sharing, 1, [[group] for group in asked])
    most = max(asked, key=asked.count)
    num_shares = 1 + asked.count(most)
    expected = min(max(num_shares - sharing.num_noise, 0), sharing.num_blocks)
    assert rank(shown, modulus) == expected
    # ... and all of it belongs to that one sum.
    assert rank(np.vstack((shown, of_group(most, sharing))), modulus) == sharing.num_blocks


@pytest.mark.parametrize("modulus", [P16, Q31])
def test_two_groups_and_their_union_show_one_mixture_where_n_plus_t_is_odd(modulus: int) -> None:
    """N, t, T, U = 10, 1, 5, 7: 2 (T + 1) > N + t, but 2 T < N + t.

    With three overlapping groups nobody has more than T shares of any. But one is the union of the
    others, so its polynomial is the sum of theirs: N + t equations in 2 T unknowns. What they show
    is of both sums, a number a column; of no group, and of no dealer, alone.
    """
    sharing = Sharing(10, 7, 5, modulus)
    one, other = frozenset({0, 3}), frozenset({1, 2})
    views = [[one]] * 3 + [[other]] * 3 + [[one | other]] * 3
    shown = revealed(sharing, 1, views)
    assert rank(shown, modulus) == 1
    both = np.vstack((of_group(one, sharing), of_group(other, sharing)))
    assert rank(np.vstack((shown, both)), modulus) == rank(both, modulus)
    for group in (one, other, one | other, *({dealer} for dealer in range(NUM_DEALERS))):
        alone = np.vstack((shown, of_group(group, sharing)))
        assert rank(alone, modulus) == 1 + sharing.num_blocks


@st.composite
def partitions(draw: st.DrawFn) -> list[Group]:
    """A holder's answers: disjoint groups of two or more; some masks it was never asked for."""
    order = draw(st.permutations(range(NUM_DEALERS)))
    cut = draw(st.sampled_from([(0, 4), (0, 3), (0, 2), (0, 2, 4), (0,)]))
    return [set(order[low:high]) for low, high in pairwise(cut)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_collection_of_answers_isolates_a_dealer(data: st.DataObject) -> None:
    choice = data.draw(st.lists(partitions(), min_size=1, max_size=4))
    views = data.draw(st.lists(st.sampled_from(choice), min_size=9, max_size=9))
    sharing = Sharing(10, 7, 5, Q31)
    shown = revealed(sharing, 1, views)
    height = rank(shown, Q31)
    for dealer in range(NUM_DEALERS):
        alone = np.vstack((shown, of_group({dealer}, sharing)))
        assert rank(alone, Q31) == height + sharing.num_blocks


def test_too_little_noise_would_let_split_views_isolate_a_dealer() -> None:
    """The control: N, t, T, U = 10, 1, 3, 5 breaks 2 (T + 1) > N + t."""
    sharing = Sharing(10, 5, 3, Q31)
    views = [[{0, 1, 2}]] * 4 + [[{1, 2}]] * 5
    shown = revealed(sharing, 1, views)
    assert rank(shown, Q31) == 2 * sharing.num_blocks
    alone = np.vstack((shown, of_group({0}, sharing)))
    assert rank(alone, Q31) == rank(shown, Q31)


def test_answering_a_mask_twice_would_isolate_a_dealer() -> None:
    """The control: holders who put masks into two answers."""
    sharing = Sharing(10, 7, 5, Q31)
    shown = revealed(sharing, 1, [[{0, 1, 2}, {1, 2}]] * 9)
    alone = np.vstack((shown, of_group({0}, sharing)))
    assert rank(alone, Q31) == rank(shown, Q31)


def test_summed_test_columns_would_show_more_than_the_sum() -> None:
    """The control for leaving them out: next to receipts they are equations in single shares."""
    sharing = Sharing(10, 7, 5, Q31)
    factors = uniform(derive(SEED, "factors"), (NUM_DEALERS,), Q31)
    summed = [[set(range(NUM_DEALERS))]] * 10
    data, noise = seen(sharing, 0, summed)
    # Sum of test columns = sum of receipts (known) - sum of factor_i * share_i (one column each).
    tests_data = data * factors[:, np.newaxis] % Q31
    tests_noise = noise * factors[:, np.newaxis] % Q31
    free = left_kernel(np.vstack((noise, tests_noise)).reshape(20, -1), Q31).astype(object)
    shown = free @ np.vstack((data, tests_data)).reshape(20, -1).astype(object) % Q31
    assert rank(revealed(sharing, 0, summed), Q31) == sharing.num_blocks
    assert rank(shown.astype(np.int64), Q31) == 2 * sharing.num_blocks
