"""The numbers of one session by which devices do not speak in chorus."""

from protocol.stream import derive


class Draws:
    """Its own sequence, from ``seed``; ``num`` counts what was drawn."""

    def __init__(self, seed: bytes) -> None:
        self.num = 0
        self._seed = seed

    def factor(self) -> float:
        """Return a factor from 0.75 to 1.25."""
        return 0.75 + 0.5 * self.next()

    def next(self) -> float:
        """Return the next number in [0, 1)."""
        self.num += 1
        drawn = derive(self._seed, "jitter", self.num)
        return int.from_bytes(drawn[:4], "little") / (1 << 32)
