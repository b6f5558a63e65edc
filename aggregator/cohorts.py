"""The cohorts of a secure task: their rosters, one mask epoch after the other.

An epoch lasts ``valid_s`` of the aggregator's running time. Before it ends, or when the operator
has laid down the next roster, it is *drained*: no more leases are given, what is under way is
summed. Then the next roster is published, from which moment holders answer for it alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from aggregator.actions import Action, Store
from aggregator.backoff import Backoff
from aggregator.holdings import HoldingsBook
from aggregator.publication import Publication
from aggregator.records import DocumentRecord
from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.secagg import Scheme, scheme
from protocol.secagg.messages import SignedRoster
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster, open_roster
from protocol.topics import Topics

#: Before the names of stored rosters.
ROSTER: Final = "roster/"
#: Before the names of cohorts whose last epoch is over, and which epoch that was.
OVER: Final = "over/"
#: Before the names of cohorts with members that are excluded in the present epoch.
EXCLUDED: Final = "excluded/"
#: At most so long before its end an epoch gives no more leases.
DRAIN_S: Final = 60.0
#: Shares that have not arrived so long after they were dealt are asked for again.
SHORTAGE_S: Final = 30.0


class Offer(NamedTuple):
    """A roster as the operator signed it, and what it says."""

    signed: SignedRoster
    roster: Roster


class Cohort:
    """One roster while it is open. ``began_at`` is when it would have begun without pauses.

    After ``drains_at`` it gives no leases, after ``closes_at`` it waits for no more updates, and at
    ``ends_at`` it is over.
    """

    def __init__(self, offer: Offer, began_at: float) -> None:
        self.signed, self.roster = offer
        self.excluded: set[int] = set()
        self.shortage = Backoff(SHORTAGE_S)
        self.next: Offer | None = None
        self.began_at = began_at
        self.ends_at = began_at + self.roster.valid_s
        self._drain_at(self.ends_at - min(DRAIN_S, self.roster.valid_s / 10))

    @cached_property
    def scheme(self) -> Scheme:
        """How its updates are masked; rounds of `pairwise` have no use for it."""
        return scheme(self.roster.parameters.scheme)

    @cached_property
    def book(self) -> HoldingsBook:
        """Who holds shares of which masks."""
        return HoldingsBook(self.roster, self.scheme.sharing(self.roster.parameters))

    def drain(self, now: float) -> None:
        """Begin to end, if that has not begun: the next roster is here."""
        if now < self.drains_at:
            self.ends_at = min(self.ends_at, now + DRAIN_S)
            self._drain_at(now)

    def _drain_at(self, at: float) -> None:
        self.drains_at = at
        self.closes_at = (at + self.ends_at) / 2

    def exclude(self, index: int) -> Action:
        """Turn a member away until the next epoch, and trust nothing that it says."""
        self.excluded.add(index)
        self.book.exclude(index)
        data = self.roster.hash + bytes(sorted(self.excluded))
        return Store(DocumentRecord(EXCLUDED + self.roster.cohort, data))

    def recall_excluded(self, data: bytes) -> None:
        """Take over who was excluded before a restart."""
        size = len(self.roster.hash)
        if data[:size] == self.roster.hash:
            self.excluded |= set(data[size:])
            for index in data[size:]:
                self.book.exclude(index)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device stands: its cohort, and its index in the roster."""

    cohort: Cohort
    index: int

    @property
    def identity(self) -> bytes:
        """The public key that the roster gives the device."""
        return self.cohort.roster.members[self.index].identity

    def check_identity(self, identity: bytes) -> None:
        """Raise RemoteProtocolError (``bad_signature``) unless it is the device's."""
        if identity != self.identity:
            raise RemoteProtocolError(
                refusals.BAD_SIGNATURE, refusals.MEANING[refusals.BAD_SIGNATURE]
            )


