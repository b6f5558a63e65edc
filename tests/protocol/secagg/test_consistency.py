"""A dealer that hands out inconsistent shares is found out; no honest holder is ever named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.secagg.consistency import (
    COMMITMENT_BYTES,
    ROOT_BYTES,
    commitment,
    commitments,
    consistent_holders,
    receipt,
    receipts,
    root,
)
from protocol.secagg.field import P16, Q31, Elements, to_bytes, uniform, word_type
from protocol.secagg.shares import TEST_COLUMNS, RecoveryError, Sharing, add, deal, recover
from protocol.stream import derive

SEED = bytes(range(32))
SIZE = 40
MODULI = [P16, Q31]
SHARING = Sharing(12, 7, 4, Q31)
holder_sets = st.sets(st.integers(0, 11))


def dealt(sharing: Sharing = SHARING, dealer: int = 0) -> Elements:
    secret = uniform(derive(SEED, "secret", dealer), (SIZE,), sharing.modulus)
    return deal(secret, sharing, derive(SEED, "deal", dealer))


def receipts_for(shares: Elements, sharing: Sharing, mask_id: bytes = b"mask") -> dict[int, bytes]:
    """What honest holders answer, whatever rows they were dealt."""
    test_root = root(mask_id, commitments(mask_id, shares, sharing.modulus))
    return {holder: receipt(test_root, row, sharing.modulus) for holder, row in enumerate(shares)}


def spoil(shares: Elements, holders: set[int], modulus: int) -> Elements:
    """Change one element of the share of each of ``holders``."""
    spoilt = shares.copy()
    for holder in holders:
        column = holder % (shares.shape[1] - TEST_COLUMNS)
        spoilt[holder, column] = (spoilt[holder, column] + 1 + holder) % modulus
    return spoilt


@pytest.mark.parametrize("modulus", MODULI)
def test_an_honest_dealer_passes(modulus: int) -> None:
    sharing = Sharing(12, 7, 4, modulus)
    assert consistent_holders(receipts_for(dealt(sharing), sharing), sharing) == set(range(12))


@pytest.mark.parametrize("modulus", MODULI)
def test_every_single_spoilt_row_is_found(modulus: int) -> None:
    sharing = Sharing(12, 7, 4, modulus)
    for holder in range(12):
        receipts = receipts_for(spoil(dealt(sharing), {holder}, modulus), sharing)
        assert consistent_holders(receipts, sharing) == set(range(12)) - {holder}


@settings(max_examples=60, deadline=None)
@given(spoilt=holder_sets, present=holder_sets)
def test_an_inconsistent_dealer_is_caught(spoilt: set[int], present: set[int]) -> None:
    """Whoever receipts the spoilt rows: beyond U receipts, they are found or all is refused."""
    receipts = receipts_for(spoil(dealt(), spoilt, Q31), SHARING)
    received = {holder: receipts[holder] for holder in sorted(present)}
    consistent = consistent_holders(received, SHARING)
    num_spares = len(present) - SHARING.num_answers
    if num_spares <= 0:
        assert consistent == present
    elif len(spoilt & present) <= num_spares // 2:
        assert consistent == present - spoilt
    else:
        assert consistent == set()


@settings(max_examples=60, deadline=None)
@given(wrong=st.lists(holder_sets, min_size=3, max_size=3), lying=st.booleans())
def test_no_honest_holder_is_ever_named(wrong: list[set[int]], lying: bool) -> None:  # noqa: FBT001
    """Any rows of any dealers spoilt: answers of those who passed decode, or only name the liar."""
    rows = [spoil(dealt(SHARING, dealer), bad, Q31) for dealer, bad in enumerate(wrong)]
    passed = set(range(12)).intersection(
        *(consistent_holders(receipts_for(shares, SHARING), SHARING) for shares in rows)
    )
    answers = {
        holder: add(np.stack([shares[holder] for shares in rows]), Q31) for holder in sorted(passed)
    }
    liar = min(passed, default=0)
    if lying and passed:
        answers[liar] = (answers[liar] + 1) % Q31
    try:
        recovered = recover(answers, SHARING, SIZE)
    except RecoveryError:
        assert lying or len(passed) < SHARING.num_answers
        return
    assert set(recovered.liars) <= ({liar} if lying else set())


def test_without_the_test_honest_holders_would_be_named() -> None:
    """The control: what the dealers' test is there to prevent."""
    shares = spoil(dealt(), {5}, Q31)
    answers = {holder: add(shares[[holder]], Q31) for holder in range(12)}
    assert recover(answers, SHARING, SIZE).liars == (5,)


