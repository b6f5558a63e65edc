"""What a check-in leads to: a lease sooner or later, an answer about an update, or a refusal."""

from aggregator.actions import Action, Store
from aggregator.arrivals import Arrivals
from aggregator.buffers import SecureMessage
from aggregator.eligibility import Eligibility
from aggregator.gate import Heard
from aggregator.leases import Lease
from aggregator.parts import Parts
from aggregator.progress import Progress
from aggregator.records import LeaseState, Standing
from protocol import refusals
from protocol.errors import RemoteProtocolError
from protocol.messages import COUNTER_START_BITS, MAX_STARTS, CheckIn, Refusal


class CheckIns:
    """Who holds an update asks ``arrivals`` after it; who waits is served by ``progress``."""

    def __init__(
        self, parts: Parts, eligibility: Eligibility, arrivals: Arrivals, progress: Progress
    ) -> None:
        self._arrivals = arrivals
        self._conduct = parts.conduct
        self._counts = parts.counts
        self._downlink = parts.downlink
        self._eligibility = eligibility
        self._fleet = parts.fleet
        self._leases = parts.leases
        self._messages = parts.messages
        self._partials = parts.partials
        self._progress = progress
        self._publication = parts.publication
        self._refusing = parts.refusing

    def heard(
        self, device: str, check_in: CheckIn, heard: Heard[CheckIn | SecureMessage], now: float
    ) -> list[Action]:
        """A check-in came; ``heard`` says who has signed it, and its counter."""
        install_id, signed = check_in.install_id, bool(heard.identity)
        if self._fleet.is_old(device, install_id, heard.counter, signed=signed):
            self._counts["duplicates"] += 1
            return self._count_on(device, install_id, heard.counter)
        self._counts["check_ins"] += 1
        try:
            record = self._fleet.register(device, install_id)
        except RemoteProtocolError as error:
            return self._refusing.turn_away(device, check_in, error.reason)
        registered: list[Action] = [] if record is None else [Store(record)]
        if check_in.pending:
            return [*registered, *self._arrivals.asked_after(device, check_in.pending)]
        return [*registered, *self._wants_work(device, check_in, now)]

    def _count_on(self, device: str, install_id: bytes, counter: int) -> list[Action]:
        """Answer who speaks from an earlier start: the copy of a medium, or one that was restored.

        To a device that is not, because a broker only says again what it once said, it is no news.
        """
        newest = self._fleet.newest_start(device)
        if counter >> COUNTER_START_BITS >= newest or newest > MAX_STARTS:
            return []
        reason = refusals.OLD_START
        told = Refusal(b"", reason, refusals.MEANING[reason], 0, install_id, newest)
        return [self._publication.to_device(device, told)]

    def _wants_work(self, device: str, check_in: CheckIn, now: float) -> list[Action]:
        reason, detail = self._eligibility.objection(device, check_in)
        if reason:
            return self._refusing.turn_away(device, check_in, reason, detail)
        self._conduct.declared(device, check_in.num_samples)
        if self._conduct.standing(device) is not Standing.ADMITTED:  # that was one claim too many
            return self._refusing.turn_away(device, check_in, refusals.QUARANTINED)
        lease = self._leases.of_device(device)
        if check_in.num_samples == 0 or (lease and lease.state is LeaseState.JOURNALLED):
            return []
        if lease is not None and self._is_good(lease):
            self._partials.drop(lease.lease_id)  # it will train again: these are of another update
            return [*self._messages.of(lease, check_in, now)]
        superseded: list[Action] = []
        if lease is not None:  # it ran out, and the device holds no update for it
            superseded = self._refusing.close(lease, refusals.SUPERSEDED)
        is_ready = self._eligibility.is_ready(device, now)
        self._fleet.wait(device, check_in, now, ready=is_ready)
        return [*superseded, *self._progress.advance(now)]

    def _is_good(self, lease: Lease) -> bool:
        """It runs, and its version is published: a restart lets leases run again that had ended."""
        return self._leases.is_running(lease) and self._downlink.is_published(lease.record.version)