class Cohorts:
    """The open rosters of a task, by cohort.

    ``check`` raises ConfigError for parameters that the settings do not give; ``counts`` keeps how
    long epochs have lasted. ``alone``: the task has room for one cohort.
    """

    def __init__(
        self,
        topics: Topics,
        enrolment_key: bytes,
        counts: Counter[str],
        check: Callable[[Parameters], None],
        *,
        alone: bool = False,
    ) -> None:
        self._topics = topics
        self._enrolment_key = enrolment_key
        self._counts = counts
        self._check = check
        self._alone = alone
        self._open: dict[str, Cohort] = {}
        self._newest: dict[str, Roster] = {}
        self._places: dict[str, Place] = {}
        self._over: dict[str, int] = {}

    def __iter__(self) -> Iterator[Cohort]:
        return iter(list(self._open.values()))

    @property
    def epochs(self) -> str:
        """Which epochs are open, in one word."""
        names = sorted(self._open)
        return ",".join(f"{name}={self._open[name].roster.epoch}" for name in names) or "none"

    def place(self, device: str) -> Place | None:
        """Return where a device stands, None if no open roster names it."""
        return self._places.get(device)

    def epoch(self, device: str) -> int:
        """Return the mask epoch of a device's cohort; 0 without one."""
        place = self.place(device)
        return 0 if place is None else place.cohort.roster.epoch

    def identity(self, device: str) -> bytes:
        """Return the identity that an open roster gives a device; empty if none names it."""
        place = self._places.get(device)
        return b"" if place is None else place.identity

    # --- the operator's rosters ----------------------------------------------------------------

    def restore(self, documents: Mapping[str, bytes], now: float) -> None:
        """Take over the rosters that were open before a restart."""
        for key, data in documents.items():
            if key.startswith(OVER):
                self._over[key.removeprefix(OVER)] = int.from_bytes(data, "big")
        for key, data in documents.items():
            if key.startswith(ROSTER):
                self._reopen(unpack(data, SignedRoster), now)
        for cohort in self:
            cohort.recall_excluded(documents.get(EXCLUDED + cohort.roster.cohort, b""))

    def _reopen(self, signed: SignedRoster, now: float) -> None:
        """Go on with a stored roster; one that other settings were made for is over."""
        try:
            offer = self._read(signed)
            self._newest[offer.roster.cohort] = offer.roster
            self._check_fits(offer.roster)
        except (ConfigError, RemoteProtocolError):
            return
        if offer.roster.epoch > self._over.get(offer.roster.cohort, 0):
            self._begin(offer, now - self._counts[_seconds(offer.roster.cohort)])

    def offer_all(self, rosters: Iterable[SignedRoster], now: float) -> list[Action]:
        """Take what the operator has laid down by now, the newest epochs first. Else as `offer`."""
        newest = sorted(map(self._read, rosters), key=lambda offer: -offer.roster.epoch)
        return [action for offer in newest for action in self._take(offer, now)]

    def offer(self, signed: SignedRoster, now: float) -> list[Action]:
        """Take a roster from the operator: open it, or let it wait for the present one's end.

        One that is over, or not the newest, is ignored. Raises RemoteProtocolError:
        ``bad_signature``, ``malformed``, or ``wrong_roster`` for another task, a device of another
        cohort, or a second roster for one epoch; ConfigError if it was made for other settings.
        """
        return self._take(self._read(signed), now)

    def _take(self, offer: Offer, now: float) -> list[Action]:
        roster = offer.roster
        present, newest = self._open.get(roster.cohort), self._newest.get(roster.cohort)
        if newest is not None and newest.epoch == roster.epoch and newest.hash != roster.hash:
            raise RemoteProtocolError(
                refusals.WRONG_ROSTER,
                f"a second roster for epoch {roster.epoch} of cohort {roster.cohort}",
            )
        if present is not None and newest is not None and roster.epoch <= newest.epoch:
            return []
        self._check_fits(roster)
        if present is None:
            return self._open_next(offer, now)
        self._newest[roster.cohort] = roster
        present.next = offer
        present.drain(now)
        return []

    def _read(self, signed: SignedRoster) -> Offer:
        roster = open_roster(signed, self._enrolment_key)
        if roster.task != self._topics.task:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, f"a roster of task {roster.task!r}")
        return Offer(signed, roster)

    def _check_fits(self, roster: Roster) -> None:
        """Raise ConfigError or RemoteProtocolError for what must not be opened beside the rest."""
        self._check(roster.parameters)
        if self._alone and self._open.keys() - {roster.cohort}:
            raise ConfigError(
                "rounds and calibrated steps go by all devices together: give the task one cohort"
            )
        for member in roster.members:
            place = self._places.get(member.device)
            if place is not None and place.cohort.roster.cohort != roster.cohort:
                raise RemoteProtocolError(
                    refusals.WRONG_ROSTER, f"{member.device} is in two cohorts"
                )

    # --- epochs --------------------------------------------------------------------------------

    def end(self, cohort: Cohort) -> list[Action]:
        """Close an epoch for good."""
        name = cohort.roster.cohort
        del self._open[name]
        self._places = {
            device: place for device, place in self._places.items() if place.cohort is not cohort
        }
        self._over[name] = max(self._over.get(name, 0), cohort.roster.epoch)
        return [
            Store(DocumentRecord(OVER + name, self._over[name].to_bytes(8, "big"))),
            Store(DocumentRecord(ROSTER + name, b"")),
            *([Store(DocumentRecord(EXCLUDED + name, b""))] if cohort.excluded else []),
        ]

    def follow(self, cohort: Cohort, now: float) -> list[Action]:
        """Open the roster that has waited for this cohort's end.

        Raises RemoteProtocolError or ConfigError if it does not fit (any more).
        """
        if cohort.next is None:
            return []
        self._check_fits(cohort.next.roster)
        return self._open_next(cohort.next, now)

    def publish(self, publication: Publication) -> list[Action]:
        """Return the rosters as retained messages."""
        return [
            publication.message(
                self._topics.roster(cohort.roster.cohort), cohort.signed, retain=True
            )
            for cohort in self
        ]

    def tick(self, now: float) -> None:
        """Count how long the epochs have lasted."""
        for cohort in self:
            self._counts[_seconds(cohort.roster.cohort)] = int(now - cohort.began_at)

    def _open_next(self, offer: Offer, now: float) -> list[Action]:
        name = offer.roster.cohort
        if offer.roster.epoch <= self._over.get(name, 0):
            return []
        self._counts[_seconds(name)] = 0
        self._begin(offer, now)
        return [Store(DocumentRecord(ROSTER + name, pack(offer.signed)))]

    def _begin(self, offer: Offer, began_at: float) -> None:
        cohort = Cohort(offer, began_at)
        for index, member in enumerate(cohort.roster.members):
            self._places[member.device] = Place(cohort, index)
        self._open[cohort.roster.cohort] = cohort
        self._newest[cohort.roster.cohort] = cohort.roster


def _seconds(cohort: str) -> str:
    """The counter that says how long a cohort's present epoch has lasted."""
    return f"epoch_s_{cohort}"