def test_two_polynomials_at_once_pass_for_neither() -> None:
    """Half of the holders get consistent shares of one secret, half of another."""
    shares = np.vstack((dealt(dealer=0)[:6], dealt(dealer=1)[6:]))
    assert consistent_holders(receipts_for(shares, SHARING), SHARING) == set()


def test_a_dealer_cannot_repair_receipts_with_test_columns_chosen_beforehand() -> None:
    """The test that passes for one root fails for the root that the rows really have."""
    shares = spoil(dealt(), {3}, Q31)
    guessed = root(b"mask", commitments(b"mask", shares, Q31))
    honest = receipt(guessed, dealt()[3], Q31)
    off = receipt(guessed, shares[3], Q31)
    repair = np.frombuffer(honest, "<u4").astype(np.int64) - np.frombuffer(off, "<u4")
    shares[3, -TEST_COLUMNS:] = (shares[3, -TEST_COLUMNS:] + repair) % Q31
    assert receipt(guessed, shares[3], Q31) == honest
    assert consistent_holders(receipts_for(shares, SHARING), SHARING) == set(range(12)) - {3}


@pytest.mark.parametrize("num_receipts", [0, 1, 6, 7])
def test_up_to_u_receipts_prove_nothing(num_receipts: int) -> None:
    receipts = receipts_for(spoil(dealt(), {0, 1}, Q31), SHARING)
    received = {holder: receipts[holder] for holder in range(num_receipts)}
    assert consistent_holders(received, SHARING) == set(range(num_receipts))


def test_malformed_receipts_count_as_none() -> None:
    receipts = receipts_for(dealt(), SHARING)
    receipts |= {2: b"", 4: receipts[4] + b"\0", 6: b"\xff" * len(receipts[6])}
    assert consistent_holders(receipts, SHARING) == set(range(12)) - {2, 4, 6}


def test_a_lying_holder_is_left_out_of_a_sound_dealing() -> None:
    receipts = receipts_for(dealt(), SHARING)
    receipts[9] = receipts[8]
    assert consistent_holders(receipts, SHARING) == set(range(12)) - {9}


def test_receipts_of_equal_shares_are_unrelated() -> None:
    """The test columns hide the share: two dealings of one secret have other receipts at 0..U-T."""
    secret = np.arange(SIZE)
    first, second = (
        receipts_for(deal(secret, SHARING, derive(SEED, index)), SHARING) for index in range(2)
    )
    assert not set(first.values()) & set(second.values())


def test_a_commitment_binds_mask_holder_and_row() -> None:
    shares = dealt()
    committed = commitments(b"mask", shares, Q31)
    assert committed[3] == commitment(b"mask", 3, shares[3], Q31)
    assert {len(one) for one in committed} == {COMMITMENT_BYTES}
    others = {
        commitment(b"other", 3, shares[3], Q31),
        commitment(b"mask", 4, shares[3], Q31),
        commitment(b"mask", 3, shares[4], Q31),
    }
    assert len(others | set(committed)) == 12 + 3


def test_a_root_binds_the_mask_and_every_commitment() -> None:
    committed = commitments(b"mask", dealt(), Q31)
    roots = {
        root(b"mask", committed),
        root(b"mas", committed),
        root(b"mask", committed[:-1]),
        root(b"mask", committed[::-1]),
    }
    assert len(roots) == 4
    assert {len(one) for one in roots} == {ROOT_BYTES}


@pytest.mark.parametrize(("modulus", "num_bytes"), [(P16, 8), (Q31, 16)])
def test_a_receipt_has_four_elements(modulus: int, num_bytes: int) -> None:
    sharing = Sharing(12, 7, 4, modulus)
    assert {len(one) for one in receipts_for(dealt(sharing), sharing).values()} == {num_bytes}


LONG = [1_023, 1_024, 1_025, 2_048, 3_500]


