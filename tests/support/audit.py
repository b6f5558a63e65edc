"""Whether every update of a federation counted once: the store against the devices' own records."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from aggregator.admission import read_delta
from aggregator.buffer import Buffer
from aggregator.config import AggregatorConfig
from aggregator.coordinator import Coordinator
from aggregator.records import Snapshot, VersionRecord
from aggregator.store import Store, open_store
from aggregator.task_config import TaskConfig
from aggregator.versions import Versions
from device_sdk.engine.model import Model
from device_sdk.pending import PENDING, unpack_pending
from device_sdk.storage import Storage
from protocol.codec import decode_update
from protocol.vectors.packing import parse_codec
from protocol.vectors.support import support_seed
from tests.support.federation import Federation


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found; everything that can be wrong was asserted on the way."""

    num_counted: int
    num_versions: int
    num_waiting: int


def audit(federation: Federation) -> Audit:
    """Compare the store with what the devices recorded. All processes have ended.

    Asserts: nothing counted twice; every receipt is of a counted update; every update that a device
    ever stored is counted, waits in the journal, or is still on the device; and the updates, added
    up again in journal order, give every version's hash.
    """
    records = {name: federation.record(name) for name in federation.devices}
    stored = {key: update for record in records.values() for key, update in record.stored.items()}
    with_receipt = {key for record in records.values() for key in record.receipts}
    pending = {key for name in federation.devices for key in _pending(federation.state_dir(name))}
    assert not any(record.refusals for record in records.values())

    store = _open(federation.config)
    try:
        counted = [lease_id for _, lease_id in store.counted_ids()]
        snapshot = store.snapshot()
        waiting = {entry.lease_id: entry.update for entry in snapshot.journal}
        assert len(counted) == len(set(counted)), "counted twice"
        assert with_receipt <= set(counted), "a receipt for what is not counted"
        assert stored.keys() <= {*counted, *waiting, *pending}, "lost"
        assert {*counted, *waiting} <= stored.keys(), "counted without a device"
        assert all(stored[key] == update for key, update in waiting.items()), "other bytes"
        task = federation.config.task
        full = task.buffered.goal if task.mode == "buffered" else task.rounds.size
        assert len(waiting) < full, "waits for ever"
        accepted = snapshot.totals["updates_accepted"]
        assert accepted == len(counted) + len(waiting), "the counter tells another story"
        hashes = dict(federation.query("SELECT version, model_hash FROM fedbus_version"))
        for version, params in replayed(task, store, stored):
            assert hashlib.sha256(params).digest() == hashes[version], f"version {version}"
            kept = store.params(version)
            assert kept in (None, params)
    finally:
        store.close()
    return Audit(len(counted), len(hashes) - 1, len(waiting))


def counted_ids(federation: Federation) -> list[bytes]:
    """Return every id that the store has counted, in order. The aggregator has ended."""
    store = _open(federation.config)
    try:
        return [lease_id for _, lease_id in store.counted_ids()]
    finally:
        store.close()


def replayed(
    task: TaskConfig, store: Store, updates: Mapping[bytes, bytes]
) -> Iterator[tuple[int, bytes]]:
    """Make every version anew from the updates that the store says it counts."""
    model = Model(task.model_spec())
    versions = Versions(task.strategy.strategy(), model.layout.size, _first_version(task))
    buffer = Buffer(model.layout.size)
    weigh = task.staleness.weight()
    for version, entries in groupby(store.counted_ids(), itemgetter(0)):
        ids = tuple(lease_id for _, lease_id in entries)
        for lease_id in ids:
            update = decode_update(updates[lease_id])
            support = support_seed(task.task, update.base_version)
            delta = read_delta(update, parse_codec(update.codec), model.layout, support)
            weight = weigh(version - 1 - update.base_version) * update.num_samples
            buffer.add(lease_id, "", delta, weight)
        record = versions.step(buffer.mean(task.normalise), ids)
        assert record is not None
        assert record.version == version
        buffer.clear()
        yield version, record.params


def _first_version(task: TaskConfig) -> VersionRecord:
    empty = Snapshot(None, (), (), (), {}, {}, 0)
    return Coordinator(task, empty, bytes(32), 0.0).versions.newest


def _open(config: AggregatorConfig) -> Store:
    keep = config.task.keep_versions
    return open_store(Path(config.state_dir), config.task.task, keep_versions=keep)


def _pending(state_dir: Path) -> list[bytes]:
    data = Storage(state_dir).load().get(PENDING)
    return [] if data is None else [unpack_pending(data).lease_id]
