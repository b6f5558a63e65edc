"""Whether every update counted once: the aggregator's store against what the clients were told."""

from collections.abc import Set as AbstractSet
from pathlib import Path

from aggregator.config import load_config
from aggregator.records import LeaseState
from aggregator.store import Store, open_store
from benchmarks.report import Report
from fedbus.load_ledger import Ledger


def audit(config: Path, ledger: Ledger) -> Report:
    """Compare the two; the aggregator of ``config`` has ended. All but the first three should be 0.

    ``lost``: sent, and now neither counted nor refused, nor in the journal, nor still held by the
    device that would send it again. ``receipts_not_counted``: a promise that the store does not
    keep. ``counted_unsent``: counted, and no client knows of it.
    """
    checked = load_config(config)
    task = checked.task
    store = open_store(Path(checked.state_dir), task.task, keep_versions=task.keep_versions)
    try:
        counted = [lease_id for _, lease_id in store.counted_ids()]
        waiting = {entry.lease_id for entry in store.snapshot().journal}
        held = set(ledger.unanswered)
        sent = {*ledger.receipts, *ledger.refusals, *held}
        known = {*counted, *waiting, *held}
        return {
            "counted": len(counted),
            "waiting_in_journal": len(waiting),
            "held_by_devices": len(held - {*counted, *waiting}),
            "lost": len(_not_refused(store, sent - known)),
            "counted_twice": len(counted) - len(set(counted)),
            "receipts_not_counted": len(ledger.receipts - set(counted)),
            "refused_but_counted": len(ledger.refusals.keys() & set(counted)),
            "counted_unsent": len(set(counted) - sent),
        }
    finally:
        store.close()


def _not_refused(store: Store, lease_ids: AbstractSet[bytes]) -> list[bytes]:
    leases = {lease_id: store.lease(lease_id) for lease_id in lease_ids}
    return [
        lease_id
        for lease_id, lease in leases.items()
        if lease is None or lease.state is not LeaseState.REFUSED
    ]
