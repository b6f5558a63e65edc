"""Any threshold of shares give the secrets; wrong ones are outvoted or refused, never decoded."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.secagg import shamir
from protocol.secagg.field import Q31, Elements, lagrange, matmul
from protocol.secagg.shares import RecoveryError
from protocol.stream import derive

SEED = bytes(range(32))
secrets = st.binary(min_size=32, max_size=32)


def slow_recover(shares: dict[int, Elements], threshold: int) -> bytes:
    """One secret from the first shares: Lagrange, in Python integers."""
    points = sorted(shares)[:threshold]
    limbs = []
    for column in range(shamir.LIMBS):
        total = 0
        for point in points:
            term = int(shares[point][column])
            for other in points:
                if other != point:
                    term = term * other * pow(other - point, -1, Q31)
            total += term
        limbs.append(total % Q31)
    number = sum(limb << 30 * index for index, limb in enumerate(limbs))
    return number.to_bytes(32, "little")


def dealt(num_secrets: int, num_holders: int, threshold: int) -> tuple[list[bytes], Elements]:
    secrets = [derive(SEED, index) for index in range(num_secrets)]
    return secrets, shamir.deal(secrets, tuple(range(1, num_holders + 1)), threshold, SEED)


def by_point(rows: Elements) -> dict[int, Elements]:
    return {index + 1: row for index, row in enumerate(rows)}


@given(st.lists(secrets, min_size=1, max_size=3), secrets, st.data())
def test_any_threshold_of_shares_recover(
    given_secrets: list[bytes], seed: bytes, data: st.DataObject
) -> None:
    points = tuple(data.draw(st.sets(st.integers(1, 128), min_size=1, max_size=9)))
    threshold = data.draw(st.integers(1, len(points)))
    rows = shamir.deal(given_secrets, points, threshold, seed)
    chosen = data.draw(st.permutations(range(len(points))))
    for size in (threshold, len(points)):
        shares = {points[index]: rows[index] for index in chosen[:size]}
        assert shamir.recover(shares, threshold) == given_secrets


def test_the_slow_way_gives_the_same() -> None:
    secrets, rows = dealt(1, 7, 4)
    for chosen in combinations(range(7), 4):
        shares = {index + 1: rows[index] for index in chosen}
        assert [slow_recover(shares, 4)] == shamir.recover(shares, 4) == secrets


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"\x01" + bytes(31)])
def test_extreme_secrets_survive(secret: bytes) -> None:
    assert shamir.recover(by_point(shamir.deal([secret], (1, 2, 3), 2, SEED)), 2) == [secret]


def test_one_share_less_raises() -> None:
    _, rows = dealt(1, 7, 4)
    with pytest.raises(RecoveryError, match="3 shares of the 4"):
        shamir.recover(by_point(rows[:3]), 4)


@given(secrets)
def test_less_than_a_threshold_fits_every_secret(other: bytes) -> None:
    """Perfect privacy: with three real shares there is a fourth for whatever secret you like."""
    _, rows = dealt(1, 7, 4)
    at_zero = shamir.deal([other], (1,), 1, SEED)  # a polynomial of degree 0
    fourth = matmul(lagrange((0, 1, 2, 3), (4,), Q31), np.vstack((at_zero, rows[:3])), Q31)
    assert shamir.recover(by_point(np.vstack((rows[:3], fourth))), 4) == [other]


@pytest.mark.parametrize(("num_holders", "threshold"), [(6, 4), (10, 6), (35, 28), (50, 28)])
def test_half_as_many_wrong_shares_as_spare_ones_are_put_right(
    num_holders: int, threshold: int
) -> None:
    secrets, rows = dealt(3, num_holders, threshold)
    draw = np.random.default_rng(num_holders)
    for num_wrong in range(1, (num_holders - threshold) // 2 + 1):
        wrong = rows.copy()
        for index in draw.permutation(num_holders)[:num_wrong]:
            wrong[index, draw.integers(rows.shape[1])] += 1
        assert shamir.recover(by_point(wrong % Q31), threshold) == secrets


@pytest.mark.parametrize("num_holders", [5, 6, 7])
def test_more_wrong_shares_are_refused(num_holders: int) -> None:
    _, rows = dealt(1, num_holders, 4)
    for wrong in combinations(range(num_holders), (num_holders - 4) // 2 + 1):
        changed = rows.copy()
        changed[list(wrong)] = (changed[list(wrong)] * 5 + 1) % Q31
        with pytest.raises(RecoveryError, match="inconsistent"):
            shamir.recover(by_point(changed), 4)


def test_what_no_secret_can_be_is_refused() -> None:
    for limb, value in ((0, 1 << 30), (8, 1 << 16)):
        row = np.zeros(shamir.LIMBS, dtype=np.int64)
        row[limb] = value
        with pytest.raises(RecoveryError, match="no secret is that large"):
            shamir.recover({1: row}, 1)


def test_shares_are_uniform() -> None:
    rows = np.vstack(
        [shamir.deal([bytes(32)], (1, 2, 3), 2, derive(SEED, index)) for index in range(600)]
    )
    counts = np.bincount(rows.ravel() * 16 // Q31, minlength=16)
    expected = rows.size / 16
    assert float(((counts - expected) ** 2 / expected).sum()) < 37.7  # p > 0.001, 15 degrees
