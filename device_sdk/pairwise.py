"""A device's part in rounds of `pairwise`: what it says when, and what it must never say twice.

In memory: a round opened, keys said, shares dealt, dealers known. In storage, from then on: the
shares that others dealt to us, the outcome that we signed, the answer that we gave (then the shares
are gone). Its own secrets come from one fresh seed a round and are never stored, so

- a device that restarts before it has masked drops out of the round: nothing of it is masked twice;
- one that restarts after it has sent its update can still sign, once, and answer.

The round before is forgotten when the dealers of the next are known. Sans-IO, without a clock.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgpack

from device_sdk.actions import Action, Store
from device_sdk.epochs import ROUND
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import SIGNATURE_BYTES
from protocol.secagg import keys as signing
from protocol.secagg import pairwise
from protocol.secagg.field import Elements
from protocol.secagg.messages import (
    AnyMessage,
    RoundAdvertised,
    RoundAnswer,
    RoundCertificate,
    RoundDealers,
    RoundKeys,
    RoundOpened,
    RoundOutcome,
    RoundShares,
    RoundSignature,
    RoundTold,
)
from protocol.secagg.pairwise import OUTCOME, VIEW, Outcome, View
from protocol.secagg.pairwise_keys import (
    ADVERTISEMENT,
    PAIR_BYTES,
    PUBLICS_BYTES,
    SEALED_BYTES,
    Part,
    Publics,
    Round,
    Secrets,
    keys_message,
    make_keys,
    make_shares,
    open_sealed,
    seal,
    split,
)
from protocol.secagg.roster import Roster
from protocol.stream import derive

#: Of so many rounds, late copies of their first message are known for what they are.
MAX_BEGUN: Final = 16
_ERASED: Final = Secrets(b"", b"", b"", b"")


@dataclass(frozen=True, slots=True, repr=False)
class RoundMask:
    """The mask of one round, and all that it is made of: apply it once, and drop it."""

    part: Part
    publics: Mapping[int, Publics]
    seen: View
    signature: bytes

    @property
    def counter(self) -> int:
        """The number of the round."""
        return self.part.round.number

    def apply(self, _roster: Roster, values: Elements, _public_seed: bytes = b"", /) -> bytes:
        """Return the body of the update: the signed view, then the masked values."""
        return self.signature + pairwise.mask(self.part, self.publics, self.seen, values)

    def privacy_seed(self) -> bytes:
        """Return the seed of the noise that hides this device's data; not of what may be opened."""
        return derive(self.part.secrets.share_seed, "privacy")


@dataclass(frozen=True, slots=True, repr=False)
class _Kept:
    """What is stored of a round; ``held`` has the shares of each neighbour that dealt, in order."""

    number: int
    dealers: tuple[int, ...]
    view: bytes
    held: bytes
    survivors: tuple[int, ...] = ()
    answer: bytes = b""


