"""What is unusual: how quickly updates come, and how many samples devices say they have.

Both are only hints: a fast computer among slow ones is quick, and data do come in bursts. So they
are compared with a wide margin, and to what most devices do, never to a constant.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import islice
from statistics import median
from typing import Final

#: How many of the newest facts a median is taken of, and how few say nothing yet.
MEMORY: Final = 101
FEW: Final = 8
#: An update that took less than this part of the median time was hardly trained.
QUICK_PART: Final = 0.02
#: Below this median every device is quick: nothing can be told.
QUICK_MEDIAN_S: Final = 1.0
#: So many times more samples than the median, or than it had itself, is unusual.
BOAST: Final = 64.0
JUMP: Final = 16.0
#: How much of its usual number of samples a device's newest word makes up.
_PACE: Final = 0.25


class Habits:
    """Of at most ``max_devices`` devices; the median is of what most of them do."""

    def __init__(self, max_devices: int) -> None:
        self._max_devices = max_devices
        self._saturated: OrderedDict[str, int] = OrderedDict()
        self._elapsed: deque[float] = deque(maxlen=MEMORY)
        self._claims: OrderedDict[str, float] = OrderedDict()  # log2 of 1 + samples, smoothed

    def is_too_quick(self, elapsed_s: float) -> bool:
        """Note how long after its lease an update came; return whether that was too soon."""
        before = list(self._elapsed)
        self._elapsed.append(elapsed_s)
        if not before or elapsed_s >= QUICK_PART * max(before):
            return False  # whatever the median: it need not be found
        usual_s = _median(before)
        return usual_s > QUICK_MEDIAN_S and elapsed_s < QUICK_PART * usual_s

    def saturates(self, device: str, num_values: int) -> bool:
        """Note how many values a device has had to cut so far; return whether those are more.

        More than at the last time, and many times more than the others had to.
        """
        before = self._saturated.pop(device, 0)
        is_many = num_values > max(before, BOAST)
        others = _median(_newest(self._saturated)) if is_many else 0.0
        if len(self._saturated) >= self._max_devices:
            self._saturated.popitem(last=False)
        self._saturated[device] = num_values
        enough = len(self._saturated) > FEW
        return enough and is_many and num_values > BOAST * others

    def declares(self, device: str, num_samples: int) -> tuple[bool, bool]:
        """Note how many samples a device says to have; return (it jumped, it boasts)."""
        told = math.log2(1 + max(0, num_samples))
        before = self._claims.pop(device, None)
        others = _median(_newest(self._claims)) if told > math.log2(BOAST) else 0.0
        if before is None and len(self._claims) >= self._max_devices:
            self._claims.popitem(last=False)
        self._claims[device] = told if before is None else before + _PACE * (told - before)
        jumped = before is not None and abs(told - before) > math.log2(JUMP)
        return jumped, others > 0 and told > others + math.log2(BOAST)


def _newest(facts: OrderedDict[str, float] | OrderedDict[str, int]) -> Iterable[float]:
    """Look at no more of them, however many devices there are."""
    return islice(reversed(facts.values()), MEMORY)


def _median(values: Iterable[float]) -> float:
    """Return the median; 0 while there are too few to say anything."""
    known = list(values)
    return median(known) if len(known) >= FEW else 0.0
