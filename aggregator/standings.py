"""Who is listened to, and what becomes of those that may not take part any more.

The book (`aggregator.conduct`) knows the standings; here they have their effect on the bus.
"""

from collections.abc import Iterable

from aggregator.actions import Action, Store
from aggregator.conduct.evidence import SHOWN, UNPROVEN
from aggregator.parts import Parts
from aggregator.records import LeaseState, Standing, StandingRecord
from aggregator.refusing import UNKNOWN
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import Refusal


class Standings:
    """Of the devices of one task."""

    def __init__(self, parts: Parts) -> None:
        self._conduct = parts.conduct
        self._counts = parts.counts
        self._fleet = parts.fleet
        self._gate = parts.gate
        self._leases = parts.leases
        self._publication = parts.publication
        self._refusing = parts.refusing

    # --- who is heard ------------------------------------------------------------------------

    def hears(self, device: str, num_bytes: int, now: float) -> bool:
        """Whether anything of this device is listened to, by its budget and its standing."""
        if self._conduct.standing(device) is Standing.REVOKED:
            self._counts[f"refused_{refusals.REVOKED}"] += 1
            return False
        if not self._conduct.heard(device, num_bytes, now):
            self._counts[f"refused_{refusals.OVER_BUDGET}"] += 1
            return False
        return True

    def not_heard(self, device: str, error: RemoteProtocolError) -> list[Action]:
        """A message is refused; whoever must show a certificate is told so.

        It is held against the device only where nobody else could have said it: where no
        signatures are asked for, the broker's rules must do to prove who speaks.
        """
        self._counts[f"refused_{error.reason}"] += 1
        if device != UNKNOWN:
            by_anybody = self._gate.is_strict and error.reason not in SHOWN
            self._conduct.note(device, UNPROVEN if by_anybody else error.reason)
        if error.reason == refusals.REPLAYED:  # the broker says it again, not the device
            return []
        self._refusing.show(device, error.reason, error.detail)
        if error.reason != refusals.UNKNOWN_KEY:
            return []
        refusal = Refusal(b"", error.reason, error.detail[:500])
        return [self._publication.to_device(device, refusal)]

    # --- who may take part -------------------------------------------------------------------

    def decreed(self, standings: Iterable[StandingRecord]) -> list[Action]:
        """The standings as the store has them: an operator may have changed some."""
        actions: list[Action] = []
        for record in self._conduct.decreed(standings):
            why = record.reason or "by the operator"
            self._refusing.show(record.device, record.standing.value, why)
            actions += self.shut_out(record)
        return actions

    def judged(self) -> list[Action]:
        """Store and carry out what the evidence has led to."""
        actions: list[Action] = []
        for record in self._conduct.verdicts():
            self._refusing.show(record.device, record.standing.value, record.reason)
            actions += [Store(record), *self.shut_out(record)]
        return actions

    def shut_out(self, record: StandingRecord) -> list[Action]:
        """Take from a device what it has under way: its place in the queue, its open lease."""
        if record.standing is Standing.ADMITTED:
            return []
        self._fleet.dismiss(record.device)
        lease = self._leases.of_device(record.device)
        if lease is None or lease.state is not LeaseState.OPEN:
            return []
        return self._refusing.shut_out(lease)
