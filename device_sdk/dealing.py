"""The device as dealer: a stock of masks, their shares handed out ahead of time.

Secrets live in memory only. Each mask has a seed of its own, from which everything about it can be
made again; the seeds come from a chain that cannot be run backwards, so that who takes the device
later learns nothing of the masks that were used. After a reboot all is dealt anew: an old copy of
the storage has no secret that could be used twice.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import COUNTER_START_BITS, HASH_BYTES, MAX_STOCK, NONCE_BYTES
from protocol.secagg import scheme
from protocol.secagg.consistency import COMMITMENT_BYTES, commitments, root
from protocol.secagg.field import Elements, Words
from protocol.secagg.messages import Dealt, Shares
from protocol.secagg.roster import Roster
from protocol.secagg.sealing import Boxes, Committed, ShareBatch
from protocol.secagg.shares import deal_words
from protocol.stream import derive

#: What a batch has beside its rows, its envelope included, and beside each row.
_BATCH_BYTES: Final = 600
_MASK_BYTES: Final = HASH_BYTES + 9
#: The same of the message that names the masks at hand.
_DEALT_BYTES: Final = 64
_NAMED_BYTES: Final = 9


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Mask:
    """One mask of this device; ``seed`` is secret and makes everything about it."""

    counter: int
    seed: bytes
    committed: tuple[bytes, ...]
    root: bytes

    def apply(self, roster: Roster, values: Elements, public_seed: bytes) -> bytes:
        """Return the body of the one update that this mask is for."""
        given = roster.parameters
        return scheme(given.scheme).mask(
            given, public_seed, self.secret(roster), values, self.noise_seed()
        )

    def secret(self, roster: Roster) -> Elements:
        """Return what is shared out, from which the mask is expanded."""
        given = roster.parameters
        return scheme(given.scheme).secret(given, derive(self.seed, "secret"))

    def noise_seed(self) -> bytes:
        """Return the seed of what the mask adds beside its secret."""
        return derive(self.seed, "noise")

    def privacy_seed(self) -> bytes:
        """Return the seed of the noise that hides this device's data in the sum."""
        return derive(self.seed, "privacy")


class Dealer:
    """The stock of one epoch, oldest first. ``seed`` is 32 secret bytes of this start."""

    def __init__(
        self, roster: Roster, index: int, *, identity: bytes, boxes: Boxes, seed: bytes
    ) -> None:
        parameters = roster.parameters
        self._roster = roster
        self._index = index
        self._identity = identity
        self._boxes = boxes
        self._seed = seed
        self._sharing = scheme(parameters.scheme).sharing(parameters)
        start = int.from_bytes(self._draw("start")[:4], "little") >> 1
        self._counter = start << COUNTER_START_BITS
        self._stock: deque[Mask] = deque()

    def __len__(self) -> int:
        return len(self._stock)

    def take(self) -> Mask | None:
        """Return the oldest mask of the stock, which then forgets it; None if there is none."""
        return self._stock.popleft() if self._stock else None

    def drop(self, counter: int) -> None:
        """Forget a mask without using it."""
        self._stock = deque(mask for mask in self._stock if mask.counter != counter)

    def most(self, room_bytes: int) -> int:
        """Return how many masks there may be at hand, if all are to be named in one message."""
        mask_bytes = _NAMED_BYTES + COMMITMENT_BYTES * len(self._roster.members)
        return min(MAX_STOCK, max(0, room_bytes - _DEALT_BYTES) // mask_bytes)

    def dealt(self, room_bytes: int) -> Dealt | None:
        """Say which masks are at hand, in a message of ``room_bytes`` at most; None if none are.

        Those that are not named count as lost. So if there is less room than when they were dealt,
        the newest are forgotten here too.
        """
        while len(self._stock) > self.most(room_bytes):
            self._stock.pop()
        if not self._stock:
            return None
        committed = b"".join(b"".join(mask.committed) for mask in self._stock)
        counters = tuple(mask.counter for mask in self._stock)
        return Dealt(self._roster.hash, counters, committed)

    def deal(self, num_masks: int, room_bytes: int) -> dict[int, list[Committed]]:
        """Add masks to the stock; return their shares by holder, its own included.

        A batch takes at most ``room_bytes`` as a message, and so does the name of all masks
        (`most`). Raises RemoteProtocolError (``oversize``) if there is no room for a single one.
        """
        most = self.most(room_bytes)
        if most < 1:
            raise RemoteProtocolError(
                refusals.OVERSIZE,
                f"commitments for {len(self._roster.members)} holders do not fit into a message",
            )
        masks = []
        shares = {}
        for _ in range(min(num_masks, most - len(self._stock))):
            seed, counter = self._draw("mask"), self._counter
            rows = self._rows(seed)
            mask_id = self._roster.mask_id(self._index, counter)
            committed = commitments(mask_id, rows, self._sharing.modulus)
            masks.append(Mask(counter, seed, committed, root(mask_id, committed)))
            shares[counter] = rows
            self._counter += 1
        batches = {
            holder: self._batches(holder, masks, shares, room_bytes)
            for holder in range(len(self._roster.members))
        }
        self._stock += masks
        return batches

    def again(self, holder: int, counters: Iterable[int], room_bytes: int) -> list[Committed]:
        """Return the shares of one holder once more, of those masks that are still at hand."""
        wanted = set(counters)
        masks = [mask for mask in self._stock if mask.counter in wanted]
        shares = {mask.counter: self._rows(mask.seed) for mask in masks}
        return self._batches(holder, masks, shares, room_bytes)

    def seal(self, batch: Committed) -> Shares:
        """Return a batch as its holder alone can open it."""
        nonce = self._draw("nonce")[:NONCE_BYTES]
        return self._boxes.seal(batch, identity=self._identity, nonce=nonce)

    def _rows(self, seed: bytes) -> Words:
        given = self._roster.parameters
        secret = scheme(given.scheme).secret(given, derive(seed, "secret"))
        return deal_words(secret, self._sharing, derive(seed, "dealing"))

    def _batches(
        self, holder: int, masks: Sequence[Mask], shares: Mapping[int, Words], room_bytes: int
    ) -> list[Committed]:
        rows = [shares[mask.counter][holder].tobytes() for mask in masks]
        if not rows:
            return []
        at_once = (room_bytes - _BATCH_BYTES) // (len(rows[0]) + _MASK_BYTES)
        if at_once < 1:
            raise RemoteProtocolError(
                refusals.OVERSIZE, f"a share of {len(rows[0])} bytes does not fit into a message"
            )
        return [
            self._batch(holder, masks[at : at + at_once], rows[at : at + at_once])
            for at in range(0, len(masks), at_once)
        ]

    def _batch(self, holder: int, masks: Sequence[Mask], rows: Sequence[bytes]) -> Committed:
        batch = ShareBatch(
            self._roster.task,
            self._roster.hash,
            self._roster.epoch,
            self._index,
            holder,
            tuple(mask.counter for mask in masks),
            b"".join(mask.root for mask in masks),
            b"".join(rows),
        )
        return Committed(batch, tuple(mask.committed[holder] for mask in masks))

    def _draw(self, purpose: str) -> bytes:
        """Return the next 32 secret bytes; those before cannot be found from what remains."""
        drawn, self._seed = derive(self._seed, purpose), derive(self._seed, "next")
        return drawn
