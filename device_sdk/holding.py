"""The device as holder: it keeps shares of others' masks, and answers with sums of them, once.

Shares are kept one file a mask, so that using one forgets one. `Answers` says which are used:
whatever the files say after a loss of power, a mask in an answer is gone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgpack
import numpy as np

from device_sdk.actions import Action, Delete, Store
from device_sdk.answers import Answers, MaskName
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import HASH_BYTES, MAX_HELD, MAX_STOCK
from protocol.secagg import scheme
from protocol.secagg.consistency import receipts, witness
from protocol.secagg.field import Words, to_bytes, word_type, words
from protocol.secagg.messages import Holdings, RecoveryRequest
from protocol.secagg.requests import Asked
from protocol.secagg.roster import Roster
from protocol.secagg.sealing import Committed, ShareBatch
from protocol.secagg.shares import TEST_COLUMNS, add, columns

#: Before the keys of shares in storage.
SHARE: Final = "share-"
#: What `Holdings` has beside its entries, and each entry beside its receipt.
_HOLDINGS_BYTES: Final = 150
_MASK_BYTES: Final = 11


@dataclass(frozen=True, slots=True, repr=False)
class _Share:
    """A share of one mask, and the root it came with; ``order`` is that of arrival."""

    order: int
    root: bytes
    witness: bytes
    row: bytes


class Conflict(Exception):  # noqa: N818 - a finding, which the caller reports
    """A request names masks that have been used: ``earlier`` is the request they were used for."""

    def __init__(self, earlier: RecoveryRequest | None, detail: str) -> None:
        super().__init__(detail)
        self.earlier = earlier


class Holder:
    """The shares and answers of one epoch.

    At most ``max_bytes`` of shares are kept, and `MAX_STOCK` masks of a dealer. A dealer that
    deals more has lost the oldest, which are forgotten; when there is no room, those of the dealer
    with most, as long as each has its part.
    """

    def __init__(
        self,
        roster: Roster,
        *,
        stored: Mapping[str, bytes],
        max_bytes: int,
        counts: Counter[str],
    ) -> None:
        parameters = roster.parameters
        self._roster = roster
        self._counts = counts
        self._modulus = parameters.modulus
        sharing = scheme(parameters.scheme).sharing(parameters)
        secret_size = scheme(parameters.scheme).secret_size(parameters)
        self._num_columns = columns(secret_size, sharing) + TEST_COLUMNS
        self._answers = Answers(roster.hash, stored)
        self._shares: dict[MaskName, _Share] = {}
        self._said: dict[MaskName, bytes] = {}
        self._held: defaultdict[int, list[MaskName]] = defaultdict(list)  # by dealer, oldest first
        row_bytes = len(to_bytes(np.zeros(self._num_columns, np.int64), self._modulus))
        self._capacity = max_bytes // row_bytes
        self._fair_part = max(1, self._capacity // len(roster.members))
        self._order = 0
        self._load(stored)

    def _load(self, stored: Mapping[str, bytes]) -> None:
        found = {}
        for key, data in stored.items():
            if key.startswith(SHARE):
                roster_hash, dealer, counter, *share = msgpack.unpackb(data)
                if roster_hash == self._roster.hash:
                    found[dealer, counter] = _Share(*share)
        for mask, share in sorted(found.items(), key=lambda item: item[1].order):
            if not self._answers.is_used(mask):
                self._add({mask: share})
                self._order = share.order + 1

    @property
    def keys(self) -> frozenset[str]:
        """The keys in storage that are this epoch's and still count."""
        return frozenset(_key(mask) for mask in self._shares) | self._answers.keys

    def __contains__(self, mask: object) -> bool:
        return mask in self._shares

    # --- shares ------------------------------------------------------------------------------

    def keep(self, committed: Committed) -> tuple[list[MaskName], list[Action]]:
        """Take the shares that a dealer sealed for this holder, which the caller has opened.

        Return the masks to be receipted, known ones included, and what must be durable before.
        Raises RemoteProtocolError and keeps nothing: ``malformed``; ``mask_used`` for a mask that
        was used or comes with another share than before; ``busy`` if there is no room for any.
        """
        batch = committed.batch
        rows = self._rows(batch)
        masks = [(batch.dealer, counter) for counter in batch.counters]
        roots = [batch.roots[at : at + HASH_BYTES] for at in range(0, len(batch.roots), HASH_BYTES)]
        new: dict[MaskName, _Share] = {}
        for mask, root, row, bound in zip(masks, roots, rows, committed.commitments, strict=True):
            share = self._share(root, row.tobytes(), bound)
            known = self._shares.get(mask)
            if known is None and self._answers.is_used(mask):
                raise RemoteProtocolError(refusals.MASK_USED, f"a share of {mask} again")
            if known is not None and (known.root, known.row) != (share.root, share.row):
                raise RemoteProtocolError(refusals.MASK_USED, f"two shares of {mask}")
            if known is None:
                new[mask] = share
        return masks, self._store(batch.dealer, new)

    def _rows(self, batch: ShareBatch) -> Words:
        count = len(batch.counters)
        elements = words(batch.rows, self._modulus, count * self._num_columns)
        return elements.reshape(count, self._num_columns)

    def _share(self, root: bytes, row: bytes, committed: bytes) -> _Share:
        self._order += 1
        return _Share(self._order, root, witness(committed, root), row)

    def _store(self, dealer: int, new: dict[MaskName, _Share]) -> list[Action]:
        """Keep new shares, the first of them if there is no room for all."""
        wanted = len(new)
        while (forgotten := self._forgotten_for(dealer, len(new))) is None:
            new.popitem()
        self._counts["shares_without_room"] += wanted - len(new)
        if wanted and not new:
            raise RemoteProtocolError(refusals.BUSY, f"{len(self._shares)} shares are held")
        self._counts["shares_forgotten"] += len(forgotten)
        actions = self._erase(forgotten)
        self._add(new)
        return [*actions, *(Store(_key(mask), self._pack(mask)) for mask in new)]

    def _add(self, new: Mapping[MaskName, _Share]) -> None:
        self._shares |= new
        for mask in new:
            self._held[mask[0]].append(mask)

    def _forgotten_for(self, dealer: int, num_new: int) -> list[MaskName] | None:
        """Return what must go for so many new shares of a dealer; None: there is no room."""
        if num_new == 0:
            return []
        own = self._held[dealer]
        forgotten = own[: max(0, len(own) + num_new - MAX_STOCK)]
        num_beyond = len(self._shares) - len(forgotten) + num_new - self._capacity
        if num_beyond <= 0:
            return forgotten
        held = {each: list(masks) for each, masks in self._held.items()}
        held[dealer] = own[len(forgotten) :]
        for _ in range(num_beyond):
            numbers = {each: len(held[each]) + num_new * (each == dealer) for each in held}
            most = max(numbers, key=numbers.__getitem__)
            if numbers[most] <= self._fair_part or not held[most]:
                return None
            forgotten.append(held[most].pop(0))
        return forgotten

    def _erase(self, masks: Iterable[MaskName]) -> list[Action]:
        actions: list[Action] = []
        for mask in masks:
            del self._shares[mask]
            self._said.pop(mask, None)
            self._held[mask[0]].remove(mask)
            actions.append(Delete(_key(mask)))
        return actions

    def _pack(self, mask: MaskName) -> bytes:
        share = self._shares[mask]
        packed: bytes = msgpack.packb(
            [self._roster.hash, *mask, share.order, share.root, share.witness, share.row]
        )
        return packed

    def holdings(self, masks: Iterable[MaskName] | None, room_bytes: int) -> Iterator[Holdings]:
        """Say what is held of these masks; None: all that is held, in the first message whole.

        A message takes at most ``room_bytes``.
        """
        named = [mask for mask in (self._shares if masks is None else masks) if mask in self]
        self._say([mask for mask in named if mask not in self._said])
        entry_bytes = _MASK_BYTES + max((len(self._said[mask]) for mask in named), default=0)
        at_once = max(1, min(MAX_HELD, (room_bytes - _HOLDINGS_BYTES) // entry_bytes))
        for at in range(0, max(1, len(named)), at_once):
            part = named[at : at + at_once]
            yield Holdings(
                self._roster.hash,
                int(masks is None and at == 0),
                tuple(dealer for dealer, _ in part),
                tuple(counter for _, counter in part),
                b"".join(self._said[mask] for mask in part),
            )

    def _say(self, masks: list[MaskName]) -> None:
        """Make what is said of these masks: together, which takes half the time."""
        shares = [self._shares[mask] for mask in masks]
        roots = [share.root for share in shares]
        made = receipts(roots, self._rows_of(masks), self._modulus)
        for mask, share, tested in zip(masks, shares, made, strict=True):
            self._said[mask] = tested + share.witness

    def _rows_of(self, masks: Iterable[MaskName]) -> list[Words]:
        word = word_type(self._modulus)
        return [np.frombuffer(self._shares[mask].row, word) for mask in masks]

    # --- answers -----------------------------------------------------------------------------

    def answer(
        self, request: RecoveryRequest, request_hash: bytes, asked: Asked
    ) -> tuple[bytes, list[Action]]:
        """Return the elements that answer a checked request, and what must be durable before.

        The same request gets the same bytes. Raises Conflict if a mask that it names has been used
        for another buffer, or one that it sums for another request; RemoteProtocolError
        ``shares_missing`` or ``busy``. Then nothing is used.
        """
        given = self._answers.given(request_hash)
        if given is not None:
            return given.elements, []
        self._check_unused(asked)
        if not self._answers.has_room(asked):
            raise RemoteProtocolError(refusals.BUSY, "too many answers in one epoch")
        rows = self._rows_of(asked.masks.items())
        elements = to_bytes(add(rows, self._modulus), self._modulus)
        _, actions = self._answers.add(request_hash, request, elements, asked)
        return elements, [*actions, *self._erase(asked.masks.items())]

    def _check_unused(self, asked: Asked) -> None:
        overlap = self._answers.overlapping(asked)
        if overlap is not None:
            (dealer, counter), earlier = overlap
            detail = f"mask {counter} of dealer {dealer} is of another buffer"
            raise Conflict(None if earlier is None else earlier.request, detail)
        missing = [mask for mask in asked.masks.items() if mask not in self]
        for mask in missing:
            earlier = self._answers.with_mask(mask)
            if earlier is not None:
                raise Conflict(earlier.request, f"mask {mask[1]} of dealer {mask[0]}")
        if missing:
            raise RemoteProtocolError(refusals.SHARES_MISSING, f"{len(missing)} are not held")


def _key(mask: MaskName) -> str:
    dealer, counter = mask
    return f"{SHARE}{dealer}-{counter:016x}"
