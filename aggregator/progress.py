"""What may follow from anything: buffers close, versions are stepped, leases are given.

The scheduling of the mode (`aggregator.scheduling`) says when, from one `View` of all there is.
"""

from aggregator.actions import Action, Store
from aggregator.buffers import Fill
from aggregator.eligibility import Eligibility
from aggregator.parts import Parts
from aggregator.records import LeaseRecord
from aggregator.scheduling import View
from aggregator.stepping import Stepping


class Progress:
    """Of one task. ``scheduling`` is that of its mode."""

    def __init__(self, parts: Parts, eligibility: Eligibility, stepping: Stepping) -> None:
        self.scheduling = parts.config.scheduling
        self._buffers = parts.buffers
        self._config = parts.config
        self._counts = parts.counts
        self._eligibility = eligibility
        self._fleet = parts.fleet
        self._granting = parts.granting
        self._leases = parts.leases
        self._messages = parts.messages
        self._partials = parts.partials
        self._participation = parts.memory.participation
        self._privacy = parts.privacy
        self._secure = parts.secure
        self._stepping = stepping
        self._versions = parts.versions

    # --- what it goes by ---------------------------------------------------------------------

    def view(self, now: float) -> View:
        """Return what scheduling decides by."""
        return self._view(self._buffers.fill, now)

    def _view(self, fill: Fill, now: float) -> View:
        return View(
            now=now,
            num_waiting=self._fleet.num_waiting,
            num_active=self._leases.num_active,
            num_buffered=fill.num_updates,
            num_contributors=fill.num_contributors,
            opened_at=fill.opened_at,
            gathering_since=self._fleet.waiting_since,
            supply=self._granting.supply(self._partials.num_bytes, now),
        )

    def deadlines(self, now: float) -> list[float | None]:
        """Return when an open buffer, or what may be granted, wants to be looked at again."""
        fills = self._buffers.fills
        return [
            self._granting.next_at(now),
            *[self.scheduling.next_deadline(self._view(fill, now)) for fill in fills],
        ]

    def waiting_for(self, now: float) -> str:
        """Return, for a person, what the next version waits for."""
        stopped = self._privacy.why_stopped(self._fleet.num_registered)
        if self._privacy.has_stopped(self._fleet.num_registered):
            return f"nothing, training has ended: {stopped}"
        waits_for = self._buffers.waiting_for() or self.scheduling.waiting_for(self.view(now))
        return f"{waits_for}; {stopped}" if stopped else waits_for

    # --- what it does ------------------------------------------------------------------------

    def advance(self, now: float) -> list[Action]:
        """Close what is due, take steps with what is done, give the leases that may be given."""
        is_due = self.scheduling.is_due
        actions = self._buffers.close(lambda fill: is_due(self._view(fill, now)), now)
        while outcomes := self._buffers.outcomes():
            for outcome in outcomes:
                actions += self._stepping.ended(outcome, now)
        if self._secure is not None and self._participation.renewed(self._secure.cohorts.epochs):
            self._versions.forget()  # with their epoch, devices forget what was counted of them
        if self._secure is not None or self._config.fairness.max_share < 1:
            self._fleet.regroup(lambda device: self._eligibility.is_ready(device, now))
        if not self._fleet.num_waiting or self._is_between_rounds(now):
            return actions
        return [*actions, *self._grant(now)]

    def _is_between_rounds(self, now: float) -> bool:
        """A round that still waits for its sum has no successor yet."""
        return self._config.mode == "rounds" and self._buffers.holds_up(now)

    def _grant(self, now: float) -> list[Action]:
        actions: list[Action] = []
        view, version = self.view(now), self._versions.number
        for grant in self._granting.grants(
            self.scheduling.num_grants(view),
            now,
            opened_at=view.opened_at,
            partial_bytes=self._partials.num_bytes,
            bytes_down=lambda check_in: self._messages.bytes_down(check_in, version),
        ):
            device, check_in = grant.waiting.device, grant.waiting.check_in
            lease_id = self._messages.new_id(version)
            record = LeaseRecord(lease_id, device, version, str(grant.codec))
            lease = self._granting.open(record, grant, now)
            self._counts["leases_given"] += 1
            heard = Store(self._fleet.record(device))
            actions += [Store(record), heard, *self._messages.of(lease, check_in, now)]
        if actions and self._config.mode == "rounds":
            self._buffers.open(now)
        return actions
