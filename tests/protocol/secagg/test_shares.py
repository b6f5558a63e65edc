"""Any U answers decode the exact sum; fewer raise; wrong ones are found, named where possible."""

import random
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ConfigError, LocalProtocolError
from protocol.secagg.field import P16, Q31, Elements, uniform, word_type
from protocol.secagg.shares import (
    MAX_WEIGHT,
    TEST_COLUMNS,
    RecoveryError,
    Sharing,
    add,
    columns,
    deal,
    deal_words,
    outliers,
    recover,
)
from protocol.stream import derive

SEED = bytes(range(32))
NUMBERS = [(10, 7, 4), (20, 14, 10), (20, 16, 6), (32, 24, 12), (12, 8, 6), (3, 3, 2), (3, 2, 1)]
MODULI = [P16, Q31]


def secrets(num_dealers: int, size: int, modulus: int) -> Elements:
    return uniform(derive(SEED, "secrets"), (num_dealers, size), modulus)


def answers_of(
    sharing: Sharing, dealt: list[Elements], weights: list[int] | None = None
) -> dict[int, Elements]:
    """Every holder's answer to one request for all masks."""
    return {
        holder: add(np.stack([shares[holder] for shares in dealt]), sharing.modulus, weights)
        for holder in range(sharing.num_holders)
    }


def one_sum(sharing: Sharing, size: int = 29) -> tuple[Elements, dict[int, Elements]]:
    """The sum of three secrets, and all answers."""
    own = secrets(3, size, sharing.modulus)
    dealt = [deal(secret, sharing, derive(SEED, index)) for index, secret in enumerate(own)]
    return own.sum(axis=0) % sharing.modulus, answers_of(sharing, dealt)


def some(answers: dict[int, Elements], holders: object) -> dict[int, Elements]:
    return {holder: answers[holder] for holder in holders}  # type: ignore[attr-defined]


def interpolated(known: dict[int, int], point: int, modulus: int) -> int:
    """The value at ``point`` of the polynomial through ``known``: Lagrange, in big integers."""
    total = 0
    for x, value in known.items():
        above, below = 1, 1
        for other in known:
            if other != x:
                above, below = above * (point - other), below * (x - other)
        total += value * above * pow(below, -1, modulus)
    return total % modulus


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("numbers", NUMBERS)
def test_any_survivors_decode_the_exact_sum(numbers: tuple[int, int, int], modulus: int) -> None:
    sharing = Sharing(*numbers, modulus)
    expected, answers = one_sum(sharing)
    draw = random.Random(1)  # noqa: S311 - which holders survive is no secret
    for _ in range(20):
        survivors = draw.sample(range(sharing.num_holders), sharing.num_answers)
        recovered = recover(some(answers, survivors), sharing, expected.size)
        assert np.array_equal(recovered.secret, expected)
        assert (recovered.liars, recovered.checked) == ((), False)


@pytest.mark.parametrize("modulus", MODULI)
def test_weighted_sums_of_shares_decode_to_weighted_sums(modulus: int) -> None:
    sharing = Sharing(10, 7, 4, modulus)
    weights = [1, MAX_WEIGHT, 3]
    own = np.full((3, 20), modulus - 1)  # the largest elements: nothing may overflow
    dealt = [deal(secret, sharing, derive(SEED, index)) for index, secret in enumerate(own)]
    recovered = recover(answers_of(sharing, dealt, weights), sharing, 20)
    assert recovered.secret.tolist() == [-sum(weights) % modulus] * 20


