"""The dealers' test: all holders' shares lie on polynomials of degree < U.

A dealer that hands out inconsistent shares makes honest holders look like liars at the recovery.
So it commits to all rows first. The root of the commitments chooses combinations of the columns
that the dealer could not foresee; a holder reveals those of its row, each hidden by a test column
(uniform at all U points, used for nothing else), and the receipts of more than U holders are
compared. A row off the polynomials passes with a chance of p**-TEST_COLUMNS, 2**-124 for a 31-bit
prime, and twice 2**-64 for a 16-bit one. Receipts reveal nothing about consistent shares.

Factors for each element of a long row would take longer to draw than all else that a holder does.
So a long share is a table S, and the combination u S v, with a few factors u and v of the field
F_p[x]/(x**4 - 23). For a table that is not zero, S v is zero with a chance of 1/p**4, and else
u S v is, once more. The polynomial is irreducible, since 4 divides p - 1 and 23 is no square.

A holder whose receipt is off has not lied: its dealer may have. It is left out, not blamed. Only
those whose receipts agree, for every dealer summed, may be named for a wrong answer afterwards.
"""

import contextlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

import numpy as np

from protocol.errors import RemoteProtocolError
from protocol.secagg.field import (
    Elements,
    Words,
    from_bytes,
    matmul,
    to_bytes,
    uniform,
    word_type,
)
from protocol.secagg.shares import TEST_COLUMNS, Sharing, outliers
from protocol.stream import derive

COMMITMENT_BYTES: Final = 16
ROOT_BYTES: Final = 32

_WIDTH: Final = 1024  # of the table that a share is
_NON_SQUARE: Final = 23  # modulo both primes: what x**4 is
#: The product of x**a and x**b in powers of x, at (4 a + b).
_FOLD: Final = np.array(
    [
        [(a + b - k == 0) + _NON_SQUARE * (a + b - k == 4) for k in range(4)]  # noqa: PLR2004
        for a in range(4)
        for b in range(4)
    ],
    dtype=np.int64,
)


def commitment(mask_id: bytes, holder: int, row: Elements | Words, modulus: int) -> bytes:
    """What binds the dealer of a mask to one holder's row: a holder compares it with its own."""
    return commitment_to(mask_id, holder, to_bytes(row, modulus))


def commitment_to(mask_id: bytes, holder: int, row: bytes) -> bytes:
    """The `commitment` to a row as it travels.

    BLAKE2b-128 (RFC 7693, person "fedbus.share") of the mask id's length (2 bytes, little-endian
    like all here), the mask id, the holder's index (2 bytes) and the row's bytes.
    """
    digest = blake2b(digest_size=COMMITMENT_BYTES, person=b"fedbus.share")
    digest.update(_prefixed(mask_id) + holder.to_bytes(2, "little"))
    digest.update(row)
    return digest.digest()


def commitments(mask_id: bytes, shares: Elements | Words, modulus: int) -> tuple[bytes, ...]:
    """The `commitment` to every row of ``shares`` (N, columns + TEST_COLUMNS)."""
    return tuple(commitment(mask_id, holder, row, modulus) for holder, row in enumerate(shares))


def root(mask_id: bytes, committed: Sequence[bytes]) -> bytes:
    """One hash over all commitments to a mask; it chooses the test.

    BLAKE2b-256 (person "fedbus.root") of the mask id's length and bytes, and the commitments.
    """
    digest = blake2b(digest_size=ROOT_BYTES, person=b"fedbus.root")
    digest.update(_prefixed(mask_id) + b"".join(committed))
    return digest.digest()


def witness(committed: bytes, test_root: bytes) -> bytes:
    """What a holder says of the row and the root that it was given, COMMITMENT_BYTES long.

    It must be that of the dealer's own commitments and root: a dealer that could give a holder any
    root would choose one under which inconsistent rows pass. BLAKE2b-128 (person "fedbus.witness")
    of the commitment and the root.
    """
    digest = blake2b(digest_size=COMMITMENT_BYTES, person=b"fedbus.witness")
    digest.update(committed + test_root)
    return digest.digest()


def receipt(test_root: bytes, row: Elements | Words, modulus: int) -> bytes:
    """What a holder reveals of its row: `receipts` of this one."""
    return receipts((test_root,), (row,), modulus)[0]


def receipts(
    roots: Sequence[bytes], rows: Sequence[Elements | Words], modulus: int
) -> tuple[bytes, ...]:
    """What a holder reveals of each row: TEST_COLUMNS elements, test columns + factors . share.

    The share fills a table S row by row, 1024 elements or all of it in each, zeros behind it. The
    factors, first v (TEST_COLUMNS, width), then u (TEST_COLUMNS, rows - 1), are the `uniform`
    numbers of the root's child "receipt". A column of v or u has the coefficients of 1, x, x**2,
    x**3 of one number. factors . share are those of the sum of all u_i v_j S_ij, with u_0 = 1.
    """
    if not rows:
        return ()
    halves = [
        _multiplied(test_root, row[:-TEST_COLUMNS], modulus)
        for test_root, row in zip(roots, rows, strict=True)
    ]
    sums, u = (np.stack(half) for half in zip(*halves, strict=True))
    pairs = (sums[:, :, np.newaxis] * u[:, np.newaxis] % modulus).sum(axis=3)
    tests = np.stack([row[-TEST_COLUMNS:] for row in rows])
    said = (pairs.reshape(len(rows), -1) @ _FOLD + tests) % modulus
    return tuple(to_bytes(each, modulus) for each in said)


def _multiplied(test_root: bytes, share: Elements | Words, modulus: int) -> tuple[Elements, ...]:
    """S v and u, both (TEST_COLUMNS, rows)."""
    width = min(share.size, _WIDTH)
    num_rows = -(-share.size // width)
    num_factors = TEST_COLUMNS * (width + num_rows - 1)
    drawn = uniform(derive(test_root, "receipt"), (num_factors,), modulus)
    v = drawn[: TEST_COLUMNS * width].reshape(TEST_COLUMNS, width)
    u = np.zeros((TEST_COLUMNS, num_rows), dtype=np.int64)
    u[0, 0] = 1
    u[:, 1:] = drawn[v.size :].reshape(TEST_COLUMNS, -1)
    if num_rows == 1:
        return matmul(v, share, modulus)[:, np.newaxis], u
    table = np.zeros(num_rows * width, word_type(modulus))
    table[: share.size] = share
    return matmul(v, table.reshape(num_rows, width).T, modulus), u


def consistent_holders(receipts: Mapping[int, bytes], sharing: Sharing) -> frozenset[int]:
    """The holders whose receipts, by index, lie on one polynomial of degree < U.

    With at most U receipts nothing can be said: all pass. Of more, half as many as there are
    beyond U may be off; if still more are, the set is empty. Malformed receipts count as none.
    """
    read: dict[int, Elements] = {}
    for holder in sorted(receipts):
        with contextlib.suppress(RemoteProtocolError):
            read[holder] = from_bytes(receipts[holder], sharing.modulus, TEST_COLUMNS)
    holders = tuple(read)
    if len(holders) <= sharing.num_answers:
        return frozenset(holders)
    points = sharing.points_of(holders)
    off = outliers(points, np.vstack(list(read.values())), sharing.num_answers, sharing.modulus)
    if off is None:
        return frozenset()
    return frozenset(holders).difference(holders[place] for place in off)


def _prefixed(mask_id: bytes) -> bytes:
    return len(mask_id).to_bytes(2, "little") + mask_id
