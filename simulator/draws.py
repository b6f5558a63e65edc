"""Chance in a simulation: a seed's own sequence of numbers, small enough for every device."""

from protocol.stream import derive

_WORD_BYTES = 4
_SCALE = 1.0 / (1 << 32)


class Draws:
    """Numbers in [0, 1) from a 32-byte seed, the same on every machine."""

    __slots__ = ("_num_derived", "_rest", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._num_derived = 0
        self._rest = b""

    def next(self) -> float:
        """Return the next number."""
        if not self._rest:
            self._num_derived += 1
            self._rest = derive(self._seed, "draws", self._num_derived)
        word, self._rest = self._rest[:_WORD_BYTES], self._rest[_WORD_BYTES:]
        return int.from_bytes(word, "little") * _SCALE