def test_a_hundred_largest_shares_add_up_without_overflow() -> None:
    shares = np.full((100, 5 + TEST_COLUMNS), Q31 - 1)
    assert add(shares, Q31, [MAX_WEIGHT] * 100).tolist() == [-800 % Q31] * 5


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_dealing_and_decoding_agree_with_the_textbook(data: st.DataObject) -> None:
    num_holders = data.draw(st.integers(2, 9))
    num_answers = data.draw(st.integers(2, num_holders))
    sharing = Sharing(
        num_holders,
        num_answers,
        data.draw(st.integers(1, num_answers - 1)),
        data.draw(st.sampled_from([17 + 2, 257, P16, Q31])),
    )
    element = st.integers(0, sharing.modulus - 1)
    secret = data.draw(st.lists(element, min_size=1, max_size=12))
    shares = deal(np.array(secret), sharing, data.draw(st.binary(min_size=32, max_size=32)))
    num_columns = columns(len(secret), sharing)
    assert shares.shape == (num_holders, num_columns + TEST_COLUMNS)
    padded = secret + [0] * (num_columns * sharing.num_blocks - len(secret))
    survivors = data.draw(st.permutations(range(num_holders)))[:num_answers]
    for column in range(num_columns):
        known = {num_answers + 1 + holder: int(shares[holder, column]) for holder in survivors}
        decoded = [
            interpolated(known, point, sharing.modulus)
            for point in range(1, 1 + sharing.num_blocks)
        ]
        assert decoded == padded[column::num_columns]
        for holder in range(num_holders):
            point = num_answers + 1 + holder
            assert shares[holder, column] == interpolated(known, point, sharing.modulus)
    answers = {holder: add(shares[[holder]], sharing.modulus) for holder in survivors}
    assert recover(answers, sharing, len(secret)).secret.tolist() == secret


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("size", [1, 40, 12_300])
def test_dealt_words_are_the_shares_as_they_travel(modulus: int, size: int) -> None:
    """12,300 elements: more columns than are worked on at a time."""
    sharing = Sharing(12, 8, 4, modulus)
    (secret,) = secrets(1, size, modulus)
    travelling = deal_words(secret, sharing, SEED)
    assert travelling.dtype == word_type(modulus)
    assert travelling.tolist() == deal(secret, sharing, SEED).tolist()
    answers = {
        holder: add([row], sharing.modulus) for holder, row in enumerate(travelling) if holder > 3
    }
    np.testing.assert_array_equal(recover(answers, sharing, size).secret, secret)


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("weight", [None, 1, 8])
def test_sums_of_words_do_not_wrap(modulus: int, weight: int | None) -> None:
    shares = [np.full(5 + TEST_COLUMNS, modulus - 1, word_type(modulus))] * 128
    weights = None if weight is None else [weight] * 128
    assert add(shares, modulus, weights).tolist() == [-128 * (weight or 1) % modulus] * 5


@pytest.mark.parametrize("numbers", NUMBERS)
def test_one_answer_too_few_raises(numbers: tuple[int, int, int]) -> None:
    sharing = Sharing(*numbers, Q31)
    expected, answers = one_sum(sharing)
    with pytest.raises(RecoveryError, match="are needed"):
        recover(some(answers, range(sharing.num_answers - 1)), sharing, expected.size)


def test_no_answer_raises() -> None:
    with pytest.raises(RecoveryError, match="0 answers"):
        recover({}, Sharing(3, 3, 2, Q31), 10)


def test_exactly_enough_answers_blame_nobody() -> None:
    sharing = Sharing(10, 7, 4, Q31)
    expected, answers = one_sum(sharing)
    answers[2] = (answers[2] + 1) % Q31
    recovered = recover(some(answers, range(7)), sharing, expected.size)
    assert (recovered.liars, recovered.checked) == ((), False)
    assert not np.array_equal(recovered.secret, expected)


@pytest.mark.parametrize("modulus", MODULI)
def test_one_spare_detects_a_wrong_answer_and_names_nobody(modulus: int) -> None:
    sharing = Sharing(10, 7, 4, modulus)
    expected, answers = one_sum(sharing)
    honest = recover(some(answers, range(8)), sharing, expected.size)
    assert honest.checked
    assert np.array_equal(honest.secret, expected)
    for liar in range(8):
        lied = some(answers, range(8))
        lied[liar] = (lied[liar] + np.eye(1, lied[liar].size, 3, dtype=np.int64)[0]) % modulus
        with pytest.raises(RecoveryError, match="contradict"):
            recover(lied, sharing, expected.size)


