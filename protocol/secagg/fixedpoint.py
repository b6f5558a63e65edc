"""Numbers as integers that can be summed under a mask, and integers as bits."""

from math import gcd
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.secagg.field import Elements
from protocol.stream import Stream

MAX_WIDTH: Final = 32

_WORD: Final = 64

Values = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]


def quantise(values: Values, scale: float, limit: int) -> tuple[Elements, int]:
    """The nearest integer to each value times ``scale``, ties to even, within +-``limit``.

    Also how many values were saturated: beyond ``limit / scale`` and cut to it. Raises
    LocalProtocolError for NaN and infinity.
    """
    scaled, num_saturated = _scaled(values, scale, limit)
    return _within(np.rint(scaled, out=scaled), limit), num_saturated


def quantise_stochastic(
    values: Values, scale: float, limit: int, seed: bytes
) -> tuple[Elements, int]:
    """Like `quantise`, but rounded without bias: ``floor(value * scale + u)``.

    ``u`` is uniform in [0, 1): `Stream.uniform` of the 32-byte ``seed``, one number per value.
    """
    scaled, num_saturated = _scaled(values, scale, limit)
    scaled += Stream(seed).uniform(values.size)
    return _within(np.floor(scaled, out=scaled), limit), num_saturated


def pack(values: Elements, width: int) -> bytes:
    """Integers in [0, 2**``width``) as bits without gaps, ``width`` 1 to 32.

    Bit j of value i is bit ``width * i + j`` of the whole, counted from the lowest bit of the first
    byte; the last byte is filled up with zeros.
    """
    if width in (8, 16, 32):
        return values.astype(f"<u{width // 8}").tobytes()
    group, places = _places(width)
    padded = np.zeros((-(-values.size // group), group), dtype=np.uint64)
    padded.reshape(-1)[: values.size] = values
    columns = padded.T.copy()
    words = np.zeros((group * width // _WORD, len(padded)), dtype=np.uint64)
    for column, (word, shift) in zip(columns, places, strict=True):
        words[word] |= column << np.uint64(shift)
        if shift + width > _WORD:
            words[word + 1] |= column >> np.uint64(_WORD - shift)
    return words.T.astype("<u8").tobytes()[: num_bytes(values.size, width)]


def unpack(data: bytes, width: int, count: int) -> Elements:
    """The ``count`` integers that `pack` packed.

    Raises RemoteProtocolError (malformed) for another length, and for padding that is not zero.
    """
    if len(data) != num_bytes(count, width):
        raise RemoteProtocolError(
            refusals.MALFORMED, f"{len(data)} bytes do not hold {count} values of {width} bits"
        )
    if width in (8, 16, 32):
        return np.frombuffer(data, f"<u{width // 8}").astype(np.int64)
    last_bit = (width * count - 1) % 8
    if data and data[-1] >> (last_bit + 1):
        raise RemoteProtocolError(refusals.MALFORMED, "bits behind the last value")
    group, places = _places(width)
    num_groups = -(-count // group)
    whole = data.ljust(num_groups * group * width // 8, b"\0")
    words = np.frombuffer(whole, "<u8").reshape(num_groups, group * width // _WORD)
    words = words.T.astype(np.uint64)
    columns = np.empty((group, num_groups), dtype=np.uint64)
    for column, (word, shift) in zip(columns, places, strict=True):
        np.right_shift(words[word], np.uint64(shift), out=column)
        if shift + width > _WORD:
            np.bitwise_or(column, words[word + 1] << np.uint64(_WORD - shift), out=column)
    columns &= np.uint64((1 << width) - 1)
    return columns.T.astype(np.int64).reshape(-1)[:count]


def num_bytes(count: int, width: int) -> int:
    """How long ``count`` packed values are. Raises LocalProtocolError for a width not 1 to 32."""
    if not 1 <= width <= MAX_WIDTH:
        raise LocalProtocolError(f"a width is 1 to {MAX_WIDTH} bits, not {width}")
    return -(-count * width // 8)


def _scaled(values: Values, scale: float, limit: int) -> tuple[npt.NDArray[np.float64], int]:
    sizes = np.abs(values)
    if not np.isfinite(sizes.max(initial=0)):
        raise LocalProtocolError("a value to be quantised is not finite")
    # In float32 as the values are: one that was clipped to limit / scale is not saturated.
    num_saturated = np.count_nonzero(sizes > np.float32(limit / scale))
    return values.astype(np.float64) * scale, int(num_saturated)


def _within(rounded: npt.NDArray[np.float64], limit: int) -> Elements:
    return np.clip(rounded, -limit, limit, out=rounded).astype(np.int64)


def _places(width: int) -> tuple[int, list[tuple[int, int]]]:
    """How many values fill a whole number of words, and each one's first word and shift."""
    group = _WORD // gcd(_WORD, width)
    return group, [divmod(width * index, _WORD) for index in range(group)]