class Rounds:
    """The rounds of one roster, in which the device has the place ``index``.

    ``seed`` is 32 secret bytes of this start. `told` takes what the aggregator says; `take` gives
    the mask of the present round, once.
    """

    def __init__(
        self,
        roster: Roster,
        index: int,
        *,
        identity: bytes,
        seed: bytes,
        stored: Mapping[str, bytes],
        counts: Counter[str],
    ) -> None:
        self.roster = roster
        self.index = index
        self._identity = identity
        self._seed = seed
        self._counts = counts
        self._part: Part | None = None
        self._publics: dict[int, Publics] = {}
        self._seen: View | None = None
        self._kept = self._load(stored)
        self._begun: deque[int] = deque([self._kept.number] if self._kept else [], MAX_BEGUN)

    @property
    def keys(self) -> frozenset[str]:
        """The keys in storage that are this epoch's and still count."""
        return frozenset() if self._kept is None else frozenset({ROUND})

    def told(self, message: RoundTold) -> tuple[list[Action], AnyMessage | None]:
        """Return what must be durable first, and the answer, if there is one.

        The same message gets the same answer. Raises RemoteProtocolError: ``wrong_roster``,
        ``shares_missing`` for another round than ours, ``malformed``, ``bad_signature``,
        ``wrong_members``; ``mask_used`` for a second outcome.
        """
        match message:
            case RoundOpened():
                return [], self._open(message)
            case RoundAdvertised():
                return [], self._deal(message)
            case RoundDealers():
                return self._hear_dealers(message), None
            case RoundOutcome():
                return self._sign(message)
            case RoundCertificate():
                return self._answer(message)

    def take(self) -> RoundMask | None:
        """Return the mask of the round, None if there is none (yet). Its secrets are gone then."""
        part, seen = self._part, self._seen
        if part is None or seen is None:
            return None
        signature = signing.sign(self._identity, VIEW, seen.message)
        mask = RoundMask(part, self._publics, seen, signature)
        self._part, self._publics, self._seen = None, {}, None
        return mask

    # --- until the mask is there ---------------------------------------------------------------

    def _open(self, opened: RoundOpened) -> RoundKeys | None:
        if opened.roster_hash != self.roster.hash:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "a round of another roster")
        part = self._part
        if part is None or part.round.number != opened.number:
            if opened.number in self._begun:
                return None  # old news
            part = self._begin(opened.number)
        publics = part.secrets.publics()
        said = keys_message(part.round, self.index, publics)
        signature = signing.sign(self._identity, ADVERTISEMENT, said)
        return RoundKeys(part.round.number, publics.to_bytes(), signature)

    def _begin(self, number: int) -> Part:
        """Draw the secrets of a round; those before cannot be found from what remains."""
        drawn, self._seed = derive(self._seed, "round"), derive(self._seed, "next")
        self._begun.append(number)
        self._publics, self._seen = {}, None
        self._part = Part(Round(self.roster, number), self.index, make_keys(drawn))
        return self._part

    def _deal(self, advertised: RoundAdvertised) -> RoundShares:
        part = self._present(advertised.number)
        publics = self._read_keys(part, advertised)
        if self._publics and publics != self._publics:
            raise RemoteProtocolError(refusals.WRONG_MEMBERS, "others advertised before")
        self._publics = publics
        sealed = [
            seal(part, holder, publics[holder], pair)
            for holder, pair in make_shares(part).items()
            if holder in publics and holder != self.index
        ]
        return RoundShares(part.round.number, b"".join(sealed))

    def _read_keys(self, part: Part, advertised: RoundAdvertised) -> dict[int, Publics]:
        """Return who advertised what, checked."""
        members, size = advertised.members, PUBLICS_BYTES + SIGNATURE_BYTES
        if list(members) != sorted(set(members)) or len(members) < part.round.quorum:
            raise RemoteProtocolError(refusals.WRONG_MEMBERS, "too few, or not each once")
        if members[-1] >= len(self.roster.members):
            raise RemoteProtocolError(refusals.WRONG_MEMBERS, "not in the roster")
        publics = {}
        for member, piece in zip(members, split(advertised.keys, size, len(members)), strict=True):
            publics[member] = Publics.from_bytes(piece[:PUBLICS_BYTES])
            identity = self.roster.members[member].identity
            said = keys_message(part.round, member, publics[member])
            signing.check_signature(identity, ADVERTISEMENT, said, piece[PUBLICS_BYTES:])
        if publics.get(self.index) != part.secrets.publics():
            raise RemoteProtocolError(refusals.WRONG_MEMBERS, "not with our keys")
        return publics

    def _hear_dealers(self, told: RoundDealers) -> list[Action]:
        """Take the shares that were dealt to us; all of them, or the round is not masked."""
        kept, dealers = self._kept, told.dealers
        if kept is not None and kept.number == told.number:
            if kept.dealers != dealers:
                raise RemoteProtocolError(refusals.WRONG_MEMBERS, "others dealt before")
            return []
        part = self._present(told.number)
        if not set(dealers) <= self._publics.keys() or self.index not in dealers:
            raise RemoteProtocolError(refusals.WRONG_MEMBERS, "not all of them advertised")
        seen = pairwise.view(part.round, self._publics, dealers)
        near = part.round.dealers_of(self.index, dealers)
        held = {self.index: make_shares(part)[self.index]}
        others = [dealer for dealer in near if dealer != self.index]
        for dealer, piece in zip(
            others, split(told.sealed, SEALED_BYTES, len(others)), strict=True
        ):
            held[dealer] = open_sealed(part, dealer, self._publics[dealer], piece)
        self._seen = seen
        joined = b"".join(held[dealer] for dealer in near)
        return self._keep(_Kept(told.number, dealers, seen.message, joined))

    def _present(self, number: int) -> Part:
        if self._part is None or self._part.round.number != number:
            raise RemoteProtocolError(refusals.SHARES_MISSING, "not the present round")
        return self._part

    # --- after the update ------------------------------------------------------------------------

    def _sign(self, told: RoundOutcome) -> tuple[list[Action], RoundSignature]:
        """Sign the outcome: the first one that can be, and no other, whatever happens."""
        kept = self._found(told.number)
        if kept.survivors not in ((), told.survivors):
            self._counts["conflicting_outcomes"] += 1
            raise RemoteProtocolError(refusals.MASK_USED, "another outcome was signed")
        part, outcome = self._outcome(kept, told.survivors)
        views = split(told.views, SIGNATURE_BYTES, len(told.survivors))
        pairwise.check_outcome(part, outcome, dict(zip(told.survivors, views, strict=True)))
        signature = signing.sign(self._identity, OUTCOME, outcome.message)
        answer = RoundSignature(kept.number, signature)
        if kept.survivors:
            return [], answer
        return self._keep(replace(kept, survivors=told.survivors)), answer

    def _answer(self, told: RoundCertificate) -> tuple[list[Action], RoundAnswer]:
        """Give the shares that the signed outcome asks for, and erase all of them."""
        kept = self._found(told.number)
        if kept.answer:
            return [], RoundAnswer(kept.number, kept.answer)
        part, outcome = self._outcome(kept, kept.survivors)
        near = part.round.dealers_of(self.index, kept.dealers)
        held = dict(zip(near, split(kept.held, PAIR_BYTES, len(near)), strict=True))
        signed = split(told.signatures, SIGNATURE_BYTES, len(told.signers))
        signatures = dict(zip(told.signers, signed, strict=True))
        answer = pairwise.unmask_answer(part, held, outcome, signatures)
        self._counts["answers"] += 1
        actions = self._keep(replace(kept, held=b"", answer=answer))
        return actions, RoundAnswer(kept.number, answer)

    def _found(self, number: int) -> _Kept:
        if self._kept is None or self._kept.number != number:
            raise RemoteProtocolError(refusals.SHARES_MISSING, "no shares of this round")
        return self._kept

    def _outcome(self, kept: _Kept, survivors: tuple[int, ...]) -> tuple[Part, Outcome]:
        part = Part(Round(self.roster, kept.number), self.index, _ERASED)
        return part, Outcome(View(kept.dealers, kept.view), survivors)

    # --- storage -------------------------------------------------------------------------------

    def _keep(self, kept: _Kept) -> list[Action]:
        self._kept = kept
        packed: bytes = msgpack.packb(
            [
                self.roster.hash,
                kept.number,
                bytes(kept.dealers),
                kept.view,
                kept.held,
                bytes(kept.survivors),
                kept.answer,
            ]
        )
        return [Store(ROUND, packed)]

    def _load(self, stored: Mapping[str, bytes]) -> _Kept | None:
        if ROUND not in stored:
            return None
        hashed, number, dealers, view, held, survivors, answer = msgpack.unpackb(stored[ROUND])
        if hashed != self.roster.hash:
            return None
        return _Kept(number, tuple(dealers), view, held, tuple(survivors), answer)
