"""What dealers and holders say about shares, and what they are asked for in turn."""

import math
from collections.abc import Callable

from aggregator.actions import Action
from aggregator.cohorts import Cohort, Cohorts
from aggregator.publication import Publication
from protocol.messages import MAX_HELD
from protocol.secagg.messages import Dealt, Holdings, SharesWanted


class ShareDesk:
    """Asks dealers for shares that holders lack; ``is_online`` says whether a device is there.

    They are asked when a holder has come back with less than it should have, and when a dealer has
    waited long for its mask to be held by enough.
    """

    def __init__(
        self, cohorts: Cohorts, publication: Publication, is_online: Callable[[str], bool]
    ) -> None:
        self._cohorts = cohorts
        self._publication = publication
        self._is_online = is_online

    def dealt(self, cohort: Cohort, dealer: int, message: Dealt, now: float) -> None:
        """A dealer names its masks. Raises RemoteProtocolError (``malformed``)."""
        cohort.book.dealt(dealer, message)
        cohort.shortage.forget(dealer)
        cohort.shortage.asked(dealer, now)  # its shares are under way

    def held(self, cohort: Cohort, holder: int, message: Holdings) -> list[Action]:
        """A holder names what it holds. Raises RemoteProtocolError (``malformed``)."""
        cohort.book.held(holder, message)
        says_all = message.whole and len(message.counters) < MAX_HELD
        if not says_all or holder in cohort.excluded:
            return []
        missing = cohort.book.missing(holder)
        return [
            self._want(cohort, dealer, holder, counters) for dealer, counters in missing.items()
        ]

    def timer(self, now: float) -> list[Action]:
        """Ask those dealers again that cannot take part for want of holders."""
        return [
            action
            for cohort in self._cohorts
            for dealer in self._short(cohort)
            if now >= cohort.shortage.due_at(dealer, math.inf)
            for action in self._ask(cohort, dealer, now)
        ]

    def timer_at(self) -> float:
        """Return when `timer` should be called next."""
        times = (
            cohort.shortage.due_at(dealer, math.inf)
            for cohort in self._cohorts
            for dealer in self._short(cohort)
        )
        return min(times, default=math.inf)

    def _short(self, cohort: Cohort) -> list[int]:
        """Return the dealers that are online with a mask that too few hold shares of."""
        return [
            dealer
            for dealer, member in enumerate(cohort.roster.members)
            if cohort.book.is_short(dealer) and self._is_online(member.device)
        ]

    def _ask(self, cohort: Cohort, dealer: int, now: float) -> list[Action]:
        cohort.shortage.asked(dealer, now)
        members = cohort.roster.members
        return [
            self._want(cohort, dealer, holder, counters)
            for holder, counters in cohort.book.lacking(dealer).items()
            if self._is_online(members[holder].device) and holder not in cohort.excluded
        ]

    def _want(self, cohort: Cohort, dealer: int, holder: int, counters: tuple[int, ...]) -> Action:
        wanted = SharesWanted(cohort.roster.hash, holder, counters)
        return self._publication.to_device(cohort.roster.members[dealer].device, wanted)
