"""Saying no: a refusal is counted, held against whom it may be, shown to people, and said.

Every word is one of `protocol.refusals`. A lease that is refused is closed, durably, so that
whoever asks after it later gets the same answer.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from aggregator.actions import Action, Store
from aggregator.assembly import Partials
from aggregator.conduct.book import Book
from aggregator.contributors import leases_of
from aggregator.leases import Lease, LeaseBook
from aggregator.publication import Publication
from aggregator.records import RefusalRecord
from aggregator.wording import many
from protocol import refusals
from protocol.actions import Publish
from protocol.messages import CheckIn, Refusal

#: How long an installation that was turned away at check-in is asked to stay away.
TURNED_AWAY_S: Final = 3600
#: Reasons that the operator may end any moment: a roster that names the device, a release.
FOR_NOW: Final = frozenset({refusals.NOT_ENROLLED, refusals.QUARANTINED})
#: Who did it, where a topic does not say.
UNKNOWN: Final = "unknown sender"
#: How many alerts are kept to be shown.
MAX_ALERTS: Final = 20
#: Why a lease is refused is told in no more characters.
_MAX_DETAIL: Final = 500


class Refusing:
    """``check_in_s``: when a device is to ask again that is turned away for now.

    ``alerts`` are the newest things that went wrong, oldest first.
    """

    def __init__(
        self,
        publication: Publication,
        leases: LeaseBook,
        partials: Partials,
        conduct: Book,
        counts: Counter[str],
        *,
        check_in_s: int,
    ) -> None:
        self.alerts: list[str] = []
        self._publication = publication
        self._leases = leases
        self._partials = partials
        self._conduct = conduct
        self._counts = counts
        self._check_in_s = check_in_s

    # --- noting ------------------------------------------------------------------------------

    def note(self, device: str, reason: str, detail: str = "") -> None:
        """Count a refusal, hold it against the device, and show it."""
        self._counts[f"refused_{reason}"] += 1
        if device != UNKNOWN:
            self._conduct.note(device, reason)
        self.show(device, reason, detail)

    def note_member(self, device: str, reason: str, detail: str = "") -> None:
        """A wrong share is proven; what else members of a secure task are said to do is shown."""
        if reason == refusals.EXCLUDED:
            self._conduct.note(device, reason)
        self.show(device, reason, detail)

    def show(self, device: str, reason: str, detail: str = "") -> None:
        """Show it among the alerts."""
        self.alerts.append(f"{device}: {reason}: {detail or refusals.MEANING[reason]}"[:300])
        del self.alerts[:-MAX_ALERTS]

    # --- answering ---------------------------------------------------------------------------

    def refuse(self, lease: Lease, reason: str, detail: str = "") -> list[Action]:
        """Close a lease without counting its update; ``busy`` leaves it open for another try."""
        text = detail or refusals.MEANING[reason]
        self.note(lease.record.device, reason, text)
        answer = self._answer(lease, reason, text)
        if reason == refusals.BUSY:
            return [answer]
        return [*self.close(lease, reason), answer]

    def refuse_unknown(self, device: str, lease_id: bytes) -> list[Action]:
        """Answer for a lease that this device never had, whoever else may have it."""
        reason = refusals.UNKNOWN_LEASE
        self.note(device, reason)
        return [self._say(device, Refusal(lease_id, reason, refusals.MEANING[reason]))]

    def turn_away(
        self, device: str, check_in: CheckIn, reason: str, detail: str = ""
    ) -> list[Action]:
        """Refuse a check-in, and say when to come again."""
        self.note(device, reason, detail)
        stay_s = self._check_in_s if reason in FOR_NOW else TURNED_AWAY_S
        text = detail or refusals.MEANING[reason]
        return [self._say(device, Refusal(b"", reason, text, stay_s, check_in.install_id))]

    def shut_out(self, lease: Lease) -> list[Action]:
        """Close the lease of a device that may not take part any more."""
        reason = refusals.QUARANTINED
        answer = self._answer(lease, reason, refusals.MEANING[reason])
        return [*self.close(lease, reason), answer]

    def abandon(self, ids: Iterable[bytes], reason: str) -> list[Action]:
        """Give a buffer up, durably: its members are told, and the model stays as it is."""
        leases = leases_of(ids, self._leases)
        meaning = refusals.MEANING[reason]
        self._counts[f"refused_{reason}"] += len(leases)
        self.show("buffer", reason, f"{many(len(leases), 'update')} given up: {meaning}")
        actions: list[Action] = []
        for lease in leases:
            actions += [*self.close(lease, reason), self._answer(lease, reason, meaning)]
        return actions

    def close(self, lease: Lease, reason: str) -> list[Action]:
        """Close a lease that no update can come for any more; who asks all the same is told why."""
        self._partials.drop(lease.lease_id)
        self._leases.close([lease.lease_id])
        return [Store(RefusalRecord(lease.lease_id, reason))]

    def _answer(self, lease: Lease, reason: str, text: str) -> Publish:
        return self._say(lease.record.device, Refusal(lease.lease_id, reason, text[:_MAX_DETAIL]))

    def _say(self, device: str, refusal: Refusal) -> Publish:
        return self._publication.to_device(device, refusal)
