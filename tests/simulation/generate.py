"""Random histories: the same number gives the same history."""

from collections.abc import Callable, Iterator

import numpy as np

from tests.simulation.history import (
    AdvanceTime,
    Deliver,
    Drop,
    Duplicate,
    FailStorage,
    FailStore,
    History,
    Join,
    Leave,
    Operation,
    Reorder,
    RestartAggregator,
    RestartBroker,
    RestartDevice,
)

DEVICES = "abcde"
MAX_OPERATIONS = 30
CODECS = ("dense/float32", "dense/float32", "topk-0.001/float32")

DOWNLINKS = ("none", "topk-0.05/int8", "dense/int4")


class _Draws:
    """Numbers drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self._numbers: Iterator[float] = iter(
            np.random.default_rng(seed).random(8 + 4 * MAX_OPERATIONS).tolist()
        )

    def below(self, bound: int) -> int:
        return int(next(self._numbers) * bound)

    def seconds(self, most: float) -> float:
        """Short spans as often as long ones, in steps that print well."""
        return max(0.01, round(most * next(self._numbers) ** 3, 2))

    def device(self) -> str:
        return DEVICES[self.below(len(DEVICES))]

    def coin(self) -> bool:
        return self.below(2) == 1


#: How to draw an operation, and how often it comes up.
_WEIGHED: tuple[tuple[int, Callable[[_Draws], Operation]], ...] = (
    (4, lambda draws: Join(draws.device())),
    (1, lambda draws: Leave(draws.device())),
    (4, lambda draws: Deliver(draws.below(12))),
    (5, lambda draws: Drop(draws.below(12))),
    (5, lambda draws: Duplicate(draws.below(12), draws.seconds(60))),
    (5, lambda draws: Reorder(draws.below(12), draws.seconds(60))),
    (5, lambda draws: RestartDevice(draws.device(), draws.below(7), draws.seconds(30))),
    (4, lambda draws: RestartAggregator(draws.below(9), draws.seconds(10))),
    (1, lambda draws: RestartBroker(draws.coin(), draws.seconds(10))),
    (2, lambda draws: FailStore(draws.coin())),
    (2, lambda draws: FailStorage(draws.device())),
    (32, lambda draws: AdvanceTime(draws.seconds(20))),
)
_URN = tuple(draw for weight, draw in _WEIGHED for _ in range(weight))


def history(seed: int) -> History:
    """Return history number ``seed``."""
    draws = _Draws(seed)
    mode = "rounds" if draws.below(3) == 0 else "buffered"
    codec = CODECS[draws.below(len(CODECS))]
    packet_bytes = 1 << 16 if draws.below(3) else 1024
    joins = tuple(Join(name) for name in DEVICES[: draws.below(4)])
    length = draws.below(MAX_OPERATIONS) + 1
    drawn = tuple(_URN[draws.below(len(_URN))](draws) for _ in range(length))
    downlink = DOWNLINKS[draws.below(len(DOWNLINKS))]
    return History(seed, mode, codec, packet_bytes, joins + drawn, downlink)
