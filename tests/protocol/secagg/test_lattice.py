"""Small secrets: lattice reduction finds them from a few shares beyond T. Only T shares protect.

A positive control, so that nobody counts on U - 1. Each share beyond T is an equation modulo q in
the U - T small numbers of a column. Once the equations weigh more bits than the numbers have
entropy, the secret is the shortest vector of a lattice: LLL (Lenstra, Lenstra and Lovasz 1982)
after Kannan's embedding (1987).
"""

import numpy as np
import numpy.typing as npt
import pytest

from protocol.secagg.field import Q31, Elements, lagrange, matmul
from protocol.secagg.shares import Sharing, deal
from protocol.stream import Stream, derive
from tests.support.elimination import echelon, left_kernel

SEED = bytes(range(32))
SIGMA = 209
DELTA = 0.99


def small_numbers(size: int, label: int, num_added: int = 1) -> Elements:
    """Coefficients as seedmask draws them: the sum of 8 signed bytes + 4; or sums of them."""
    data = Stream(derive(SEED, "small", label)).bytes(8 * size * num_added)
    numbers = np.frombuffer(data, np.int8).astype(np.int64).reshape(num_added, size, 8)
    return np.asarray((numbers.sum(axis=2) + 4).sum(axis=0), dtype=np.int64)


def gram_schmidt(basis: Elements) -> npt.NDArray[np.float64]:
    """Upper triangular: column i holds row i of the basis in orthonormal coordinates."""
    return np.asarray(np.linalg.qr(basis.T.astype(np.float64), mode="r"))


def reduce_basis(basis: Elements) -> Elements:
    """LLL, deep enough for a dozen dimensions: float64 Gram-Schmidt anew after every change."""
    basis, row = basis.copy(), 1
    while row < len(basis):
        for other in range(row - 1, -1, -1):
            triangle = gram_schmidt(basis)
            nearest = round(float(triangle[other, row] / triangle[other, other]))
            basis[row] -= nearest * basis[other]
        triangle = gram_schmidt(basis)
        above = triangle[row - 1, row - 1] ** 2
        if triangle[row, row] ** 2 + triangle[row - 1, row] ** 2 >= DELTA * above:
            row += 1
        else:
            basis[[row - 1, row]] = basis[[row, row - 1]]
            row = max(row - 1, 1)
    return basis


def attack(
    sharing: Sharing, holders: list[int], column: Elements, sigma: int = SIGMA
) -> list[int] | None:
    """The small numbers of one column that the shares of ``holders`` betray, if they do."""
    num_blocks, q = sharing.num_blocks, sharing.modulus
    known = sharing.data_points + sharing.share_points[: sharing.num_noise]
    dealing = lagrange(known, sharing.points_of(holders), q)
    free = left_kernel(dealing[:, num_blocks:], q)  # what cancels the noise
    if len(free) == 0:
        return None  # no equation: every secret explains these shares equally well
    equations = np.hstack(
        (matmul(free, dealing[:, :num_blocks], q), matmul(free, column[:, None], q))
    )
    solved, height = echelon(equations, q, num_blocks)
    # All (x, 1) with x[:height] = y - rest @ x[height:] modulo q; the 1 weighs as much as a number.
    basis = np.eye(num_blocks + 1, dtype=np.int64)
    basis[:height, :height] *= q
    basis[height:, :height] = -solved[:, height:].T
    basis[-1, :height] *= -1
    basis[-1, -1] = sigma
    for vector in reduce_basis(basis):
        if abs(vector[-1]) == sigma and np.abs(vector).max() <= 8 * sigma:
            return [int(number) for number in vector[:-1] * np.sign(vector[-1])]
    return None


def found(numbers: tuple[int, int, int], num_beyond: int, num_added: int) -> int:
    """In how many of 5 trials T + ``num_beyond`` random holders find the numbers exactly."""
    sharing = Sharing(*numbers, Q31)
    num_found = 0
    for trial in range(5):
        secret = small_numbers(sharing.num_blocks, trial, num_added)
        shares = deal(secret % Q31, sharing, derive(SEED, "deal", trial))
        chosen = Stream(derive(SEED, "holders", trial))
        holders = chosen.subset(sharing.num_holders, sharing.num_noise + num_beyond).tolist()
        shown = attack(sharing, holders, shares[holders, 0], round(SIGMA * num_added**0.5))
        num_found += shown == secret.tolist()
    return num_found


# N, U, T; shares beyond T that are enough for one secret, and for the sum of ten.
BETRAYED = [((16, 13, 6), 3, 3), ((32, 24, 17), 3, 3), ((32, 24, 18), 2, 3), ((32, 24, 12), 4, 5)]


@pytest.mark.parametrize(("numbers", "num_beyond", "_"), BETRAYED)
def test_a_few_shares_beyond_t_betray_a_small_secret(
    numbers: tuple[int, int, int], num_beyond: int, _: int
) -> None:
    assert found(numbers, num_beyond, num_added=1) == 5


@pytest.mark.parametrize(("numbers", "_", "num_beyond"), BETRAYED)
def test_a_few_shares_beyond_t_betray_a_sum_of_small_secrets(
    numbers: tuple[int, int, int], _: int, num_beyond: int
) -> None:
    assert found(numbers, num_beyond, num_added=10) == 5


@pytest.mark.parametrize("numbers", [numbers for numbers, _, _ in BETRAYED])
@pytest.mark.parametrize("num_added", [1, 10])
def test_t_shares_betray_nothing(numbers: tuple[int, int, int], num_added: int) -> None:
    assert found(numbers, 0, num_added) == 0


def test_t_shares_fit_any_other_secret_as_well() -> None:
    """Why the attack must fail: every secret has one noise that gives the very same shares."""
    sharing = Sharing(16, 13, 6, Q31)
    holders = list(range(10, 16))
    shares = deal(small_numbers(7, 0) % Q31, sharing, SEED)[holders, 0]
    other = small_numbers(7, 1) % Q31
    points = sharing.points_of(holders)
    completed = lagrange(sharing.data_points + points, sharing.share_points, Q31)
    explained = matmul(completed, np.concatenate((other, shares)), Q31)
    assert explained[holders].tolist() == shares.tolist()
