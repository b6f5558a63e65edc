"""Whether every update of a federation counted once: the store against the devices' own records."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import msgpack
import numpy as np
import numpy.typing as npt

from aggregator.buffers import PlainBuffers
from aggregator.config import AggregatorConfig
from aggregator.coordinator import Coordinator
from aggregator.downlink import Downlink
from aggregator.leases import Lease
from aggregator.memory import Memory
from aggregator.records import LeaseState, Snapshot, VersionRecord
from aggregator.store import Store, open_store
from aggregator.task_config import TaskConfig
from aggregator.versions import Versions
from device_sdk.answers import ANSWER
from device_sdk.evidence import EVIDENCE
from device_sdk.pending import PENDING, unpack_pending
from device_sdk.storage import Storage
from protocol.secagg import scheme
from protocol.vectors.packing import DENSE
from tests.support.federation import Federation
from tests.support.run_device import Vector


@dataclass(frozen=True, slots=True)
class Audit:
    """What was found; everything that can be wrong was asserted on the way."""

    num_counted: int
    num_versions: int
    num_waiting: int


def audit(federation: Federation, *, allowed: Collection[str] = ()) -> Audit:
    """Compare the store with what the devices recorded. All processes have ended.

    Asserts: nothing counted twice; every receipt is of a counted update; every update that a device
    ever stored is counted, waits in the journal, is still on the device, or was refused for an
    ``allowed`` reason; and the updates, added up again in journal order, give every version's hash.
    Of a secure task instead: no device was asked for one mask in two sums; and, if updates are
    dense, what the devices say that they trained, added up in the open, gives every version, as
    closely as the scheme promises.
    """
    records = [federation.record(name) for name in federation.devices]
    stored = {key: update for record in records for key, update in record.stored.items()}
    with_receipt = {key for record in records for key in record.receipts}
    pending = {key for name in federation.devices for key in _pending(federation.state_dir(name))}

    store = _open(federation.config)
    try:
        refused = {key for key in stored if _outcome(store, key) in allowed}
        assert {key for record in records for key in record.refusals} <= refused
        counted = [lease_id for _, lease_id in store.counted_ids()]
        snapshot = store.snapshot()
        waiting = {entry.lease_id: entry.update for entry in snapshot.journal}
        assert len(counted) == len(set(counted)), "counted twice"
        assert with_receipt <= set(counted), "a receipt for what is not counted"
        assert stored.keys() <= {*counted, *waiting, *pending, *refused}, "lost"
        assert {*counted, *waiting} <= stored.keys(), "counted without a device"
        assert all(stored[key] == update for key, update in waiting.items()), "other bytes"
        accepted = snapshot.totals["updates_accepted"] - len(counted) - len(waiting)
        assert 0 <= accepted <= len(refused), "the counter tells another story"
        secure = federation.config.secure
        if not secure.enabled:
            _check_plain(federation, store, stored, num_waiting=len(waiting))
        else:
            _check_answers(federation)
        if secure.enabled and secure.support == DENSE:
            trained = {key: made for record in records for key, made in record.trained.items()}
            _check_masked(federation.config, store, trained, num_devices=len(records))
        newest = 0 if snapshot.version is None else snapshot.version.version
    finally:
        store.close()
    return Audit(len(counted), newest, len(waiting))


def _check_plain(
    federation: Federation, store: Store, stored: Mapping[bytes, bytes], *, num_waiting: int
) -> None:
    task = federation.config.task
    full = task.buffered.goal if task.mode == "buffered" else task.rounds.size
    assert num_waiting < full, "waits for ever"
    hashes = dict(federation.query("SELECT version, model_hash FROM fedbus_version"))
    for record in replayed(task, store, stored):
        assert record.model_hash == hashes[record.version], f"version {record.version}"
        kept = store.params(record.version)
        assert kept in (None, record.params)


def _check_answers(federation: Federation) -> None:
    """Whatever died meanwhile, nobody has proof of two requests for one mask."""
    requests: dict[tuple[int, int], set[bytes]] = {}
    for name in federation.devices:
        stored = Storage(federation.state_dir(name)).load()
        assert not [key for key in stored if key.startswith(EVIDENCE)], name
        for key, data in stored.items():
            if key.startswith(ANSWER):
                _, request, _, _, _, masks = msgpack.unpackb(data)
                for dealer, counter in masks:
                    requests.setdefault((dealer, counter), set()).add(request)
    assert requests, "nobody has answered"
    assert all(len(asked) == 1 for asked in requests.values()), "a mask in two sums"


def _check_masked(
    config: AggregatorConfig,
    store: Store,
    trained: Mapping[bytes, tuple[int, Vector]],
    *,
    num_devices: int,
) -> None:
    """All versions are kept, and each is the one before plus the mean of its members' deltas."""
    spec = config.task.model_spec()
    given = config.secure.parameters(config.task, num_devices, spec.layout.size)
    for version, entries in groupby(store.counted_ids(), itemgetter(0)):
        made = [trained[lease_id] for _, lease_id in entries]
        levels = [given.level(num_samples) / given.levels for num_samples, _ in made]
        assert all(np.abs(delta).max() < given.clip for _, delta in made), "clipped"
        mean = np.average([delta for _, delta in made], axis=0, weights=levels)
        noise = scheme(given.scheme).noise_bound(given, len(made)) + 0.5 * len(made)  # and rounding
        before, after = _params(store, version - 1), _params(store, version)
        bound = noise / given.scale / sum(levels) + np.finfo(np.float32).eps * np.abs(after).max()
        assert np.abs(mean).max() > 20 * bound, "the bound says nothing"
        assert np.abs(after - before - mean).max() <= bound, f"version {version}"


