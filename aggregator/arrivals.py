"""What becomes of an update that arrives, chunk by chunk, and of the questions after it.

Once it is whole and a buffer has taken it, it is journalled: from then on it counts once, whatever
happens. An update that is here no more is closed, and the store says how: `Recall`.
"""

from typing import Final

from aggregator.actions import Action, Recall, Store
from aggregator.leases import Lease
from aggregator.parts import Parts
from aggregator.progress import Progress
from aggregator.records import JournalRecord, LeaseRecord, LeaseState
from protocol import refusals
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import SEAL_BYTES
from protocol.messages import ChunksMissing, Held, Receipt, Refusal, UpdateChunk

#: Leases are closed for these before any update has come, so the update that comes is counted then.
CLOSED_UNSEEN: Final = frozenset({refusals.TOO_STALE, refusals.SUPERSEDED})


class Arrivals:
    """Of one task; ``next_sequence`` numbers the next entry of the journal."""

    def __init__(self, parts: Parts, progress: Progress, next_sequence: int) -> None:
        self._buffers = parts.buffers
        self._conduct = parts.conduct
        self._config = parts.config
        self._counts = parts.counts
        self._gate = parts.gate
        self._granting = parts.granting
        self._leases = parts.leases
        self._partials = parts.partials
        self._progress = progress
        self._publication = parts.publication
        self._refusing = parts.refusing
        self._sequence = next_sequence
        self._versions = parts.versions

    # --- chunks ------------------------------------------------------------------------------

    def chunk(self, device: str, chunk: UpdateChunk, now: float) -> list[Action]:
        """A part of an update came, perhaps the last one."""
        lease = self._leases.get(chunk.lease_id)
        if lease is None:
            return [Recall(chunk.lease_id, device)]
        if lease.record.device != device:
            return self._refusing.refuse_unknown(device, chunk.lease_id)
        if lease.state is LeaseState.JOURNALLED:
            self._counts["duplicates"] += 1
            return []
        try:
            update = self._add(lease, chunk, now)
            if update is None:
                return []
            self._buffers.take(lease, update, self._versions.number, now)
        except RemoteProtocolError as error:
            return self._refusing.refuse(lease, error.reason, error.detail)
        self._granting.arrived(lease, len(update), now)
        if lease.given_at is not None:
            self._conduct.arrived(device, now - lease.given_at)
        return [self._journal(lease, update), *self._progress.advance(now)]

    def _add(self, lease: Lease, chunk: UpdateChunk, now: float) -> bytes | None:
        """Return the update if it is whole now, in the clear. Raises RemoteProtocolError."""
        self._granting.chunk(lease, len(chunk.data), now)
        budget_bytes = self._granting.budget_bytes(lease.record.codec)
        budget_bytes += chunk.sealed * SEAL_BYTES
        update = self._partials.add(lease.record.device, chunk, budget_bytes, now)
        if update is None or not chunk.sealed:
            return update
        return self._gate.unseal(update, lease.lease_id)

    def _journal(self, lease: Lease, data: bytes) -> Store:
        self._leases.journalled(lease)
        record = JournalRecord(self._sequence, lease.lease_id, data)
        self._sequence += 1
        self._counts["updates_accepted"] += 1
        return Store(record)

    def timer(self, now: float) -> list[Action]:
        """Time passed: what is missing is asked for, and what does not come is given up."""
        actions: list[Action] = []
        for lease_id, partial in self._partials.to_ask_for(now):
            missing = ChunksMissing(lease_id, tuple(partial.assembly.missing()))
            actions.append(self._publication.to_device(partial.device, missing))
        for _, partial in self._partials.give_up(now):
            self._refusing.note(partial.device, refusals.INCOMPLETE)
        return actions

    # --- questions ---------------------------------------------------------------------------

    def asked_after(self, device: str, lease_id: bytes) -> list[Action]:
        """A device holds an update, and asks what has come of it."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return [Recall(lease_id, device)]
        if lease.record.device != device:
            return self._refusing.refuse_unknown(device, lease_id)
        if lease.state is LeaseState.JOURNALLED:
            return [self._publication.to_device(device, Held(lease_id))]
        if self._is_too_stale(lease):
            return self._refusing.refuse(lease, refusals.TOO_STALE)
        partial = self._partials.get(lease_id)
        missing = tuple(partial.assembly.missing()) if partial is not None else ()
        return [self._publication.to_device(device, ChunksMissing(lease_id, missing))]

    def recalled(self, device: str, lease_id: bytes, record: LeaseRecord | None) -> list[Action]:
        """The store answered a `Recall`: a closed lease gets the same answer as ever."""
        if record is None or record.device != device:
            return self._refusing.refuse_unknown(device, lease_id)
        match record.state:
            case LeaseState.COUNTED:
                self._counts["duplicates"] += 1
                answer = Receipt(lease_id, int(record.outcome))
                return [self._publication.to_device(device, answer)]
            case LeaseState.REFUSED:
                meaning = refusals.MEANING.get(record.outcome, record.outcome)
                if record.outcome in CLOSED_UNSEEN:
                    self._refusing.note(device, record.outcome)
                refusal = Refusal(lease_id, record.outcome, meaning)
                return [self._publication.to_device(device, refusal)]
        raise LocalProtocolError(f"a lease that is {record.state.value} was forgotten")

    def _is_too_stale(self, lease: Lease) -> bool:
        return self._versions.number - lease.record.version > self._config.staleness_limit
