"""The ring Z_q[x] / (x**1024 + 1), q = `field.Q31`: products through number-theoretic transforms.

The transform of a polynomial is its values at the 1024 roots of x**1024 + 1, which are the odd
powers of one 2048th root of unity; multiplication then is element by element. It is done in the
manner of Bailey's four steps (1990), with the twiddle factors inside the matrices: two rounds of
products of 32 x 32 matrices with a whole batch, exact in float64.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np

from protocol.errors import LocalProtocolError
from protocol.secagg.field import Q31, Elements, Floats, product, split

DEGREE: Final = 1024

_SIDE: Final = 32  # squared, the degree
_GROUP: Final = 16  # polynomials at a time: what lies between stays in the cache
_ROOT: Final = 211_808_905  # 11 ** ((q - 1) / 2048): its 1024th power is -1


def ntt(polys: Elements) -> Elements:
    """Coefficients (..., 1024) -> values (..., 1024), value k at root ** (2 k + 1).

    With j = 32 j1 + j2 and k = k1 + 32 k2, root ** (j (2 k + 1)) falls into two factors, of which
    one is without k2 and the other without j1: sum over j1 for all j2, k1; then over j2.
    """
    coarse, fine, _ = _tables()

    def transform(squares: Elements) -> Floats:
        columns = squares.transpose(1, 2, 0)
        sums = product(coarse, columns.reshape(_SIDE, -1), Q31).reshape(_SIDE, _SIDE, -1)
        return product(fine, sums, Q31).transpose(2, 1, 0)

    return _in_groups(transform, polys)


def intt(values: Elements) -> Elements:
    """Values (..., 1024) -> coefficients: the inverse of `ntt`.

    1024 times coefficient j is the sum over k of value k times root ** (-j (2 k + 1)), and this
    power is that of `ntt` for 1023 - k: the same steps transposed, on the values in reverse.
    """
    _, fine, scaled = _tables()

    def transform(squares: Elements) -> Floats:
        columns = squares[:, ::-1, ::-1].transpose(2, 1, 0)
        sums = product(fine.swapaxes(-1, -2), columns, Q31).reshape(_SIDE, -1)
        return product(scaled, sums, Q31).reshape(_SIDE, _SIDE, -1).transpose(2, 0, 1)

    return _in_groups(transform, values)


def multiply(a_hat: Elements, b_hat: Elements) -> Elements:
    """The transform of a product from the transforms of its factors, which broadcast."""
    return np.multiply(a_hat, b_hat, dtype=np.int64) % Q31


def negacyclic_product(a: Elements, b: Elements) -> Elements:
    """The product of two polynomials (1024,) by the definition: x**1024 is -1. Slow reference."""
    total = np.zeros(DEGREE, dtype=np.int64)
    shifted = b
    for coefficient in a:
        total = (total + coefficient * shifted) % Q31
        shifted = np.concatenate((Q31 - shifted[-1:], shifted[:-1])) % Q31
    return total


def _in_groups(transform: Callable[[Elements], Floats], polys: Elements) -> Elements:
    """Transform polynomials (..., 1024), each seen as a square, `_GROUP` of them at a time."""
    if polys.shape[-1] != DEGREE:
        raise LocalProtocolError(f"a polynomial has {DEGREE} coefficients, not {polys.shape[-1]}")
    squares = polys.reshape(-1, _SIDE, _SIDE)
    result = np.empty(squares.shape, dtype=np.int64)
    for start in range(0, len(squares), _GROUP):
        group = slice(start, start + _GROUP)
        result[group] = transform(squares[group])
    return result.reshape(polys.shape)


@lru_cache(maxsize=1)
def _tables() -> tuple[Floats, Floats, Floats]:
    """Limbs: coarse (2, k1, j1), fine (2, k1, k2, j2), and coarse transposed over 1024."""
    powers = np.ones(2 * DEGREE, dtype=np.int64)
    for exponent in range(1, 2 * DEGREE):
        powers[exponent] = powers[exponent - 1] * _ROOT % Q31
    side = np.arange(_SIDE)
    odd = 2 * side[:, np.newaxis] + 1
    coarse = powers[_SIDE * side * odd % (2 * DEGREE)]
    fine = powers[side * (odd[:, np.newaxis] + 2 * _SIDE * side[:, np.newaxis]) % (2 * DEGREE)]
    scaled = coarse.T * pow(DEGREE, -1, Q31) % Q31
    tables = split(coarse, Q31), split(fine, Q31), split(scaled, Q31)
    for table in tables:
        table.flags.writeable = False
    return tables
