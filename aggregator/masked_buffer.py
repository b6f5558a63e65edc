"""One open buffer of masked updates, and an update that waits to enter one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from aggregator.buffers import Fill
from aggregator.cohorts import Cohort
from protocol.secagg.field import Elements
from protocol.secagg.messages import MaskedUpdate


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """An admitted update that no buffer can take yet; ``dealer`` is the index of its device."""

    lease_id: bytes
    cohort: Cohort
    dealer: int
    update: MaskedUpdate

    def is_named(self, cohort: Cohort, masks: Mapping[int, int]) -> bool:
        """Whether a request for these masks (dealer's index -> counter) names its mask."""
        return self.cohort is cohort and masks.get(self.dealer) == self.update.counter

    def settle(self) -> None:
        """Forget who holds its mask: it will not be asked for."""
        self.cohort.book.settled([(self.dealer, self.update.counter)])


@dataclass(slots=True, eq=False)
class MaskedBuffer:
    """The running sum of updates with one support, and whose masks are in it."""

    cohort: Cohort
    support: int
    opened_at: float
    total: Elements = field(init=False)
    ids: list[bytes] = field(default_factory=list)
    masks: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = np.zeros(self.cohort.roster.parameters.size, np.int64)

    @property
    def fill(self) -> Fill:
        """How full it is: one update a device."""
        return Fill(len(self.ids), len(self.masks), self.opened_at)

    @property
    def holders(self) -> frozenset[int]:
        """Who holds good shares of all its masks, as far as is known now."""
        everybody = frozenset(range(len(self.cohort.roster.members)))
        held = (self.cohort.book.holders(*mask) for mask in self.masks.items())
        return everybody.intersection(*held)

    @property
    def has_enough(self) -> bool:
        """Whether a sum of what is in it may be asked for."""
        return len(self.ids) >= self.cohort.roster.parameters.min_contributors

    def is_for(self, waiting: Waiting) -> bool:
        """Whether it holds updates of the same cohort, epoch and support."""
        return self.cohort is waiting.cohort and self.support == waiting.update.support

    def has_room(self, waiting: Waiting) -> bool:
        """Whether there is room for another update, of this device."""
        most = self.cohort.roster.parameters.max_contributors
        return waiting.dealer not in self.masks and len(self.ids) < most

    def takes(self, waiting: Waiting, holders: frozenset[int]) -> bool:
        """Whether there is room, and U of ``holders``, who hold its mask, hold all the others."""
        enough = len(holders & self.holders) >= self.cohort.roster.parameters.num_answers
        return enough and self.has_room(waiting)

    def add(self, waiting: Waiting) -> None:
        """Take an update into the sum."""
        parameters = self.cohort.roster.parameters
        self.cohort.scheme.add(parameters, self.total, waiting.update.body)
        self.ids.append(waiting.lease_id)
        self.masks[waiting.dealer] = waiting.update.counter

    def can_join(self, other: "MaskedBuffer") -> bool:
        """Whether both may be one by now: more may have become known of who holds what."""
        parameters = self.cohort.roster.parameters
        if self.cohort is not other.cohort or self.support != other.support:
            return False
        num_updates = len(self.ids) + len(other.ids)
        if num_updates > parameters.max_contributors or self.masks.keys() & other.masks.keys():
            return False
        return len(self.holders & other.holders) >= parameters.num_answers

    def join(self, other: "MaskedBuffer") -> None:
        """Take over all that is in another buffer."""
        self.opened_at = min(self.opened_at, other.opened_at)
        self.total += other.total
        self.ids += other.ids
        self.masks |= other.masks

    def settle(self) -> None:
        """Forget who holds its masks: they will not be asked for."""
        self.cohort.book.settled(self.masks.items())
