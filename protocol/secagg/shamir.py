"""Shamir's secret sharing (1979) of 32-byte secrets, over the field of `field.Q31`.

A secret is nine 30-bit limbs, little-endian; each is the value at 0 of a polynomial of degree
threshold - 1 with uniform coefficients. The share at point p (1, 2, ...) is the values at p.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from protocol.secagg import field
from protocol.secagg.field import Q31, Elements
from protocol.secagg.shares import RecoveryError
from protocol.stream import derive

SECRET_BYTES: Final = 32
LIMBS: Final = 9
SHARE_BYTES: Final = 4 * LIMBS

_LIMB_BITS: Final = 30
_PADDING: Final = LIMBS * _LIMB_BITS - 8 * SECRET_BYTES
_POWERS_OF_TWO: Final = 1 << np.arange(_LIMB_BITS, dtype=np.int64)


def deal(
    secrets: Sequence[bytes], points: tuple[int, ...], threshold: int, seed: bytes
) -> Elements:
    """Return the shares of all ``secrets``: a row per point, `LIMBS` columns per secret."""
    limbs = np.concatenate([_limbs(secret) for secret in secrets])
    noise = field.uniform(seed, (threshold - 1, limbs.size), Q31)
    return field.matmul(_powers(points, threshold), np.vstack((limbs, noise)), Q31)


def recover(shares: Mapping[int, Elements], threshold: int) -> list[bytes]:
    """Return the secrets from the shares (point -> row) of at least ``threshold`` holders.

    With spare shares, up to half as many wrong ones as there are spares are put right; nobody is
    named, since it may have been the dealer. Raises RecoveryError for too few or inconsistent ones.
    With none to spare nothing is detected, except what cannot be a secret: compare the result with
    what the dealer committed to.
    """
    points = tuple(sorted(shares))
    if len(points) < threshold:
        raise RecoveryError(f"{len(points)} shares of the {threshold} that are needed")
    rows = np.vstack([shares[point] for point in points])
    limbs = _interpolate(points, rows, threshold)
    if limbs is None:
        kept = _without_errors(points, rows, threshold)
        limbs = _interpolate(tuple(points[index] for index in kept), rows[kept], threshold)
    if limbs is None:
        raise RecoveryError("inconsistent shares")
    return [_secret(part) for part in limbs.reshape(-1, LIMBS)]


def _interpolate(points: tuple[int, ...], rows: Elements, threshold: int) -> Elements | None:
    """Return the values at 0, None if the rows lie on no polynomials of degree < threshold."""
    known, spare = points[:threshold], points[threshold:]
    values = field.matmul(field.lagrange(known, (0, *spare), Q31), rows[:threshold], Q31)
    return values[0] if np.array_equal(values[1:], rows[threshold:]) else None


def _without_errors(points: tuple[int, ...], rows: Elements, threshold: int) -> list[int]:
    """Indices of the rows outside which all errors lie, if there are not too many.

    Welch and Berlekamp (1986): find Q and a monic E with Q(p) = y E(p) at all points, of degrees
    below threshold + e and of e; E is zero where y is wrong. y is one random combination of the
    columns, drawn from a hash of them, so that no two errors cancel but by a chance of 2**-31.
    """
    num_errors = (len(points) - threshold) // 2
    if not num_errors:
        raise RecoveryError("inconsistent shares, and too few to spare to find out which")
    seed = derive(bytes(SECRET_BYTES), "combination", field.to_bytes(rows.ravel(), Q31))
    mixed = field.matmul(rows, field.uniform(seed, (rows.shape[1],), Q31), Q31)[:, np.newaxis]
    locator = _powers(points, num_errors + 1)
    scaled = locator * mixed % Q31
    numerator = _powers(points, threshold + num_errors)
    matrix = np.hstack((numerator, (Q31 - scaled[:, :-1]) % Q31))
    solution = field.solve(matrix, scaled[:, -1], Q31)
    if solution is None:
        raise RecoveryError("inconsistent shares")
    monic = np.append(solution[-num_errors:], 1)
    return [int(index) for index in np.flatnonzero(field.matmul(locator, monic, Q31))]


@lru_cache(maxsize=256)
def _powers(points: tuple[int, ...], count: int) -> Elements:
    rows = [[pow(point, exponent, Q31) for exponent in range(count)] for point in points]
    powers = np.array(rows, dtype=np.int64)
    powers.setflags(write=False)
    return powers


def _limbs(secret: bytes) -> Elements:
    bits = np.unpackbits(np.frombuffer(secret, np.uint8), bitorder="little")
    padded = np.concatenate((bits, np.zeros(_PADDING, np.uint8)))
    return padded.reshape(LIMBS, _LIMB_BITS) @ _POWERS_OF_TWO


def _secret(limbs: Elements) -> bytes:
    bits = (limbs[:, np.newaxis] & _POWERS_OF_TWO != 0).ravel()
    if limbs.max() >> _LIMB_BITS or bits[-_PADDING:].any():
        raise RecoveryError("inconsistent shares: no secret is that large")
    return np.packbits(bits[:-_PADDING], bitorder="little").tobytes()
