"""Who holds shares of which masks: what dealers and holders of one roster have said.

Soft state. Holders say it again whenever they or the aggregator come back, so none of it is stored;
only what is summed (`aggregator.recovery`) is. What a holder says is kept by holder: one that names
masks without end pushes out its own. Who holds a mask is judged when somebody asks, since each of
N holders has a word on each of N dealers' masks (`protocol.secagg.consistency`).
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import MAX_STOCK
from protocol.secagg.consistency import COMMITMENT_BYTES, consistent_holders, root, witness
from protocol.secagg.field import to_bytes
from protocol.secagg.messages import Dealt, Holdings
from protocol.secagg.roster import Roster
from protocol.secagg.shares import TEST_COLUMNS, Sharing

#: So many of a dealer's last used masks are known as used.
MAX_USED: Final = 64
#: A holder's word is kept for so many masks of each dealer, on average.
MAX_RECEIPTS: Final = MAX_STOCK

#: A mask: its dealer's index, and its counter.
MaskName = tuple[int, int]
Pieces = tuple[bytes, ...]


class _Receipt(NamedTuple):
    """A holder's part in the dealers' test, and its witness of what it was given."""

    tested: bytes
    witness: bytes


class HoldingsBook:
    """The masks of one roster. Devices are named by their index in it."""

    def __init__(self, roster: Roster, sharing: Sharing) -> None:
        num_members = len(roster.members)
        self._sharing = sharing
        self._stock: list[tuple[int, ...]] = [()] * num_members
        self._roster = roster
        self._witnesses: dict[MaskName, Pieces] = {}
        self._receipts: list[dict[MaskName, _Receipt]] = [{} for _ in roster.members]
        self._used: list[deque[int]] = [deque(maxlen=MAX_USED) for _ in roster.members]
        self._judged: dict[MaskName, frozenset[int]] = {}
        self._excluded: set[int] = set()
        self._tested_bytes = len(to_bytes(np.zeros(TEST_COLUMNS, np.int64), sharing.modulus))

    # --- what is said --------------------------------------------------------------------------

    def dealt(self, dealer: int, message: Dealt) -> None:
        """Take a dealer's word for the masks it has at hand, the one it uses next first.

        Raises RemoteProtocolError (``malformed``) unless there is a commitment for each holder.
        """
        size = COMMITMENT_BYTES * len(self._receipts)
        if len(message.commitments) != size * len(message.counters):
            raise RemoteProtocolError(refusals.MALFORMED, "not a commitment a mask and holder")
        for counter in self._stock[dealer]:
            self._witnesses.pop((dealer, counter), None)
            self._judged.pop((dealer, counter), None)
        committed = _pieces(message.commitments, size)
        new = {
            counter: self._expected(dealer, counter, _pieces(whole, COMMITMENT_BYTES))
            for counter, whole in zip(message.counters, committed, strict=True)
            if counter not in self._used[dealer]
        }
        self._stock[dealer] = tuple(new)
        for counter, pieces in new.items():
            self._witnesses[dealer, counter] = pieces
            self._judged.pop((dealer, counter), None)

    def held(self, holder: int, message: Holdings) -> None:
        """Take a holder's word for what it holds.

        Raises RemoteProtocolError (``malformed``) unless there is a receipt for each mask.
        """
        size = self._tested_bytes + COMMITMENT_BYTES
        counters, dealers = message.counters, message.dealers
        if not len(counters) * size == len(dealers) * size == len(message.receipts):
            raise RemoteProtocolError(refusals.MALFORMED, "not a dealer and a receipt a mask")
        if any(dealer >= len(self._receipts) for dealer in dealers):
            raise RemoteProtocolError(refusals.MALFORMED, "a dealer that the roster does not name")
        if holder in self._excluded:
            return
        names = zip(dealers, counters, strict=True)
        said = dict(zip(names, map(_receipt, _pieces(message.receipts, size)), strict=True))
        kept = self._receipts[holder]
        for name in kept.keys() - said.keys() if message.whole else ():
            del kept[name]
            self._judged.pop(name, None)
        for name, receipt in said.items():
            if kept.pop(name, None) != receipt:  # the same again is judged already
                self._judged.pop(name, None)
            kept[name] = receipt
        while len(kept) > MAX_RECEIPTS * len(self._receipts):
            oldest = next(iter(kept))
            del kept[oldest]
            self._judged.pop(oldest, None)

    def used(self, dealer: int, counter: int) -> None:
        """Note that an update has come under this mask: it is at hand no more."""
        self._used[dealer].append(counter)
        self._stock[dealer] = tuple(each for each in self._stock[dealer] if each != counter)

    def settled(self, masks: Iterable[MaskName]) -> None:
        """Forget masks whose updates are counted or refused, but not that they were used."""
        for name in masks:
            self._witnesses.pop(name, None)
            self._judged.pop(name, None)
            for kept in self._receipts:
                kept.pop(name, None)

    def exclude(self, holder: int) -> None:
        """Trust nothing of this holder any more."""
        self._excluded.add(holder)
        self._forget_holder(holder)

    # --- what follows --------------------------------------------------------------------------

    def is_used(self, dealer: int, counter: int) -> bool:
        """Whether an update has come under this mask, lately."""
        return counter in self._used[dealer]

    def holders(self, dealer: int, counter: int) -> frozenset[int]:
        """Return who holds a good share of a mask."""
        name = (dealer, counter)
        found = self._judged.get(name)
        if found is None:
            found = self._judged[name] = self._judge(name)
        return found

    def holders_of(self, masks: Mapping[int, int]) -> frozenset[int]:
        """Return who holds good shares of all of these masks (dealer's index -> counter)."""
        everybody = frozenset(range(len(self._roster.members)))
        return everybody.intersection(*(self.holders(*mask) for mask in masks.items()))

    def was_tested(self, dealer: int, counter: int) -> bool:
        """Whether more receipts agree than fix the polynomial: only then is a liar a liar."""
        num_agreeing = len(self.holders(dealer, counter))
        return (dealer, counter) in self._witnesses and num_agreeing > self._sharing.num_answers

    def is_ready(self, dealer: int) -> bool:
        """Whether enough holders have good shares of the mask that the device will use next."""
        stock = self._stock[dealer]
        return bool(stock) and len(self.holders(dealer, stock[0])) >= self._sharing.num_answers

    def missing(self, holder: int) -> Mapping[int, tuple[int, ...]]:
        """Return the masks at hand that a holder has no share of, by dealer."""
        others = (dealer for dealer in range(len(self._stock)) if dealer != holder)
        missing = {dealer: self._missing(dealer, holder) for dealer in others}
        return {dealer: counters for dealer, counters in missing.items() if counters}

    def is_short(self, dealer: int) -> bool:
        """Whether a device has a mask at hand that too few hold good shares of."""
        return bool(self._stock[dealer]) and not self.is_ready(dealer)

    def lacking(self, dealer: int) -> Mapping[int, tuple[int, ...]]:
        """Return the masks that a device has at hand, by who has no share of them."""
        others = (holder for holder in range(len(self._stock)) if holder != dealer)
        missing = {holder: self._missing(dealer, holder) for holder in others}
        return {holder: counters for holder, counters in missing.items() if counters}

    def _missing(self, dealer: int, holder: int) -> tuple[int, ...]:
        kept = self._receipts[holder]
        return tuple(each for each in self._stock[dealer] if (dealer, each) not in kept)

    def _judge(self, name: MaskName) -> frozenset[int]:
        """Find the holders whose shares agree. A dealer that is gone committed to nothing."""
        committed = self._witnesses.get(name)
        trusted = {
            holder: receipt.tested
            for holder, kept in enumerate(self._receipts)
            if (receipt := kept.get(name)) is not None
            and (committed is None or receipt.witness == committed[holder])
        }
        if len(trusted) < self._sharing.num_answers:
            return frozenset(trusted)  # too few to judge, and too few to be of use
        return consistent_holders(trusted, self._sharing)

    def _expected(self, dealer: int, counter: int, committed: Pieces) -> Pieces:
        """Return what each holder says whose row and root are the ones committed to."""
        test_root = root(self._roster.mask_id(dealer, counter), committed)
        return tuple(witness(each, test_root) for each in committed)

    def _forget_holder(self, holder: int) -> None:
        for name in self._receipts[holder]:
            self._judged.pop(name, None)
        self._receipts[holder] = {}


def _receipt(piece: bytes) -> _Receipt:
    return _Receipt(piece[:-COMMITMENT_BYTES], piece[-COMMITMENT_BYTES:])


def _pieces(data: bytes, size: int) -> Pieces:
    return tuple(data[at : at + size] for at in range(0, len(data), size))
