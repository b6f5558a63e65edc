"""Under which roster a device shares masks, and its seat there: one epoch after the other.

A roster counts if the enrolment key signed it for this task and cohort. Of two the higher epoch
does; with it all shares, answers and keys of the one before are erased. A second roster for one
epoch is kept as evidence and not followed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from device_sdk.actions import Action, Delete, Store
from device_sdk.answers import ANSWER, USED
from device_sdk.dealing import Dealer, Mask
from device_sdk.epochs import ROUND, EpochKeys
from device_sdk.evidence import Evidence
from device_sdk.holding import SHARE, Holder
from device_sdk.identity import Keys
from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import RemoteProtocolError
from protocol.secagg import keys as signing
from protocol.secagg.messages import SignedRoster
from protocol.secagg.parameters import PAIRWISE
from protocol.secagg.roster import Roster, open_roster
from protocol.secagg.sealing import Boxes
from protocol.stream import derive

if TYPE_CHECKING:
    from device_sdk.pairwise import Rounds

#: Where the roster is stored.
ROSTER: Final = "roster"
_OF_AN_EPOCH: Final = (SHARE, ANSWER, USED, ROUND)


@dataclass(frozen=True, slots=True, repr=False)
class Seat:
    """The device's place in the present roster, and its two parts: shares go out beforehand."""

    roster: Roster
    index: int
    boxes: Boxes
    dealer: Dealer
    holder: Holder

    def take(self) -> Mask | None:
        """Return the mask to be used next, None if none is at hand."""
        return self.dealer.take()


