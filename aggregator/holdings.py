"""Who holds shares of which masks: what dealers and holders of one roster have said.

Soft state. Holders say it again whenever they or the aggregator come back, so none of it is stored;
only what is summed (`aggregator.recovery`) is. A mask is *ripe* when enough holders hold shares of
it that lie on one polynomial (`protocol.secagg.consistency`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import MAX_STOCK, Dealt, Holdings
from protocol.secagg.consistency import COMMITMENT_BYTES, consistent_holders
from protocol.secagg.field import to_bytes
from protocol.secagg.roster import Roster
from protocol.secagg.shares import TEST_COLUMNS, Sharing

#: Masks of one dealer that are remembered at most: a stock, and those under way.
MAX_MASKS = 4 * MAX_STOCK


@dataclass(slots=True)
class _Mask:
    """One mask: what its dealer committed to, and the receipts of its holders by index."""

    commitments: tuple[bytes, ...] = ()
    receipts: dict[int, bytes] = field(default_factory=dict)
    own: dict[int, bytes] = field(default_factory=dict)
    holders: frozenset[int] = frozenset()


class HoldingsBook:
    """The masks of one roster. Devices are named by their index in it."""

    def __init__(self, roster: Roster, sharing: Sharing) -> None:
        self._roster = roster
        self._sharing = sharing
        self._masks: list[dict[int, _Mask]] = [{} for _ in roster.members]
        self._stock: list[tuple[int, ...]] = [() for _ in roster.members]
        self._excluded: set[int] = set()
        self._receipt_bytes = len(to_bytes(np.zeros(TEST_COLUMNS, np.int64), sharing.modulus))

    def dealt(self, dealer: int, message: Dealt) -> None:
        """Take a dealer's word for the masks it has at hand; others it had are lost.

        Raises RemoteProtocolError (``malformed``) unless there is a commitment for each holder.
        """
        size = COMMITMENT_BYTES * len(self._roster.members)
        if len(message.commitments) != size * len(message.counters):
            raise RemoteProtocolError(refusals.MALFORMED, "not a commitment a mask and holder")
        masks = self._masks[dealer]
        for counter in set(self._stock[dealer]) - set(message.counters):
            masks.pop(counter, None)
        self._stock[dealer] = message.counters
        for at, counter in enumerate(message.counters):
            mask = masks.setdefault(counter, _Mask())
            whole = message.commitments[at * size : (at + 1) * size]
            mask.commitments = _pieces(whole, COMMITMENT_BYTES)
            self._judge(mask)
        self._bound(dealer)

    def held(self, holder: int, message: Holdings) -> set[int]:
        """Take a holder's word for what it holds; return the dealers it concerns.

        Raises RemoteProtocolError (``malformed``) unless there is a receipt for each mask.
        """
        size = self._receipt_bytes + COMMITMENT_BYTES
        counters, dealers = message.counters, message.dealers
        if not len(counters) * size == len(dealers) * size == len(message.receipts):
            raise RemoteProtocolError(refusals.MALFORMED, "not a dealer and a receipt a mask")
        if any(dealer >= len(self._masks) for dealer in dealers):
            raise RemoteProtocolError(refusals.MALFORMED, "a dealer that the roster does not name")
        if message.whole:
            self._forget_holder(holder)
        receipts = _pieces(message.receipts, size)
        for dealer, counter, receipt in zip(dealers, counters, receipts, strict=True):
            mask = self._masks[dealer].setdefault(counter, _Mask())
            mask.receipts[holder] = receipt[:-COMMITMENT_BYTES]
            mask.own[holder] = receipt[-COMMITMENT_BYTES:]
            self._judge(mask)
            self._bound(dealer)
        return set(dealers)

    def holders(self, dealer: int, counter: int) -> frozenset[int]:
        """Return who holds a good share of a mask."""
        mask = self._masks[dealer].get(counter)
        return frozenset() if mask is None else mask.holders

    def was_tested(self, dealer: int, counter: int) -> bool:
        """Whether more receipts agree than fix the polynomial: only then is a liar a liar."""
        mask = self._masks[dealer].get(counter)
        return (
            mask is not None
            and bool(mask.commitments)
            and len(mask.holders) > self._sharing.num_answers
        )

    def is_ready(self, dealer: int) -> bool:
        """Whether the mask that the device will use next is ripe."""
        stock = self._stock[dealer]
        return bool(stock) and len(self.holders(dealer, stock[0])) >= self._sharing.num_answers

    def missing(self, holder: int) -> Mapping[int, tuple[int, ...]]:
        """Return the masks at hand that a holder has no share of, by dealer."""
        found = {}
        for dealer, stock in enumerate(self._stock):
            lacking = tuple(
                counter for counter in stock if holder not in self._masks[dealer][counter].receipts
            )
            if lacking and dealer != holder:
                found[dealer] = lacking
        return found

    def used(self, dealer: int, counter: int) -> None:
        """Note that an update has come under this mask: it is at hand no more."""
        self._stock[dealer] = tuple(each for each in self._stock[dealer] if each != counter)

    def settled(self, masks: Iterable[tuple[int, int]]) -> None:
        """Forget masks whose updates are counted or refused."""
        for dealer, counter in masks:
            self._masks[dealer].pop(counter, None)

    def exclude(self, holder: int) -> None:
        """Trust nothing of this holder any more."""
        self._excluded.add(holder)
        self._forget_holder(holder)

    def _forget_holder(self, holder: int) -> None:
        for masks in self._masks:
            for mask in masks.values():
                if mask.receipts.pop(holder, None) is not None:
                    del mask.own[holder]
                    self._judge(mask)

    def _judge(self, mask: _Mask) -> None:
        """Find the holders whose shares agree. A dealer that is gone committed to nothing."""
        trusted = {
            holder: receipt
            for holder, receipt in mask.receipts.items()
            if holder not in self._excluded
            and (not mask.commitments or mask.own[holder] == mask.commitments[holder])
        }
        mask.holders = consistent_holders(trusted, self._sharing)

    def _bound(self, dealer: int) -> None:
        """Drop the oldest masks that nobody has at hand, beyond `MAX_MASKS`."""
        masks = self._masks[dealer]
        while len(masks) > MAX_MASKS:
            idle = next((counter for counter in masks if counter not in self._stock[dealer]), None)
            if idle is None:
                return
            del masks[idle]


def _pieces(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[at : at + size] for at in range(0, len(data), size))