def _params(store: Store, version: int) -> npt.NDArray[np.float64]:
    params = store.params(version)
    assert params is not None
    return np.frombuffer(params, "<f4").astype(np.float64)


def _outcome(store: Store, lease_id: bytes) -> str:
    """Why an update was refused, empty if it was not."""
    lease = store.lease(lease_id)
    return lease.outcome if lease is not None and lease.state is LeaseState.REFUSED else ""


def counted_ids(federation: Federation) -> list[bytes]:
    """Return every id that the store has counted, in order. The aggregator has ended."""
    store = _open(federation.config)
    try:
        return [lease_id for _, lease_id in store.counted_ids()]
    finally:
        store.close()


def steps(federation: Federation) -> list[tuple[tuple[bytes, ...], npt.NDArray[np.float64]]]:
    """Return what each version counts and by how much it moved; all are kept, and it has ended."""
    store = _open(federation.config)
    try:
        return [
            (
                tuple(lease_id for _, lease_id in entries),
                _params(store, version) - _params(store, version - 1),
            )
            for version, entries in groupby(store.counted_ids(), itemgetter(0))
        ]
    finally:
        store.close()


def replayed(
    task: TaskConfig, store: Store, updates: Mapping[bytes, bytes]
) -> Iterator[VersionRecord]:
    """Make every version anew from the updates that the store says it counts, as published."""
    task = task.settled(masked=False)
    layout = task.trained().layout
    first = _first_version(task)
    versions = Versions(task.strategy.strategy(), task.trained(), first)
    downlink = Downlink(task.bandwidth, task.trained(), task.task)
    downlink.step(first, versions.params, ())
    memory = Memory(task, {}, "-", layout.size)
    buffers = PlainBuffers(task, layout, memory.participation, memory.history)
    for version, entries in groupby(store.counted_ids(), itemgetter(0)):
        ids = tuple(lease_id for _, lease_id in entries)
        staleness: dict[str, int] = {}
        for lease_id in ids:
            lease = store.lease(lease_id)
            assert lease is not None
            staleness[lease.device] = version - 1 - lease.version
            buffers.take(Lease(lease, 0.0), updates[lease_id], version - 1, 0.0)
        buffers.close(lambda _fill: True, 0.0)
        (outcome,) = buffers.outcomes()
        assert outcome.mean is not None
        counted = memory.told(outcome, staleness, version - 1, versions.trained)
        record = versions.step(outcome.mean, ids, counted)
        assert record is not None
        assert record.version == version
        memory.counted(outcome, staleness, version)
        yield downlink.step(record, versions.params, ())


def _first_version(task: TaskConfig) -> VersionRecord:
    empty = Snapshot(None, (), (), (), {}, {}, 0)
    return Coordinator(task, empty, bytes(32), 0.0).versions.newest


def _open(config: AggregatorConfig) -> Store:
    keep = config.task.keep_versions
    return open_store(Path(config.state_dir), config.task.task, keep_versions=keep)


def _pending(state_dir: Path) -> list[bytes]:
    data = Storage(state_dir).load().get(PENDING)
    return [] if data is None else [unpack_pending(data).lease_id]
