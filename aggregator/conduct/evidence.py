"""What counts against a device, and how much: every kind of evidence with its points.

Three sorts, told apart by who could have caused it:

- **proven**: the device itself did it, whatever the network does: an update of NaN, a wrong share.
  A few of them reach the threshold;
- **hints**: honest devices do it too (a slow link, an update of the SDK). ``most`` bounds what a
  kind can add, so that all hints together stay below the default threshold;
- **shown**, 0 points: others can cause it in the device's name (whoever holds the broker can
  forge, replay and clone), so that it must never be a way to get an honest device thrown out.
"""

import math
from dataclasses import dataclass
from typing import Final

from protocol import refusals

#: It sent on and on beyond its burst.
FLOOD: Final = "flood"
#: A message was dropped unread: beyond the burst.
OVER_BUDGET: Final = "over_budget"
#: A lease ran out without an update.
LATE: Final = "late"
#: An update came sooner than anybody could have trained it.
TOO_QUICK: Final = "too_quick"
#: How many samples it says to have changed many times over.
DRIFT: Final = "drift"
#: It says to have many times more samples than the others.
BOASTS: Final = "boasts"
#: Its update was far from the others', as a robust rule sees it.
OUTLIER: Final = "outlier"
#: Values were cut before masking, more than a device's that trains as the others do.
SATURATION: Final = "saturation"
#: Groups it was in were worse than others (`aggregator.robust.group_testing`); the amount is how
#: sure that is now, in standard errors beyond the limit.
GROUP_INFLUENCE: Final = "group_influence"
#: Something unreadable came in its name, and nothing proves that it came from it.
UNPROVEN: Final = "unproven"


@dataclass(frozen=True, slots=True)
class Weight:
    """``points`` for each time, adding up to ``most``; ``meaning`` is what a person reads."""

    points: float
    meaning: str
    most: float = math.inf


def _refused(reason: str, points: float, most: float = math.inf) -> tuple[str, Weight]:
    return reason, Weight(points, refusals.MEANING[reason], most)


WEIGHTS: Final[dict[str, Weight]] = dict(
    [
        # proven
        _refused(refusals.EXCLUDED, 5),
        _refused(refusals.NOT_FINITE, 4),
        *(
            _refused(reason, 2.5)
            for reason in (
                refusals.MALFORMED,
                refusals.OVERSIZE,
                refusals.WRONG_KIND,
                refusals.WRONG_TASK,
                refusals.WRONG_SENDER,
                refusals.WRONG_SHAPE,
                refusals.WRONG_BASE,
                refusals.FUTURE_VERSION,
            )
        ),
        (FLOOD, Weight(10, "sent on and on beyond its budget of messages")),
        (GROUP_INFLUENCE, Weight(2, "groups with its updates made the model worse", 12)),
        # hints
        (OUTLIER, Weight(0.5, "updates far from the others'", 3)),
        (BOASTS, Weight(0.25, "says to have many times more samples than the others", 1)),
        (DRIFT, Weight(0.5, "the number of samples it declares jumps", 1)),
        (TOO_QUICK, Weight(0.1, "updates come sooner than one can train", 1)),
        (LATE, Weight(0.05, "leases ran out without an update", 0.5)),
        _refused(refusals.MASK_USED, 0.5, 1),
        _refused(refusals.WRONG_CODEC, 0.25, 0.5),
        _refused(refusals.UNKNOWN_LEASE, 0.1, 0.5),
        _refused(refusals.INCOMPLETE, 0.05, 0.25),
        # shown
        _refused(refusals.BAD_SIGNATURE, 0),
        _refused(refusals.UNKNOWN_KEY, 0),
        _refused(refusals.REPLAYED, 0),
        _refused(refusals.DUPLICATE_DEVICE, 0),
        (SATURATION, Weight(0, "values cut when they are masked, by its (unsigned) telemetry")),
        (OVER_BUDGET, Weight(0, "messages beyond its budget, dropped unread")),
        (UNPROVEN, Weight(0, "unreadable, in its name, and nothing proves that it sent it")),
    ]
)

#: What is shown and costs nothing.
SHOWN: Final = frozenset(kind for kind, weight in WEIGHTS.items() if not weight.points)