@pytest.mark.parametrize("modulus", MODULI)
def test_two_spares_name_any_one_liar(modulus: int) -> None:
    sharing = Sharing(10, 7, 4, modulus)
    expected, answers = one_sum(sharing)
    for liar in range(9):
        lied = some(answers, range(9))
        lied[liar] = lied[liar].copy()
        lied[liar][liar] ^= 1  # in one column only
        recovered = recover(lied, sharing, expected.size)
        assert (recovered.liars, recovered.checked) == ((liar,), True)
        assert np.array_equal(recovered.secret, expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_as_many_liars_as_half_the_spares_are_named(data: st.DataObject) -> None:
    sharing = Sharing(20, 10, 6, data.draw(st.sampled_from(MODULI)))
    expected, answers = one_sum(sharing)
    num_answers = data.draw(st.integers(10, 20))
    given_by = data.draw(st.permutations(range(20)))[:num_answers]
    liars = given_by[: data.draw(st.integers(0, (num_answers - 10) // 2))]
    answers = some(answers, given_by)
    for liar in liars:
        column = data.draw(st.integers(0, answers[liar].size - 1))
        lie = data.draw(st.integers(1, sharing.modulus - 1))
        answers[liar] = answers[liar].copy()
        answers[liar][column] = (answers[liar][column] + lie) % sharing.modulus
    recovered = recover(answers, sharing, expected.size)
    assert recovered.liars == tuple(sorted(liars))
    assert np.array_equal(recovered.secret, expected)


def test_every_pair_of_liars_is_named_whatever_they_agree_on() -> None:
    sharing = Sharing(9, 4, 2, P16)
    expected, answers = one_sum(sharing)
    for pair in combinations(range(9), 2):
        lied = answers | {liar: np.full_like(answers[liar], 7) for liar in pair}
        assert recover(lied, sharing, expected.size).liars == pair


@pytest.mark.parametrize("num_columns", [1, 10])
@pytest.mark.parametrize("num_answers", [8, 9, 10, 11, 12])
def test_more_liars_than_can_be_located_raise(num_answers: int, num_columns: int) -> None:
    """Lies in one column only leave the locator's equations solvable, in vain."""
    sharing = Sharing(12, 7, 4, Q31)
    expected, answers = one_sum(sharing)
    num_spares = num_answers - sharing.num_answers
    answers = some(answers, range(num_answers))
    for liar in range(num_spares // 2 + 1):
        lie = uniform(derive(SEED, "lie", liar), (num_columns,), Q31)
        answers[liar] = np.concatenate((lie, answers[liar][num_columns:]))
    with pytest.raises(RecoveryError, match="contradict"):
        recover(answers, sharing, expected.size)


def test_a_lie_that_cancels_in_one_combination_is_still_located() -> None:
    """In a field this small one random combination in 17 would hide it; four do not."""
    sharing = Sharing(8, 4, 2, 17)
    rows = deal(np.zeros(20, dtype=np.int64), sharing, SEED)
    for trial in range(200):
        lied = rows.copy()
        lied[[0, 2]] = uniform(derive(SEED, trial), (2, rows.shape[1]), 17)
        assert outliers(sharing.share_points, lied, sharing.num_answers, 17) == (0, 2)


@pytest.mark.parametrize("numbers", [(3, 3, 0), (3, 3, 3), (3, 4, 2), (0, 0, 0), (3, 2, -1)])
def test_numbers_that_protect_or_decode_nothing_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="0 < T < U <= N"):
        Sharing(*numbers, Q31)


def test_points_of_data_and_shares_cannot_overlap() -> None:
    """The largest cohort a small field allows has distinct points; one more is refused."""
    largest = Sharing(10, 6, 4, 17)
    points = (*largest.data_points, *largest.share_points)
    assert len({point % 17 for point in points} - {0}) == len(points)
    with pytest.raises(ConfigError, match="more points"):
        Sharing(11, 6, 4, 17)


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [MAX_WEIGHT + 1, 1], [64, 1]])
def test_weights_out_of_range_are_refused(weights: list[int]) -> None:
    with pytest.raises(LocalProtocolError, match="weights"):
        add(np.ones((2, 6), dtype=np.int64), Q31, weights)


def test_answers_must_fit_the_sharing() -> None:
    sharing = Sharing(3, 2, 1, Q31)
    _, answers = one_sum(sharing)
    with pytest.raises(LocalProtocolError, match="columns"):
        recover(answers, sharing, 28)
    with pytest.raises(LocalProtocolError, match="holder"):
        recover({0: answers[0], 3: answers[1]}, sharing, 29)


def test_dealt_bytes_are_frozen() -> None:
    """If this fails, dealers no longer make the shares that the specification says."""
    shares = deal(np.arange(5), Sharing(4, 3, 1, Q31), SEED)
    assert shares.tolist() == FROZEN


FROZEN = [
    [610744681, 651327930, 260220497, 629769357, 95914472, 1214205174, 1487180904],
    [1221489356, 1302655853, 520440996, 1197281893, 1387870304, 1631533228, 1366823264],
    [1320019108, 739500122, 867401662, 1499945366, 342266064, 1935874403, 283209011],
    [906333937, 1109250178, 1301102495, 1537759776, 1253880634, 2127228699, 383727586],
]
