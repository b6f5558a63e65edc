"""The dealers' test: all holders' shares lie on polynomials of degree < U.

A dealer that hands out inconsistent shares makes honest holders look like liars at the recovery.
So it commits to all rows first. The root of the commitments chooses combinations of the columns
that the dealer could not foresee; a holder reveals those of its row, each hidden by a test column
(uniform at all U points, used for nothing else), and the receipts of more than U holders are
compared. A row off the polynomials passes with a chance of p**-TEST_COLUMNS: 2**-124 for a 31-bit
prime, 2**-64 for a 16-bit one. Receipts reveal nothing about consistent shares.

A holder whose receipt is off has not lied: its dealer may have. It is left out, not blamed. Only
those whose receipts agree, for every dealer summed, may be named for a wrong answer afterwards.
"""

import contextlib
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

import numpy as np

from protocol.errors import RemoteProtocolError
from protocol.secagg.field import Elements, from_bytes, matmul, to_bytes, uniform
from protocol.secagg.shares import TEST_COLUMNS, Sharing, outliers
from protocol.stream import derive

COMMITMENT_BYTES: Final = 16
ROOT_BYTES: Final = 32


def commitment(mask_id: bytes, holder: int, row: Elements, modulus: int) -> bytes:
    """What binds the dealer of a mask to one holder's row: a holder compares it with its own.

    BLAKE2b-128 (RFC 7693, person "fedbus.share") of the mask id's length (2 bytes, little-endian
    like all here), the mask id, the holder's index (2 bytes) and the row's bytes.
    """
    digest = blake2b(digest_size=COMMITMENT_BYTES, person=b"fedbus.share")
    digest.update(_prefixed(mask_id) + holder.to_bytes(2, "little") + to_bytes(row, modulus))
    return digest.digest()


def commitments(mask_id: bytes, shares: Elements, modulus: int) -> tuple[bytes, ...]:
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


def receipt(test_root: bytes, row: Elements, modulus: int) -> bytes:
    """What a holder reveals of its row: TEST_COLUMNS elements, test columns + factors . share.

    The factors (TEST_COLUMNS, columns) are the `uniform` numbers of the root's child "receipt".
    """
    share, tests = row[:-TEST_COLUMNS], row[-TEST_COLUMNS:]
    factors = uniform(derive(test_root, "receipt"), (TEST_COLUMNS, share.size), modulus)
    return to_bytes((tests + matmul(factors, share, modulus)) % modulus, modulus)


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