class Membership:
    """``seed`` is 32 secret bytes of this start; at most ``max_share_bytes`` of shares are held.

    The device has a ``seat``, or takes part in ``rounds`` (of `pairwise`), or neither.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        stored: Mapping[str, bytes],
        seed: bytes,
        max_share_bytes: int,
        evidence: Evidence,
        counts: Counter[str],
    ) -> None:
        self.seat: Seat | None = None
        self.rounds: Rounds | None = None
        self._keys = keys
        self._seed = seed
        self._max_share_bytes = max_share_bytes
        self._evidence = evidence
        self._counts = counts
        self._epochs = EpochKeys(keys, stored)
        self._signed: SignedRoster | None = None
        self._roster: Roster | None = None
        if ROSTER in stored:
            self._restore(unpack(stored[ROSTER], SignedRoster), stored)
        self._stale = self._stale_in(stored)

    def _restore(self, signed: SignedRoster, stored: Mapping[str, bytes]) -> None:
        try:
            roster = self._open(signed)
        except RemoteProtocolError:
            return  # the device was enrolled anew, by another key or for another cohort
        self._sit_down(signed, roster, stored)

    def _stale_in(self, stored: Mapping[str, bytes]) -> list[str]:
        """What an epoch that is over left behind, or an answer that was not erased to the end."""
        kept = self._kept
        return [key for key in stored if key.startswith(_OF_AN_EPOCH) and key not in kept]

    @property
    def _kept(self) -> frozenset[str]:
        if self.rounds is not None:
            return self.rounds.keys
        return frozenset() if self.seat is None else self.seat.holder.keys

    def start(self) -> list[Action]:
        """Return what must be stored or forgotten before anything is said."""
        actions: list[Action] = [Delete(key) for key in self._stale]
        if self._roster is not None:
            actions += self._epochs.move_to(self._roster.epoch, self._draw("epoch key"))
        return actions

    @property
    def epoch(self) -> int:
        """The epoch of the present roster, 0 without one."""
        return 0 if self._roster is None else self._roster.epoch

    @property
    def birth(self) -> Mapping[str, Any]:
        """What the device's birth says beside: its key for the next epoch."""
        if self._roster is None:
            return {}
        announced = self._epochs.announcement(self._roster.epoch + 1)
        return {"next_epoch": announced} if announced else {}

    def place(self) -> "Seat | Rounds":
        """Return either. Raises RemoteProtocolError: ``wrong_roster``, ``not_enrolled``."""
        if self._roster is None:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "no roster yet")
        place = self.seat or self.rounds
        if place is None:
            raise RemoteProtocolError(refusals.NOT_ENROLLED, f"epoch {self._roster.epoch}")
        return place

    def seated(self) -> Seat:
        """Return the seat. Raises as `place`, and ``wrong_kind`` for a roster of rounds."""
        place = self.place()
        if not isinstance(place, Seat):
            raise RemoteProtocolError(refusals.WRONG_KIND, "of no use in rounds")
        return place

    def in_rounds(self) -> "Rounds":
        """Return the rounds. Raises as `place`, and ``wrong_kind`` for another roster."""
        place = self.place()
        if isinstance(place, Seat):
            raise RemoteProtocolError(refusals.WRONG_KIND, "rounds of another scheme")
        return place

    def follows(self, signed: SignedRoster) -> bool:
        """Whether this is the present roster."""
        return signed == self._signed

    def follow(self, signed: SignedRoster) -> list[Action]:
        """A roster arrived: follow it if it is that of a higher epoch.

        Raises RemoteProtocolError: as `open_roster`, ``wrong_roster``.
        """
        if self.follows(signed):
            return []
        roster = self._open(signed)
        if self._signed is not None and self._roster is not None:
            if roster.epoch < self._roster.epoch:
                self._counts["rosters_gone_back"] += 1
                raise RemoteProtocolError(refusals.WRONG_ROSTER, f"epoch {roster.epoch} is over")
            if roster.epoch == self._roster.epoch:
                return self._evidence.keep("rosters", pack(self._signed), pack(signed))
        erased = [Delete(key) for key in sorted(self._kept)]
        self._sit_down(signed, roster, {})
        moved = self._epochs.move_to(roster.epoch, self._draw("epoch key"))
        return [Store(ROSTER, pack(signed)), *moved, *erased]

    def _open(self, signed: SignedRoster) -> Roster:
        roster = open_roster(signed, self._keys.enrolment)
        if (roster.task, roster.cohort) != (self._keys.task, self._keys.cohort):
            raise RemoteProtocolError(refusals.WRONG_ROSTER, "another task's or cohort's")
        return roster

    def _sit_down(self, signed: SignedRoster, roster: Roster, stored: Mapping[str, bytes]) -> None:
        """Take the seat that a roster gives; without one, the epoch passes without this device."""
        self._signed, self._roster, self.seat, self.rounds = signed, roster, None, None
        index = roster.index(self._keys.device)
        secret = self._epochs.secret(roster.epoch)
        if index is None or secret is None:
            return
        member = roster.members[index]
        public = (signing.identity_public(self._keys.identity), signing.epoch_public(secret))
        if (member.identity, member.epoch_key) != public:
            return
        if roster.parameters.scheme == PAIRWISE:
            self.rounds = self._in_rounds(roster, index, stored)
            return
        boxes = Boxes(roster, index, secret)
        dealer = Dealer(
            roster,
            index,
            identity=self._keys.identity,
            boxes=boxes,
            seed=self._draw("dealer"),
        )
        holder = Holder(roster, stored=stored, max_bytes=self._max_share_bytes, counts=self._counts)
        self.seat = Seat(roster, index, boxes, dealer, holder)

    def _in_rounds(self, roster: Roster, index: int, stored: Mapping[str, bytes]) -> "Rounds":
        from device_sdk.pairwise import Rounds  # noqa: PLC0415 - only such rosters wait for it

        return Rounds(
            roster,
            index,
            identity=self._keys.identity,
            seed=self._draw("rounds"),
            stored=stored,
            counts=self._counts,
        )

    def _draw(self, purpose: str) -> bytes:
        """Return the next 32 secret bytes; those before cannot be found from what remains."""
        drawn, self._seed = derive(self._seed, purpose), derive(self._seed, "next")
        return drawn
