"""Seeded random streams: the same numbers on every platform and with every NumPy version.

A stream is the bytes of page 0, page 1, ... one after the other. Page ``i`` is what libsodium's
``randombytes_buf_deterministic`` (ChaCha20, IETF variant, nonce "LibsodiumDRG") makes `PAGE_BYTES`
long from the seed ``BLAKE2b-256(i as 8 bytes, key=seed, person="fedbus.stream")``. Every number is
cut from these bytes in order, little-endian, by the rule in the docstring of its method.

Numbers of one kind do not depend on how they are asked for: ``integers(b, 2)`` followed by
``integers(b, 3)`` gives what ``integers(b, 5)`` gives and leaves the stream at the same byte; so do
`Stream.bytes` and `Stream.uniform`. All numbers are made with integer operations and one exact
scaling, never with functions whose last bit a platform may choose.
"""

import builtins
import hashlib
from typing import Final

import numpy as np
import numpy.typing as npt
from nacl.bindings import randombytes_buf_deterministic

from protocol.errors import LocalProtocolError

SEED_BYTES: Final = 32
PAGE_BYTES: Final = 16_384
MAX_BOUND: Final = 1 << 63

_WORD_BYTES: Final = 8
_WORDS: Final = 1 << 64
_UNIFORM_BITS: Final = 24  # the significand of a float32: every multiple of 2**-24 below 1 is exact


def derive(seed: bytes, *labels: str | bytes | int) -> bytes:
    """A 32-byte seed for the purpose that ``labels`` name.

    Different label lists give independent seeds: each label is hashed with its type and its
    length, so that ``("ab", "c")``, ``("a", "bc")`` and ``(b"ab", "c")`` differ. None of them is
    related to the numbers of ``Stream(seed)``. BLAKE2b-256 (RFC 7693), keyed with ``seed``.
    """
    _check_seed(seed)
    digest = hashlib.blake2b(digest_size=SEED_BYTES, key=seed, person=b"fedbus.derive")
    for label in labels:
        kind, data = _label_bytes(label)
        digest.update(kind + len(data).to_bytes(8, "little") + data)
    return digest.digest()


class Stream:
    """Random numbers from a 32-byte seed; a cursor moves over the bytes as they are taken.

    Raises LocalProtocolError for a seed of another length and for arguments out of range.
    """

    def __init__(self, seed: bytes) -> None:
        _check_seed(seed)
        self._seed = seed
        self._next_page = 0
        self._rest = b""

    def bytes(self, num_bytes: int) -> builtins.bytes:
        """The next ``num_bytes`` bytes."""
        if num_bytes < 0:
            raise LocalProtocolError(f"cannot take {num_bytes} bytes")
        num_pages = -(-max(0, num_bytes - len(self._rest)) // PAGE_BYTES)
        first, self._next_page = self._next_page, self._next_page + num_pages
        pages = (page(self._seed, index) for index in range(first, self._next_page))
        taken = b"".join((self._rest, *pages))
        self._rest = taken[num_bytes:]
        return taken[:num_bytes]

    def integers(self, bound: int, size: int) -> npt.NDArray[np.int64]:
        """``size`` integers in [0, ``bound``), each equally likely; ``bound`` is 1 to 2**63.

        Rule: take 8-byte words ``w``; skip those not below the largest multiple of ``bound`` that
        is at most 2**64; the number is ``w mod bound``.
        """
        if not 1 <= bound <= MAX_BOUND:
            raise LocalProtocolError(f"a bound must be 1 to 2**63, not {bound}")
        last_fair = np.uint64(_WORDS - _WORDS % bound - 1)
        words = self._words(size)
        while (fair := words[words <= last_fair]).size < size:
            # Asking for exactly as many as are missing never takes a word too many.
            words = np.concatenate((fair, self._words(size - fair.size)))
        return (words % np.uint64(bound)).astype(np.int64)

    def uniform(self, size: int) -> npt.NDArray[np.float32]:
        """``size`` multiples of 2**-24 in [0, 1), each equally likely.

        Rule: take 4-byte words ``w``; the number is ``floor(w / 2**8) / 2**24``, which is exact.
        """
        words = np.frombuffer(self.bytes(4 * size), "<u4")
        return (words >> np.uint32(32 - _UNIFORM_BITS)).astype(np.float32) * np.float32(2.0**-24)

    def permutation(self, size: int) -> npt.NDArray[np.int64]:
        """The numbers 0 to ``size`` - 1 in random order, each order equally likely.

        Rule: take ``size`` 8-byte words; the order of the numbers is that of their words. If two
        words are equal, take ``size`` new ones.
        """
        while True:
            words = self._words(size)
            order = np.argsort(words)
            ranked = words[order]
            if np.all(ranked[1:] != ranked[:-1]):
                return order.astype(np.int64)

    def subset(self, size: int, num_chosen: int) -> npt.NDArray[np.int64]:
        """``num_chosen`` distinct numbers in [0, ``size``), sorted; each subset equally likely.

        Rule: draw `integers` below ``size`` until ``num_chosen`` distinct ones were seen. Beyond
        half of ``size``, the numbers *not* chosen are drawn like this instead. Memory: ``size``
        bytes.
        """
        if not 0 <= num_chosen <= size:
            raise LocalProtocolError(f"cannot choose {num_chosen} of {size}")
        num_drawn = min(num_chosen, size - num_chosen)
        drawn = np.zeros(size, dtype=np.bool_)
        missing = num_drawn
        while missing:
            # At most ``missing`` of them are new: this never draws a number too many.
            drawn[self.integers(size, missing)] = True
            missing = num_drawn - int(np.count_nonzero(drawn))
        chosen = drawn if num_drawn == num_chosen else ~drawn
        return chosen.nonzero()[0].astype(np.int64, copy=False)

    def _words(self, size: int) -> npt.NDArray[np.uint64]:
        words = np.frombuffer(self.bytes(_WORD_BYTES * size), "<u8")
        return words.astype(np.uint64, copy=False)


def page(seed: bytes, index: int, num_bytes: int = PAGE_BYTES) -> bytes:
    """The first ``num_bytes`` bytes of one page of `Stream` (seed): no more are made."""
    _check_seed(seed)
    data = index.to_bytes(8, "little")
    digest = hashlib.blake2b(data, digest_size=SEED_BYTES, key=seed, person=b"fedbus.stream")
    return randombytes_buf_deterministic(num_bytes, digest.digest())


def _check_seed(seed: bytes) -> None:
    if len(seed) != SEED_BYTES:
        raise LocalProtocolError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")


def _label_bytes(label: str | bytes | int) -> tuple[bytes, bytes]:
    match label:
        case str():
            return b"s", label.encode()
        case bytes():
            return b"b", label
        case int():
            return b"i", label.to_bytes(label.bit_length() // 8 + 1, "little", signed=True)
