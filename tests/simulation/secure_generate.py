"""Random histories of secure tasks: the same number gives the same history."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from tests.simulation.history import (
    AdvanceTime,
    Deliver,
    Drop,
    Duplicate,
    FailStorage,
    FailStore,
    Join,
    Leave,
    Reorder,
    RestartAggregator,
    RestartBroker,
    RestartDevice,
)
from tests.simulation.secure_history import (
    Ask,
    NextRoster,
    Numbers,
    Replay,
    Rollback,
    SecureHistory,
    SecureOperation,
)

#: All devices there can be, founders of the cohort first.
NAMES = "abcdefghijklmnopqrstuvwx"
MAX_OPERATIONS = 30
#: N, t, T, U.
CIRCLES = (
    Numbers(5, 1, 3, 4),
    Numbers(6, 1, 3, 4),
    Numbers(6, 1, 3, 5),
    Numbers(7, 1, 4, 5),
    Numbers(8, 1, 4, 6),
    Numbers(8, 2, 5, 6),
    Numbers(12, 1, 6, 8),
)
#: The same where buffers are summed in groups of three.
GROUPED = Numbers(10, 1, 5, 7)
SCHEMES = ("lightsecagg", "lightsecagg", "seedmask")
SUPPORTS = ("dense", "dense", "plan-0.25", "randk-0.25")
#: An epoch that lasts, and one that ends in the midst of it.
VALID_S = (100_000, 100_000, 100_000, 80)
#: A version is made every few seconds, so that many updates are late.
STALENESS = ("constant", "constant", "polynomial")
#: Small packets leave room for one share, and cut models or updates where that is smaller.
PACKETS = {"lightsecagg": 2048, "seedmask": 6144}


class _Draws:
    """Numbers drawn from one seed."""

    def __init__(self, seed: int) -> None:
        self._numbers: Iterator[float] = iter(
            np.random.default_rng([seed, 1]).random(16 + 5 * MAX_OPERATIONS).tolist()
        )
        self.names = NAMES

    def below(self, bound: int) -> int:
        return int(next(self._numbers) * bound)

    def seconds(self, most: float) -> float:
        """Short spans as often as long ones, in steps that print well."""
        return max(0.01, round(most * next(self._numbers) ** 3, 2))

    def device(self) -> str:
        return self.names[self.below(len(self.names))]

    def coin(self) -> bool:
        return self.below(2) == 1


#: How to draw an operation, and how often it comes up.
_WEIGHED: tuple[tuple[int, Callable[[_Draws], SecureOperation]], ...] = (
    (4, lambda draws: Join(draws.device())),
    (2, lambda draws: Leave(draws.device())),
    (4, lambda draws: Deliver(draws.below(40))),
    (6, lambda draws: Drop(draws.below(40))),
    (5, lambda draws: Duplicate(draws.below(40), draws.seconds(60))),
    (6, lambda draws: Reorder(draws.below(40), draws.seconds(60))),
    (8, lambda draws: RestartDevice(draws.device(), draws.below(12), draws.seconds(30))),
    (6, lambda draws: RestartAggregator(draws.below(9), draws.seconds(10))),
    (1, lambda draws: RestartBroker(draws.coin(), draws.seconds(10))),
    (2, lambda draws: FailStore(draws.coin())),
    (3, lambda draws: FailStorage(draws.device())),
    (5, lambda draws: Replay(draws.below(200))),
    (2, lambda _draws: NextRoster()),
    (32, lambda draws: AdvanceTime(draws.seconds(14))),
)
_HOSTILE: tuple[tuple[int, Callable[[_Draws], SecureOperation]], ...] = (
    *_WEIGHED,
    (20, lambda draws: Ask(draws.below(8), draws.below(6), draws.below(1 << 12))),
    (6, lambda draws: Rollback(draws.names[0], draws.seconds(5))),
)


def _urn(
    weighed: tuple[tuple[int, Callable[[_Draws], SecureOperation]], ...],
) -> tuple[Callable[[_Draws], SecureOperation], ...]:
    return tuple(draw for weight, draw in weighed for _ in range(weight))


_URN, _HOSTILE_URN = _urn(_WEIGHED), _urn(_HOSTILE)


def secure_history(seed: int) -> SecureHistory:
    """Return history number ``seed``."""
    draws = _Draws(seed)
    mode = "rounds" if draws.below(4) == 0 else "buffered"
    scheme = SCHEMES[draws.below(len(SCHEMES))]
    support = SUPPORTS[draws.below(len(SUPPORTS))]
    weighted = draws.below(3) == 0
    # The largest circle is rare: it takes the longest.
    circle = CIRCLES[-1] if draws.below(24) == 0 else CIRCLES[draws.below(len(CIRCLES) - 1)]
    packet_bytes = 1 << 16 if draws.below(3) else PACKETS[scheme]
    if circle.answers - circle.noise == 1:
        packet_bytes = max(packet_bytes, 2560)
    valid_s = VALID_S[draws.below(len(VALID_S))]
    urn = _HOSTILE_URN if draws.below(4) == 0 else _URN
    draws.names = NAMES[: circle.devices]
    num_first = circle.devices - draws.below(3)
    joins = tuple(Join(name) for name in draws.names[:num_first])
    length = draws.below(MAX_OPERATIONS) + 1
    drawn = tuple(urn[draws.below(len(urn))](draws) for _ in range(length))
    staleness = STALENESS[draws.below(len(STALENESS))]
    return SecureHistory(
        seed,
        mode,
        scheme,
        support,
        weighted,
        circle,
        packet_bytes,
        valid_s,
        joins + drawn,
        staleness,
    )


def grouped_history(seed: int) -> SecureHistory:
    """Return a history like number ``seed`` of a larger circle, whose buffers have groups."""
    given = secure_history(seed)
    joins = tuple(Join(name) for name in NAMES[: GROUPED.devices])
    return replace(given, numbers=GROUPED, group=3, operations=joins + given.operations)
