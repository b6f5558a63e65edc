"""Joint selection and slot allocation (Chen et al.).

M. Chen, Z. Yang, W. Saad, C. Yin, H. V. Poor, S. Cui, "A Joint Learning and Communications
Framework for Federated Learning over Wireless Networks", IEEE TWC 20(1), 2021, sections III and IV.

Every device gets at most one upload slot and every slot at most one device, so that the sum of
``K_i (q_in - 1)`` is least: K_i samples, q_in the loss of device i in slot n where it makes the
deadline; where it does not, the edge costs 0. It is a matching of least weight, found by the
Hungarian algorithm (`scipy.optimize.linear_sum_assignment`).

Two things are ours. The floor (`aggregator.scheduling.turns`): the objective alone never chooses
devices on poor links. And ``freshness``: K_i counts times the versions since i was chosen last, to
this power, because the samples of a device that was there just now teach less (0: Chen et al.).
Pure.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.scheduling.candidates import MAX_SEATS, candidates
from aggregator.scheduling.links import Floats
from aggregator.scheduling.rules import Knowledge, Moment, Pick, Seat

#: What every edge of a device that must be chosen costs less: more than all others together.
_FLOOR: Final = 1e6


class Hungarian:
    """A matching over at most `MAX_CANDIDATES` devices and `MAX_SEATS` seats at once."""

    def __init__(self, known: Knowledge, freshness: float) -> None:
        self._known = known
        self._freshness = freshness

    def pick(self, seats: Sequence[Seat], sites: Sequence[str], moment: Moment) -> list[Pick]:
        """Return the matching, its best edges first."""
        seats = seats[:MAX_SEATS]
        devices, num_forced = candidates(self._known, sites, len(seats), moment)
        if not devices:
            return []
        costs = self._costs(devices, seats, moment)
        costs[:num_forced] -= _FLOOR * max(1.0, -float(costs.min()))
        pairs = assign(costs)
        pairs.sort(key=lambda pair: float(costs[pair]))
        return [Pick(devices[row], column) for row, column in pairs]

    def _costs(self, devices: Sequence[str], seats: Sequence[Seat], moment: Moment) -> Floats:
        known = self._known
        weights = np.array([self._weight(device) for device in devices])
        loss = known.links.losses(devices)[:, [seat.slot for seat in seats]]
        afters_s = [seat.upload_after_s for seat in seats]
        expected_s = known.links.expected(devices, afters_s, moment.budget_bytes)
        return objective(weights, loss, expected_s <= moment.left_s)

    def _weight(self, device: str) -> float:
        age = self._known.turns.age(device)
        return self._known.num_samples(device) * float(age**self._freshness)


def objective(weights: Floats, loss: Floats, in_time: npt.NDArray[np.bool_]) -> Floats:
    """Return what each edge costs, (devices, slots): ``K_i (q_in - 1)``, or 0 if it is too late."""
    costs: Floats = np.where(in_time, weights[:, None] * (loss - 1.0), 0.0)
    return costs


def assign(costs: Floats) -> list[tuple[int, int]]:
    """Return the (row, column) pairs of a matching of least weight; the smaller side is full."""
    # It takes half a second and 40 MiB, which most aggregators have no use for.
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415

    rows, columns = linear_sum_assignment(costs)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))
