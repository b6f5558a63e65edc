"""Levels: small whole numbers that stand for values, and how densely they lie in bytes.

| type | levels | in bytes |
|---|---|---|
| int8 | -127 to 127 | one a byte, two's complement |
| int4 | -7 to 7 | two a byte, two's complement, the first in the low half |
| ternary | -1, 0, 1 | five a byte, as digits 2, 0, 1 to the base 3, the first counts ones |

The last byte is filled up with zeros. Five trits a byte are 1.6 bits each where two bits would be
easier to read: a fifth less for the same time, as both directions are one table look-up a byte.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.errors import RemoteProtocolError

Levels = npt.NDArray[np.int8]

INT8: Final = "int8"
INT4: Final = "int4"
TERNARY: Final = "ternary"


@dataclass(frozen=True, slots=True)
class Grid:
    """The levels of a number type: -``largest`` to ``largest``, ``per_byte`` of them in a byte.

    ``base`` is what the place of a level in its byte counts, ``block`` how many values share a
    scale; 0: all that are of one tensor.
    """

    largest: int
    per_byte: int
    base: int
    block: int

    def num_bytes(self, count: int) -> int:
        """How many bytes so many levels take."""
        return -(-count // self.per_byte)


#: A coarse grid needs its scale near: measured, docs/adr/0023.
GRIDS: Final[dict[str, Grid]] = {
    INT8: Grid(127, 1, 256, 0),
    INT4: Grid(7, 2, 16, 256),
    TERNARY: Grid(1, 5, 3, 256),
}


def pack_levels(levels: Levels, grid: Grid) -> bytes:
    """The bytes of levels, each within the grid."""
    if grid.per_byte == 1:
        return levels.tobytes()
    digits = np.zeros(grid.num_bytes(levels.size) * grid.per_byte, np.uint8)
    digits[: levels.size] = np.where(levels < 0, levels + grid.base, levels)
    places = digits.reshape(-1, grid.per_byte)
    packed = places[:, -1].copy()
    for place in range(grid.per_byte - 2, -1, -1):  # Horner: a byte holds all of them
        packed *= np.uint8(grid.base)
        packed += places[:, place]
    return packed.tobytes()


def unpack_levels(data: bytes, count: int, grid: Grid) -> Levels:
    """The first ``count`` levels of ``data``, which holds them and maybe more.

    Raises RemoteProtocolError (``malformed``) for bytes that `pack_levels` does not write.
    """
    num_bytes = grid.num_bytes(count)
    if grid.per_byte == 1:
        if data.find(b"\x80", 0, num_bytes) >= 0:
            raise RemoteProtocolError(refusals.MALFORMED, "level -128")
        return np.frombuffer(data, np.int8, count)
    table, written = _table(grid)
    packed = data[:num_bytes]
    levels = table[np.frombuffer(packed, np.uint8)].view(np.int8)
    if packed.translate(None, written) or levels[count:].any():  # what is left was never written
        raise RemoteProtocolError(refusals.MALFORMED, "a byte that holds no levels")
    return levels[:count]


@lru_cache(maxsize=4)
def _table(grid: Grid) -> tuple[npt.NDArray[np.void], bytes]:
    """Of every byte its levels, as one item each, and all bytes that hold levels."""
    rest = np.arange(256)
    table = np.zeros((256, grid.per_byte), np.int8)
    for place in range(grid.per_byte):
        digits = rest % grid.base
        table[:, place] = np.where(digits > grid.base // 2, digits - grid.base, digits)
        rest //= grid.base
    written = (rest == 0) & (np.abs(table).max(axis=1) <= grid.largest)
    return table.view(f"V{grid.per_byte}").reshape(-1), bytes(written.nonzero()[0].tolist())