def slowly(test_root: bytes, row: list[int], modulus: int) -> list[int]:
    """A receipt by the definition, in Python's integers."""
    share, tests = row[:-TEST_COLUMNS], row[-TEST_COLUMNS:]
    width = min(len(share), 1_024)
    num_rows = -(-len(share) // width)
    source = uniform(derive(test_root, "receipt"), (4 * (width + num_rows - 1),), modulus).tolist()
    v = [source[j : 4 * width : width] for j in range(width)]
    u = [[1, 0, 0, 0]]
    u += [source[4 * width + i :: num_rows - 1] for i in range(num_rows - 1)]
    said = list(tests)
    for at, element in enumerate(share):
        factor = [0] * 7
        for a, x in enumerate(u[at // width]):
            for b, y in enumerate(v[at % width]):
                factor[a + b] += x * y
        for power, coefficient in enumerate(factor):
            part = coefficient * (1 if power < 4 else 23)
            said[power % 4] = (said[power % 4] + part * element) % modulus
    return said


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("size", [1, 40, *LONG])
def test_receipts_are_what_the_definition_gives(modulus: int, size: int) -> None:
    rows = uniform(derive(SEED, "rows"), (3, size + TEST_COLUMNS), modulus)
    roots = [derive(SEED, "root", number) for number in range(3)]
    wanted = tuple(
        to_bytes(np.array(slowly(*each, modulus)), modulus)
        for each in zip(roots, rows.tolist(), strict=True)
    )
    assert receipts(roots, list(rows), modulus) == wanted
    assert receipts(roots, list(rows.astype(word_type(modulus))), modulus) == wanted
    assert receipt(roots[2], rows[2], modulus) == wanted[2]


def test_no_rows_have_no_receipts() -> None:
    assert receipts([], [], P16) == ()


@pytest.mark.parametrize("modulus", MODULI)
def test_the_receipts_field_is_one(modulus: int) -> None:
    """x**4 - 23 has no factor: 4 divides p - 1, and 23 is no square."""
    assert modulus % 4 == 1
    assert pow(23, (modulus - 1) // 2, modulus) == modulus - 1


@pytest.mark.parametrize("modulus", MODULI)
@pytest.mark.parametrize("size", LONG)
def test_any_change_of_a_long_row_changes_its_receipt(modulus: int, size: int) -> None:
    """Alone, or so that it cancels within a row or a column of the table."""
    row = uniform(SEED, (size + TEST_COLUMNS,), modulus)
    places = {0, 1, 1_022, 1_023, 1_024, 2_046, 2_047, 2_048, size - 1}
    changed = [row.copy() for place in places if place < size]
    for other, place in zip(changed, sorted(places), strict=False):
        other[place] = (other[place] + 1) % modulus
    for first, second in ((0, 1), (0, 1_024), (5, 2_053), (1_030, 2_054)):
        if second < size:
            changed.append(row.copy())
            changed[-1][first] = (row[first] + 1) % modulus
            changed[-1][second] = (row[second] - 1) % modulus
    said = {receipt(SEED, other, modulus) for other in (row, *changed)}
    assert len(said) == 1 + len(changed)


@pytest.mark.parametrize("modulus", MODULI)
def test_a_spoilt_row_is_found_among_long_ones(modulus: int) -> None:
    sharing = Sharing(12, 7, 4, modulus)
    secret = uniform(SEED, (3 * 2_500,), modulus)
    shares = deal(secret, sharing, SEED)
    assert consistent_holders(receipts_for(shares, sharing), sharing) == set(range(12))
    for holder, column in ((0, 0), (5, 1_500), (11, 2_499)):
        spoilt = shares.copy()
        spoilt[holder, column] = (spoilt[holder, column] + 1) % modulus
        found = consistent_holders(receipts_for(spoilt, sharing), sharing)
        assert found == set(range(12)) - {holder}


def test_bytes_are_frozen() -> None:
    """If this fails, devices in the field would call each other's dealings inconsistent."""
    shares = deal(np.arange(5), Sharing(4, 3, 1, Q31), SEED)
    committed = commitments(b"mask", shares, Q31)
    test_root = root(b"mask", committed)
    seen = committed[1].hex(), test_root.hex(), receipt(test_root, shares[1], Q31).hex()
    assert seen == FROZEN


FROZEN = (
    "30d21e3f0ac44440412dfd5033203405",
    "b2821c6aa276c160f810865361bedf6cb792d67029a6c480e8e92ba180b7563a",
    "c0a35e29179653322cd905425e586b6e",
)
