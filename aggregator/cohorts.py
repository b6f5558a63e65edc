"""The cohorts of a secure task: their rosters, one mask epoch after the other.

An epoch lasts ``valid_s`` of the aggregator's running time. Before it ends, or when the operator
has laid down the next roster, it is *drained*: no more leases are given, what is under way is
summed. Then the next roster is published, from which moment holders answer for it alone.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from aggregator.actions import Action, Store
from aggregator.holdings import HoldingsBook
from aggregator.publication import Publication
from aggregator.records import DocumentRecord
from protocol import refusals
from protocol.codec import pack, unpack
from protocol.errors import ConfigError, RemoteProtocolError
from protocol.messages import SignedRoster
from protocol.secagg import scheme
from protocol.secagg.parameters import Parameters
from protocol.secagg.roster import Roster, open_roster
from protocol.topics import Topics

#: Before the names of stored rosters.
ROSTER: Final = "roster/"
#: Before the names of cohorts whose last epoch is over, and which epoch that was.
OVER: Final = "over/"
#: At most so long before its end an epoch gives no more leases.
DRAIN_S: Final = 60.0


class Cohort:
    """One roster while it is open. ``began_at`` is when it would have begun without pauses."""

    def __init__(self, signed: SignedRoster, roster: Roster, began_at: float) -> None:
        self.signed = signed
        self.roster = roster
        self.scheme = scheme(roster.parameters.scheme)
        self.book = HoldingsBook(roster, self.scheme.sharing(roster.parameters))
        self.used: set[tuple[int, int]] = set()
        self.excluded: set[int] = set()
        self.began_at = began_at
        self.ends_at = began_at + roster.valid_s
        self.drains_at = self.ends_at - min(DRAIN_S, roster.valid_s / 10)
        self.next: SignedRoster | None = None

    def drain(self, now: float) -> None:
        """Begin to end, if that has not begun: the next roster is here."""
        if now < self.drains_at:
            self.drains_at = now
            self.ends_at = min(self.ends_at, now + DRAIN_S)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device stands: its cohort, and its index in the roster."""

    cohort: Cohort
    index: int


class Cohorts:
    """The open rosters of a task, by cohort.

    ``check`` raises ConfigError for parameters that the settings do not give; ``counts`` keeps how
    long epochs have lasted.
    """

    def __init__(
        self,
        topics: Topics,
        enrolment_key: bytes,
        counts: Counter[str],
        check: Callable[[Parameters], None],
    ) -> None:
        self._topics = topics
        self._enrolment_key = enrolment_key
        self._counts = counts
        self._check = check
        self._open: dict[str, Cohort] = {}
        self._places: dict[str, Place] = {}
        self._over: dict[str, int] = {}

    def __iter__(self) -> Iterator[Cohort]:
        return iter(list(self._open.values()))

    def restore(self, documents: Mapping[str, bytes], now: float) -> None:
        """Take over the rosters that were open before a restart."""
        for key, data in documents.items():
            if key.startswith(OVER):
                self._over[key.removeprefix(OVER)] = int.from_bytes(data, "big")
            if key.startswith(ROSTER):
                self._reopen(unpack(data, SignedRoster), now)

    def _reopen(self, signed: SignedRoster, now: float) -> None:
        """Go on with a stored roster; one that other settings were made for is over."""
        try:
            roster = self._read(signed)
        except ConfigError:
            return
        self._begin(signed, roster, now - self._counts[_seconds(roster.cohort)])

    @property
    def epochs(self) -> str:
        """Which epochs are open, in one word."""
        return ",".join(f"{name}={self._open[name].roster.epoch}" for name in sorted(self._open))

    def place(self, device: str) -> Place | None:
        """Return where a device stands, None if no open roster names it."""
        return self._places.get(device)

    def offer(self, signed: SignedRoster, now: float) -> list[Action]:
        """Take a roster from the operator: open it, or let it wait for the present one's end.

        Raises RemoteProtocolError: ``bad_signature``, ``malformed``, or ``wrong_roster`` for
        another task, a device of another cohort, or a second roster for one epoch; ConfigError if
        it was made for other settings.
        """
        roster = self._read(signed)
        present = self._open.get(roster.cohort)
        if present is None:
            return self._open_next(signed, roster, now)
        if roster.epoch < present.roster.epoch or roster.hash == present.roster.hash:
            return []
        if roster.epoch == present.roster.epoch:
            raise RemoteProtocolError(
                refusals.WRONG_ROSTER, f"a second roster for epoch {roster.epoch} of it"
            )
        present.next = signed
        present.drain(now)
        return []

    def end(self, cohort: Cohort, now: float) -> list[Action]:
        """Close an epoch for good, and open the next one if its roster is here."""
        name = cohort.roster.cohort
        self._over[name] = max(self._over.get(name, 0), cohort.roster.epoch)
        del self._open[name]
        self._places = {
            device: place for device, place in self._places.items() if place.cohort is not cohort
        }
        over = Store(DocumentRecord(OVER + name, self._over[name].to_bytes(8, "big")))
        if cohort.next is None:
            return [over, Store(DocumentRecord(ROSTER + name, b""))]
        return [over, *self._open_next(cohort.next, self._read(cohort.next), now)]

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

    def _open_next(self, signed: SignedRoster, roster: Roster, now: float) -> list[Action]:
        if roster.epoch <= self._over.get(roster.cohort, 0):
            return []
        self._counts[_seconds(roster.cohort)] = 0
        self._begin(signed, roster, now)
        return [Store(DocumentRecord(ROSTER + roster.cohort, pack(signed)))]

    def _begin(self, signed: SignedRoster, roster: Roster, began_at: float) -> None:
        cohort = Cohort(signed, roster, began_at)
        for index, member in enumerate(roster.members):
            self._places[member.device] = Place(cohort, index)
        self._open[roster.cohort] = cohort

    def _read(self, signed: SignedRoster) -> Roster:
        roster = open_roster(signed, self._enrolment_key)
        self._check(roster.parameters)
        if roster.task != self._topics.task:
            raise RemoteProtocolError(refusals.WRONG_ROSTER, f"a roster of task {roster.task!r}")
        for member in roster.members:
            place = self._places.get(member.device)
            if place is not None and place.cohort.roster.cohort != roster.cohort:
                raise RemoteProtocolError(
                    refusals.WRONG_ROSTER, f"{member.device} is in two cohorts"
                )
        return roster


def _seconds(cohort: str) -> str:
    """The counter that says how long a cohort's present epoch has lasted."""
    return f"epoch_s_{cohort}"
