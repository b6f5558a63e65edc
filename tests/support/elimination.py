"""Ranks and kernels modulo a prime below 2**31, for tests of what shares determine."""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.int64]


def echelon(matrix: Matrix, modulus: int, num_columns: int) -> tuple[Matrix, int]:
    """Reduce the first ``num_columns`` columns; the matrix in reduced echelon form, its rank."""
    rows = matrix % modulus
    rank = 0
    for column in range(num_columns):
        candidates = np.flatnonzero(rows[rank:, column])
        if candidates.size == 0:
            continue
        found = rank + candidates[0]
        rows[[rank, found]] = rows[[found, rank]]
        rows[rank] = rows[rank] * pow(int(rows[rank, column]), -1, modulus) % modulus
        factors = rows[:, column].copy()
        factors[rank] = 0
        rows = (rows - factors[:, np.newaxis] * rows[rank] % modulus) % modulus
        rank += 1
        if rank == len(rows):
            break
    return rows, rank


def rank(matrix: Matrix, modulus: int) -> int:
    """How many rows are linearly independent."""
    return echelon(matrix, modulus, matrix.shape[1])[1]


def left_kernel(matrix: Matrix, modulus: int) -> Matrix:
    """A basis, row by row, of all combinations of the rows of ``matrix`` that are zero."""
    unit = np.eye(len(matrix), dtype=np.int64)
    reduced, height = echelon(np.hstack((matrix, unit)), modulus, matrix.shape[1])
    return reduced[height:, matrix.shape[1] :]
