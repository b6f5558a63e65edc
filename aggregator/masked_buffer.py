"""One open buffer of masked updates, and an update that waits to enter one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from aggregator.buffers import Fill
from aggregator.cohorts import Cohort
from protocol.secagg.field import Elements
from protocol.secagg.groups import Group, draw_groups
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


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Updates of a buffer whose sum is asked for alone: a group's, or all (``number`` 0).

    ``masks``: dealer's index -> counter; ``total`` (size,) is the sum of what was masked.
    """

    number: int
    ids: tuple[bytes, ...]
    masks: Mapping[int, int]
    total: Elements


@dataclass(slots=True, eq=False)
class MaskedBuffer:
    """Updates with one support and whose masks are in it: one of each dealer.

    ``total`` is their running sum; where groups are drawn when it is closed, it is empty, and
    ``updates`` has them by dealer.
    """

    cohort: Cohort
    support: int
    opened_at: float
    ids: list[bytes] = field(default_factory=list)
    masks: dict[int, int] = field(default_factory=dict)
    total: Elements = field(init=False)
    updates: dict[int, Waiting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = self._zeros()

    @property
    def fill(self) -> Fill:
        """How full it is: one update a device."""
        return Fill(len(self.ids), len(self.masks), self.opened_at)

    @property
    def holders(self) -> frozenset[int]:
        """Who holds good shares of all its masks, as far as is known now."""
        return self.cohort.book.holders_of(self.masks)

    @property
    def has_enough(self) -> bool:
        """Whether a sum of what is in it may be asked for."""
        return len(self.ids) >= self.cohort.roster.parameters.fewest_updates

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
        """Take an update in."""
        if self.cohort.roster.parameters.group:
            self.updates[waiting.dealer] = waiting
        else:
            self._sum(waiting, self.total)
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
        self.updates |= other.updates
        self.ids += other.ids
        self.masks |= other.masks

    def parts(self) -> list[Part]:
        """Return what it is summed in, now that it is closed."""
        if not self.cohort.roster.parameters.group:
            return [Part(0, tuple(sorted(self.ids)), self.masks, self.total)]
        groups = draw_groups(self.cohort.roster, self.masks)
        return [self._part(number, group) for number, group in enumerate(groups, start=1)]

    def _part(self, number: int, group: Group) -> Part:
        total = self._zeros()
        for dealer in group:
            self._sum(self.updates[dealer], total)
        ids = tuple(sorted(self.updates[dealer].lease_id for dealer in group))
        return Part(number, ids, {dealer: self.masks[dealer] for dealer in group}, total)

    def _sum(self, waiting: Waiting, total: Elements) -> None:
        self.cohort.scheme.add(self.cohort.roster.parameters, total, waiting.update.body)

    def _zeros(self) -> Elements:
        return np.zeros(self.cohort.roster.parameters.size, np.int64)

    def settle(self) -> None:
        """Forget who holds its masks: they will not be asked for."""
        self.cohort.book.settled(self.masks.items())
