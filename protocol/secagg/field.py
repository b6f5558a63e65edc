"""Arithmetic modulo a prime p below 2**31, on whole arrays: what secrets are shared with.

Elements are int64 in [0, p). Matrix products go through float64, which is exact as long as no sum
reaches 2**53: the left matrix is centred around zero and cut into limbs of at most 2**15 in size,
and long sums into pieces, so that BLAS does the work and no bit is lost.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.refusals import MALFORMED
from protocol.stream import Stream

P16: Final = 65_521  # the largest prime below 2**16: an element is two bytes
Q31: Final = 2_147_389_441  # prime, 1 mod 2048: see protocol.secagg.ring

Elements = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]  # whole numbers below 2**53 in size: all operations are exact

_LIMB: Final = 1 << 16
_EXACT: Final = 1 << 53
_FEW: Final = 1 << 11  # so few products are taken one by one: BLAS is not worth its preparations
_BLOCK: Final = 1 << 10  # columns at a time: what is worked on stays in the cache


def matmul(a: Elements, b: Elements, modulus: int) -> Elements:
    """The product (r, c) of ``a`` (r, k) and ``b`` (k, c), or (r,) if ``b`` is (k,)."""
    if a.shape[-1] != len(b):
        raise LocalProtocolError(f"shapes {a.shape} and {b.shape} do not multiply")
    if b.ndim == 1 and a.size <= _FEW:
        return np.asarray((a * b % modulus).sum(axis=1) % modulus, dtype=np.int64)
    if b.ndim == 1:  # turned over: what is cut into limbs should be the smaller one
        return matmul(b[np.newaxis], a.T, modulus).reshape(-1)
    limbs = split(a, modulus)
    result = np.empty((len(a), b.shape[1]), dtype=np.int64)
    for start in range(0, b.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        result[:, block] = _long_product(limbs, b[:, block], modulus)
    return result


def split(a: Elements, modulus: int) -> Floats:
    """Cut ``a`` (...) into limbs (1 or 2, ...), high ones first, for `product`."""
    centred = np.where(a > modulus // 2, a - np.int64(modulus), a).astype(np.float64)
    if modulus <= _LIMB:
        return centred[np.newaxis]
    high = np.rint(centred / _LIMB)
    return np.stack((high, centred - high * _LIMB))


def product(limbs: Floats, b: Elements | Floats, modulus: int) -> Floats:
    """`matmul` in float64, for ``a`` as `split` cuts it; exact for sums of up to 125 terms."""
    parts = limbs @ b.astype(np.float64)
    total = _remainder(parts[0], modulus)
    for part in parts[1:]:
        total *= _LIMB
        total += part
        total = _remainder(total, modulus)
    return total


def _long_product(limbs: Floats, b: Elements, modulus: int) -> Floats:
    """`product` for any number of terms: in pieces that stay exact, high limbs included."""
    piece = (_EXACT - (_LIMB + 1) * modulus) // ((_LIMB >> 1) * (modulus - 1))
    total = product(limbs[..., :piece], b[:piece], modulus)
    for start in range(piece, len(b), piece):
        stop = start + piece
        total += product(limbs[..., start:stop], b[start:stop], modulus)
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


def to_bytes(elements: Elements, modulus: int) -> bytes:
    """The elements in order, little-endian: 2 bytes each if p < 2**16, else 4."""
    return elements.astype(_word(modulus)).tobytes()


def from_bytes(data: bytes, modulus: int, count: int) -> Elements:
    """Read ``count`` elements.

    Raises RemoteProtocolError (malformed) for another length, and for a value that is not below p.
    """
    word = _word(modulus)
    if len(data) != count * word.itemsize:
        raise RemoteProtocolError(
            MALFORMED, f"{count} elements take {count * word.itemsize} bytes, not {len(data)}"
        )
    elements = np.frombuffer(data, word).astype(np.int64)
    if count and elements.max() >= modulus:
        raise RemoteProtocolError(MALFORMED, f"an element is not below {modulus}")
    return elements


def uniform(seed: bytes, shape: tuple[int, ...], modulus: int) -> Elements:
    """Elements, each equally likely, from a 32-byte seed: those of `fill`, a new array."""
    return fill(np.empty(shape, dtype=np.int64), seed, modulus)


def fill(drawn: Elements, seed: bytes, modulus: int) -> Elements:
    """Fill an array with elements, each equally likely, from a 32-byte seed; return it.

    Rule: cut the bytes of `Stream` (seed) into words as long as an element in `to_bytes`; of each
    keep the lowest bits, as many as p - 1 has; skip what is not below p. In row-major order, so
    that a small draw is the beginning of a larger one from the same seed.

    Raises LocalProtocolError for an array with gaps.
    """
    if not drawn.flags.c_contiguous:
        raise LocalProtocolError("an array with gaps would be filled in a copy")
    stream, word = Stream(seed), _word(modulus)
    mask = (1 << (modulus - 1).bit_length()) - 1
    missing = drawn.reshape(-1)
    while missing.size:
        # Asking for exactly as many as are missing never takes a word too many.
        words = np.frombuffer(stream.bytes(missing.size * word.itemsize), word)
        words = np.bitwise_and(words, mask)
        fair = words[words < modulus]
        missing[: fair.size] = fair
        missing = missing[fair.size :]
    return drawn


def _word(modulus: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
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
