"""What a start finds in the store, taken up again: the leases, the journal, masked buffers."""

from aggregator.actions import Action
from aggregator.parts import Parts
from aggregator.records import LeaseState, Snapshot
from protocol.errors import LocalProtocolError, RemoteProtocolError


def take_up(parts: Parts, snapshot: Snapshot, now: float) -> list[Action]:
    """Go on where the start before ended; return what is to be stored and said of it.

    Leases run their full time again, and the journal is summed again in its order. Raises
    LocalProtocolError for a journal that does not fit the leases.
    """
    _reopen_leases(parts, snapshot, now)
    actions = _replay(parts, snapshot, now)
    if parts.secure is not None:
        actions += parts.secure.restore(snapshot.documents, parts.versions.number, now)
    if parts.config.mode == "rounds" and parts.leases.num_active > 0:
        parts.buffers.open(now)
    return actions


def _reopen_leases(parts: Parts, snapshot: Snapshot, now: float) -> None:
    for record in snapshot.leases:
        lease = parts.granting.reopen(record, now)
        if record.state is LeaseState.JOURNALLED:
            parts.leases.journalled(lease)


def _replay(parts: Parts, snapshot: Snapshot, now: float) -> list[Action]:
    actions: list[Action] = []
    for entry in snapshot.journal:
        waiting = parts.leases.get(entry.lease_id)
        if waiting is None:
            raise LocalProtocolError(f"journal entry {entry.sequence} belongs to no lease")
        try:
            parts.buffers.take(waiting, entry.update, parts.versions.number, now)
        except RemoteProtocolError as error:
            # The settings have changed since it was admitted: that is not held against its device.
            actions += parts.refusing.abandon([entry.lease_id], error.reason)
    return actions
