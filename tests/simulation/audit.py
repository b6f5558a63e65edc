"""What must hold in every history, at each commit and at the end."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from aggregator.records import JournalRecord, Record, RefusalRecord, VersionRecord
from device_sdk.held import unpack_held
from device_sdk.pending import PENDING, RESIDUAL, Pending, unpack_pending, unpack_residual
from protocol.codec import decode_update
from protocol.vectors.hidden import model_hash
from protocol.vectors.packing import decode, parse_codec
from protocol.vectors.support import support_seed
from simulator import SimulatedDevice, World
from tests.simulation.training import SIZE, Float64, OneHot

#: Sums of a few float32 numbers of about 1.
TOLERANCE = 1e-4


class Audit:
    """Watches a world. Raises AssertionError as soon as something is wrong."""

    def __init__(self, world: World, trainer: OneHot) -> None:
        self.world = world
        self.trainer = trainer
        self.version = -1
        self.counted: set[bytes] = set()
        self.refused: set[bytes] = set()
        self.journalled: dict[bytes, bytes] = {}
        self.outcomes: dict[str, int] = {}
        self.hashes: dict[int, bytes] = {}
        self.model = np.zeros(SIZE)
        self._params: npt.NDArray[np.float32] | None = None
        store = world.server.store
        coordinator = world.server.coordinator
        assert coordinator is not None
        self._layout = coordinator.trained.layout
        self._codec = parse_codec(coordinator.config.codec)
        newest = store.snapshot().version
        assert newest is not None
        self._version(newest)
        store.watch = self.committed

    # --- at each commit ----------------------------------------------------------------------

    def committed(self, records: Sequence[Record]) -> None:
        for record in records:
            match record:
                case JournalRecord():
                    assert record.lease_id not in self.journalled, "journalled twice"
                    self.journalled[record.lease_id] = record.update
                case RefusalRecord():
                    if record.lease_id not in self.counted:
                        self.refused.add(record.lease_id)
                case VersionRecord():
                    self._version(record)

    def _version(self, record: VersionRecord) -> None:
        assert record.version == self.version + 1, "a version was skipped or made twice"
        self.version = record.version
        self.hashes[record.version] = record.model_hash
        ids = set(record.counted)
        assert len(ids) == len(record.counted), "counted twice in one version"
        assert not ids & self.counted, "counted twice"
        assert not ids & self.refused, "counted after it was refused"
        self.counted |= ids
        params = np.frombuffer(record.params, "<f4")
        if self._params is not None:
            step = (params.astype(np.float64) - self._params) * len(ids)
            expected = sum((self.delta(self.journalled[each]) for each in ids), np.zeros(SIZE))
            np.testing.assert_allclose(step, expected, atol=TOLERANCE)
            self.model += step
        self._params = params

    def delta(self, update: bytes) -> Float64:
        """What an encoded update adds."""
        read = decode_update(update)
        seed = support_seed(self.world.topics.task, read.base_version)
        sparse = decode(read.body, self._codec, self._layout, support_seed=seed)
        return sparse.dense().astype(np.float64)

    # --- at each receipt and refusal ---------------------------------------------------------

    def closed(self, device: str, pending: Pending, *, counted: bool) -> None:
        durable = self.counted if counted else self.refused
        assert pending.lease_id in durable, f"{device} was told what is not in the store"
        if counted:
            assert self.journalled[pending.lease_id] == pending.update
        self.outcomes[device] = self.outcomes.get(device, 0) + 1

    # --- at the end --------------------------------------------------------------------------

    def check_bounds(self) -> None:
        """Nothing grows beyond what the settings allow."""
        coordinator = self.world.server.coordinator
        if coordinator is None:
            return
        config = coordinator.config
        limit = config.buffered.goal if config.mode == "buffered" else config.rounds.size
        assert len(coordinator.buffers) < limit
        assert coordinator.partials.num_bytes <= config.max_assembly_bytes
        assert len(coordinator.leases) <= 2 * len(self.world.devices)
        assert coordinator.fleet.num_waiting <= len(self.world.devices)
        snapshot = self.world.server.store.snapshot()
        assert len(snapshot.journal) < limit
        assert len(snapshot.live_params) <= config.keep_versions + len(snapshot.leases)
        assert len(snapshot.leases) <= 2 * len(self.world.devices)

    def check(self) -> None:
        """What was counted is in the model once; the rest is on a device; nothing is lost."""
        ids = [lease_id for _, lease_id in self.world.server.store.counted_ids()]
        assert len(ids) == len(self.counted), "an id is in the versions twice"
        assert set(ids) == self.counted
        assert np.all(self.model >= -TOLERANCE)
        assert np.all(self.model <= self.trainer.stored + TOLERANCE), "in the model twice"
        if self.trainer.width == 1:
            assert np.sum(self.model > 0.5) == len(self.counted)
            assert np.all(np.minimum(self.model, np.abs(self.model - 1)) <= TOLERANCE)
        if self._codec.contractive:
            self._check_conservation()
        self._check_held()
        self.check_bounds()

    def _check_conservation(self) -> None:
        """Each delta that was ever stored is in the model or still on its device, and once."""
        kept = sum((self._kept(each.storage) for each in self._devices()), np.zeros(SIZE))
        np.testing.assert_allclose(self.model + kept, self.trainer.stored, atol=TOLERANCE)

    def _check_held(self) -> None:
        """Each device holds, to the last bit, what was published of some version."""
        for device in self._devices():
            if (kept := unpack_held(device.storage)) is not None:
                assert model_hash(kept[0].params) == self.hashes[kept[0].version]

    def _devices(self) -> list[SimulatedDevice]:
        return list(self.world.devices.values())

    def _kept(self, storage: Mapping[str, bytes]) -> Float64:
        """What a device has trained that is not in the model."""
        residual = unpack_residual(storage[RESIDUAL]) if RESIDUAL in storage else None
        pending = unpack_pending(storage[PENDING]) if PENDING in storage else None
        if pending is None or (residual and residual.lease_id == pending.lease_id):
            return _vector(residual.values) if residual else np.zeros(SIZE)
        unsent = _vector(pending.residual)
        return unsent if pending.lease_id in self.counted else unsent + self.delta(pending.update)


def _vector(values: bytes) -> Float64:
    return np.frombuffer(values, "<f4").astype(np.float64) if values else np.zeros(SIZE)
