"""``step``: from K decoded updates to the hashed, stored next version, beside plain NumPy.

Ours: the buffer's weighted sum (float64, in journal order), the mean, the strategy's step, the
check that all is finite, SHA-256, and the store's commit, which counts the K ids, drops the oldest
version and is durable in SQLite. Plain: what one would write without any of it, a weighted sum in
float32, SHA-256 of the new params, and these bytes written to a new file and synced. Rounds of the
two alternate, on one file system.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.buffer import Buffer
from aggregator.records import LeaseRecord, VersionRecord
from aggregator.store import Store, open_store
from aggregator.strategy.fedavg import fedavg
from aggregator.versions import Versions
from benchmarks.report import Report, median, ratio_of_medians, spread
from protocol.messages import LEASE_ID_BYTES
from protocol.stream import derive
from protocol.vectors.layout import Layout, Subset, Tensor, params_to_bytes
from protocol.vectors.packing import SparseDelta

Float32 = npt.NDArray[np.float32]

NUM_UPDATES: Final = 16
SEED: Final = bytes(32)
KEPT: Final = {"dense": 1.0, "sparse": 0.01}


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each round; of ours also the part that is not the store's."""

    ours: list[float]
    ours_compute: list[float]
    plain: list[float]
    plain_compute: list[float]


@dataclass(frozen=True, slots=True)
class Ours:
    """The product's parts."""

    buffer: Buffer
    versions: Versions
    store: Store


def measure(*, quick: bool) -> Report:
    """Measure dense float32 updates, and sparse ones (1 % of the params)."""
    size, rounds = (2_000, 3) if quick else (100_000, 61)
    report: Report = {"params": size, "updates": NUM_UPDATES, "rounds": rounds}
    for name, kept in KEPT.items():
        with tempfile.TemporaryDirectory() as folder:
            times = _alternate(Path(folder), _deltas(size, kept), rounds)
        report[name] = {
            "ratio_to_plain": ratio_of_medians(times.ours, times.plain),
            "ours_ms": median([1e3 * each for each in times.ours]),
            "ours_ms_range": spread([1e3 * each for each in times.ours]),
            "ours_compute_ms": median([1e3 * each for each in times.ours_compute]),
            "plain_ms": median([1e3 * each for each in times.plain]),
            "plain_ms_range": spread([1e3 * each for each in times.plain]),
            "plain_compute_ms": median([1e3 * each for each in times.plain_compute]),
        }
    return report


def _deltas(size: int, kept: float) -> list[SparseDelta]:
    random = np.random.default_rng(0)
    count = max(1, round(kept * size))
    deltas = []
    for _ in range(NUM_UPDATES):
        values = random.normal(0, 1e-3, count).astype(np.float32)
        where = None if kept == 1 else np.sort(random.permutation(size)[:count])
        deltas.append(SparseDelta(where, values, size))
    return deltas


def all_of(size: int) -> Subset:
    """A model of one tensor, all of which is trained."""
    return Subset(Layout((Tensor("params", (size,)),)), frozenset({"params"}))


def _alternate(folder: Path, deltas: Sequence[SparseDelta], rounds: int) -> Times:
    size = deltas[0].size
    first = params_to_bytes(np.zeros(size, np.float32))
    newest = VersionRecord(0, first, hashlib.sha256(first).digest())
    times = Times([], [], [], [])
    params = np.zeros(size, np.float32)
    with closing(open_store(folder, "step")) as store:
        store.commit([newest])
        ours = Ours(Buffer(size), Versions(fedavg(), all_of(size), newest), store)
        for number in range(rounds):
            ids = _give_leases(store, number)
            _ours(times, deltas, ids, ours)
            params = _plain(times, deltas, params, folder / f"{number}.params")
            _check_same(ours.versions.params, params)
    return times


def _give_leases(store: Store, number: int) -> list[bytes]:
    ids = [derive(SEED, "lease", number, index)[:LEASE_ID_BYTES] for index in range(NUM_UPDATES)]
    store.commit(
        [LeaseRecord(id_, f"device-{i}", number, "dense/float32") for i, id_ in enumerate(ids)]
    )
    return ids


def _weight(index: int) -> float:
    return 100.0 + index


def _ours(times: Times, deltas: Sequence[SparseDelta], ids: Sequence[bytes], ours: Ours) -> None:
    start = time.perf_counter()
    for index, (lease_id, delta) in enumerate(zip(ids, deltas, strict=True)):
        ours.buffer.add(lease_id, f"device-{index}", delta, _weight(index))
    record = ours.versions.step(ours.buffer.mean("weights"), tuple(ours.buffer.ids))
    ours.buffer.clear()
    computed = time.perf_counter()
    if record is None:
        raise RuntimeError("the params are not finite")
    ours.store.commit([record])
    times.ours.append(time.perf_counter() - start)
    times.ours_compute.append(computed - start)


def _plain(times: Times, deltas: Sequence[SparseDelta], params: Float32, path: Path) -> Float32:
    start = time.perf_counter()
    total = np.zeros(params.size, np.float32)
    weights = 0.0
    for index, delta in enumerate(deltas):
        weight = np.float32(_weight(index))
        if delta.indices is None:
            total += weight * delta.values
        else:
            total[delta.indices] += weight * delta.values
        weights += float(weight)
    params = params + total / np.float32(weights)
    data = params.tobytes()
    hashlib.sha256(data).digest()
    computed = time.perf_counter()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    times.plain.append(time.perf_counter() - start)
    times.plain_compute.append(computed - start)
    return params


def _check_same(ours: Float32, plain: Float32) -> None:
    """A comparison of two different results would mean nothing."""
    if not np.allclose(ours, plain, rtol=1e-3, atol=1e-6):
        raise RuntimeError("the two sides do not compute the same")
