"""Arithmetic modulo a prime p below 2**31, on whole arrays: what secrets are shared with.

Elements are int64 in [0, p). Matrix products go through float64, which is exact as long as no sum
reaches 2**53: unless p is below 2**16, the left matrix is centred around zero and cut into limbs of
at most 2**15 in size; and long sums are cut into pieces. So BLAS does the work and no bit is lost.
"""

from functools import lru_cache
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.refusals import MALFORMED
from protocol.stream import PAGE_BYTES, page

P16: Final = 65_521  # the largest prime below 2**16: an element is two bytes
Q31: Final = 2_147_389_441  # prime, 1 mod 2048: see protocol.secagg.ring

Elements = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]  # whole numbers below 2**53 in size: all operations are exact
Words = npt.NDArray[np.uint16 | np.uint32]  # elements as they travel: only to be read and copied

_Array = TypeVar("_Array", bound=npt.NDArray[np.generic])

_LIMB: Final = 1 << 16
_EXACT: Final = 1 << 53
_FEW: Final = 1 << 11  # so few products are taken one by one: BLAS is not worth its preparations
_BLOCK: Final = 1 << 10  # columns at a time: what is worked on stays in the cache


def matmul(a: Elements | Words, b: Elements | Words, modulus: int) -> Elements:
    """The product (r, c) of ``a`` (r, k) and ``b`` (k, c), or (r,) if ``b`` is (k,)."""
    if a.shape[-1] != len(b):
        raise LocalProtocolError(f"shapes {a.shape} and {b.shape} do not multiply")
    if b.ndim == 1 and a.size <= _FEW:
        products = np.multiply(a, b, dtype=np.int64) % modulus
        return np.asarray(products.sum(axis=1) % modulus, dtype=np.int64)
    if b.ndim == 1:  # turned over: what is cut into limbs should be the smaller one
        return matmul(b[np.newaxis], a.T, modulus).reshape(-1)
    limbs = split(a, modulus)
    result = np.empty((len(a), b.shape[1]), dtype=np.int64)
    for start in range(0, b.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        result[:, block] = product(limbs, b[:, block], modulus)
    return result


def split(a: Elements | Words, modulus: int) -> Floats:
    """Cut ``a`` (...) into limbs (1 or 2, ...), high ones first, for `product`."""
    if modulus <= _LIMB:
        return a.astype(np.float64)[np.newaxis]
    whole = a.astype(np.int64, copy=False)
    centred = np.where(whole > modulus // 2, whole - modulus, whole).astype(np.float64)
    high = np.rint(centred / _LIMB)
    return np.stack((high, centred - high * _LIMB))


def product(limbs: Floats, b: Elements | Words | Floats, modulus: int) -> Floats:
    """`matmul` in float64, for ``a`` as `split` cuts it: in pieces that stay exact."""
    limb = _LIMB if modulus <= _LIMB else _LIMB >> 1
    piece = (_EXACT - (_LIMB + 1) * modulus) // (limb * (modulus - 1))
    total = _short_product(limbs[..., :piece], b[:piece], modulus)
    for start in range(piece, len(b), piece):
        stop = start + piece
        total += _short_product(limbs[..., start:stop], b[start:stop], modulus)
        total = _remainder(total, modulus)
    return total


def _short_product(limbs: Floats, b: Elements | Words | Floats, modulus: int) -> Floats:
    """`product` for 125 terms, the high limbs' sum included."""
    parts = limbs @ b.astype(np.float64, copy=False)
    total = _remainder(parts[0], modulus)
    for part in parts[1:]:
        total *= _LIMB
        total += part
        total = _remainder(total, modulus)
    return total


def inverse(values: Elements, modulus: int) -> Elements:
    """The inverse of each value, by Fermat: its power p - 2.

    Raises LocalProtocolError if one of them is zero.
    """
    square = values.astype(np.int64) % modulus
    if not square.all():
        raise LocalProtocolError(f"zero has no inverse modulo {modulus}")
    result = np.ones_like(square)
    exponent = modulus - 2
    while exponent:
        if exponent & 1:
            result = result * square % modulus
        square = square * square % modulus
        exponent >>= 1
    return result


@lru_cache(maxsize=16)
def lagrange(points: tuple[int, ...], targets: tuple[int, ...], modulus: int) -> Elements:
    """The matrix (targets, points) from the values of a polynomial at points to those at targets.

    The polynomial is the one of degree < len(points); the matrix is read-only. Raises
    LocalProtocolError if two points are equal.
    """
    if len({point % modulus for point in points}) < len(points):
        raise LocalProtocolError(f"two of the points {points} are equal modulo {modulus}")
    nodes = np.array(points, dtype=np.int64)
    scale = inverse(_numerators(nodes, nodes, modulus).diagonal(), modulus)
    places = np.array(targets, dtype=np.int64)
    matrix = _numerators(places, nodes, modulus) * scale % modulus
    matrix.flags.writeable = False
    return matrix


def _numerators(places: Elements, nodes: Elements, modulus: int) -> Elements:
    """At (i, j) the product of all places[i] - nodes[l] with l other than j."""
    differences = (places[:, np.newaxis] - nodes) % modulus
    result = np.ones_like(differences)
    before = np.ones_like(places)
    behind = np.ones_like(places)
    for left in range(nodes.size):
        right = nodes.size - 1 - left
        result[:, left] = result[:, left] * before % modulus
        result[:, right] = result[:, right] * behind % modulus
        before = before * differences[:, left] % modulus
        behind = behind * differences[:, right] % modulus
    return result


def solve(matrix: Elements, rhs: Elements, modulus: int) -> Elements | None:
    """One x (k,) with ``matrix`` (r, k) times x = ``rhs`` (r,), or None: Gauss and Jordan.

    Of several solutions, the one that is zero wherever it may be.
    """
    rows = np.column_stack((matrix, rhs)).astype(np.int64) % modulus
    num_unknowns = matrix.shape[1]
    pivots: list[int] = []
    for column in range(num_unknowns):
        rank = len(pivots)
        candidates = np.flatnonzero(rows[rank:, column])
        if candidates.size == 0:
            continue
        chosen = rank + candidates[0]
        rows[[rank, chosen]] = rows[[chosen, rank]]
        rows[rank] = rows[rank] * pow(int(rows[rank, column]), -1, modulus) % modulus
        factors = rows[:, column].copy()
        factors[rank] = 0
        rows = (rows - factors[:, np.newaxis] * rows[rank]) % modulus
        pivots.append(column)
    if rows[len(pivots) :, -1].any():
        return None
    solution = np.zeros(num_unknowns, dtype=np.int64)
    solution[pivots] = rows[: len(pivots), -1]
    return solution


def to_bytes(elements: Elements | Words, modulus: int) -> bytes:
    """The elements in order, little-endian: 2 bytes each if p < 2**16, else 4."""
    return elements.astype(word_type(modulus), copy=False).tobytes()


def from_bytes(data: bytes, modulus: int, count: int) -> Elements:
    """Read ``count`` elements, as `words` does."""
    return words(data, modulus, count).astype(np.int64)


def words(data: bytes, modulus: int, count: int) -> Words:
    """``count`` elements as they are, read-only.

    Raises RemoteProtocolError (malformed) for another length, and for a value that is not below p.
    """
    word = word_type(modulus)
    if len(data) != count * word.itemsize:
        raise RemoteProtocolError(
            MALFORMED, f"{count} elements take {count * word.itemsize} bytes, not {len(data)}"
        )
    elements = np.frombuffer(data, word)
    if count and elements.max() >= modulus:
        raise RemoteProtocolError(MALFORMED, f"an element is not below {modulus}")
    return elements


def uniform(seed: bytes, shape: tuple[int, ...], modulus: int) -> Elements:
    """Elements, each equally likely, from a 32-byte seed: those of `fill`, a new array."""
    return fill(np.empty(shape, dtype=np.int64), seed, modulus)


def fill(drawn: _Array, seed: bytes, modulus: int) -> _Array:
    """Fill an array with elements, each equally likely, from a 32-byte seed; return it.

    Rule: cut the bytes of `Stream` (seed) into words as long as an element in `to_bytes`; of each
    keep the lowest bits, as many as p - 1 has; skip what is not below p. In row-major order, so
    that a small draw is the beginning of a larger one from the same seed.

    Raises LocalProtocolError for an array with gaps.
    """
    if not drawn.flags.c_contiguous:
        raise LocalProtocolError("an array with gaps would be filled in a copy")
    missing = drawn.reshape(-1)
    index = 0
    while missing.size:
        # Of the last page little more than what is missing is made: most words are fair.
        likely = (missing.size + missing.size // 256 + 8) * word_type(modulus).itemsize
        fair = _fair(page(seed, index, min(likely, PAGE_BYTES)), modulus)
        if fair.size < missing.size and likely < PAGE_BYTES:
            fair = _fair(page(seed, index), modulus)
        taken = fair[: missing.size]
        missing[: taken.size] = taken
        missing = missing[taken.size :]
        index += 1
    return drawn


def _fair(data: bytes, modulus: int) -> Words:
    drawn = np.frombuffer(data, word_type(modulus))
    bits = (modulus - 1).bit_length()
    if bits < 8 * drawn.itemsize:
        drawn = np.bitwise_and(drawn, (1 << bits) - 1)
    return drawn if drawn.max() < modulus else drawn[drawn < modulus]


def word_type(modulus: int) -> np.dtype[np.uint16 | np.uint32]:
    """What an element is in `to_bytes`."""
    return np.dtype("<u2") if modulus <= _LIMB else np.dtype("<u4")


def _remainder(values: Floats, modulus: int) -> Floats:
    """``values`` modulo p, in place, in [0, p); each at most 2**53 - p in size.

    The quotient's floor is right although the division rounds: below a multiple m of p it is at
    most m - 1/p, and 1/p is more than half of the spacing of floats under m <= 2**53 / p.
    """
    quotient = values / modulus
    np.floor(quotient, out=quotient)
    quotient *= modulus
    values -= quotient
    return values
