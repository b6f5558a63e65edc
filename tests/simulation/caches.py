"""What calibrated devices have counted of them, against the aggregator's sum, at every commit."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from aggregator.records import LeaseRecord, Record, RefusalRecord, VersionRecord
from aggregator.secure_config import Enrolment, SecureConfig
from aggregator.task_config import TaskConfig
from device_sdk.identity import Keys, parse_keys
from device_sdk.pending import PENDING, RESIDUAL, Pending, unpack_pending, unpack_residual
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.secagg.messages import SignedRoster
from protocol.secagg.parameters import Parameters
from protocol.stream import Stream, derive
from simulator import World
from tests.support.enrolment import SEED, cohort

Float64 = npt.NDArray[np.float64]

TASK: Final = "calm"
#: 7 weights and a bias each.
SIZE: Final = 16
MODEL: Final = {
    "input": [SIZE // 2 - 1],
    "layers": [{"type": "dense", "units": 2}],
    "loss": "softmax_cross_entropy",
}
#: Sums of a few hundred float32 numbers below 1.
TOLERANCE: Final = 1e-6


class Pull(Trainer):
    """Pulls every param towards a target of the device's own, some faster than others."""

    def __init__(self, name: str) -> None:
        uniform = Stream(derive(SEED, "target", name)).uniform(2 * SIZE).astype(np.float64)
        self.target = 2 * uniform[:SIZE] - 1
        self.rates = 0.1 + 0.4 * uniform[SIZE:]

    def num_samples(self) -> int:
        return 10

    def delta(self, params: npt.NDArray[np.floating]) -> Float64:
        """Return what a training from these params gives."""
        return self.rates * (self.target - params)

    def train(self, assignment: Assignment) -> Trained:
        params = assignment.params + self.delta(assignment.params)
        return Trained(params.astype(np.float32), 10, {})


class Caches:
    """Watches a world. Raises AssertionError as soon as sum and caches differ."""

    def __init__(self, world: World, given: Parameters | None = None) -> None:
        self.caches: dict[str, Float64] = {}
        self.epochs: list[bytes] = []
        self.versions: list[VersionRecord] = []
        self.devices: dict[bytes, str] = {}
        self.bases: dict[bytes, int] = {}
        self.slack = 0.0
        self.refused: Counter[str] = Counter()
        self._given = given
        self._pending: dict[bytes, Pending] = {}
        self._world = world
        world.server.store.watch = self._committed

    def storage(self) -> dict[str, bytes]:
        """Return a device's storage that is watched too."""
        return _Storage(self)

    @property
    def num_counted(self) -> int:
        return sum(len(record.counted) for record in self.versions)

    def stored(self, pending: Pending) -> None:
        self._pending[pending.lease_id] = pending

    def _committed(self, records: Sequence[Record]) -> None:
        for record in records:
            if isinstance(record, LeaseRecord):
                self.devices[record.lease_id] = record.device
                self.bases[record.lease_id] = record.version
            if isinstance(record, RefusalRecord) and record.lease_id in self._pending:
                self.refused[record.reason] += 1
            if isinstance(record, VersionRecord):
                self.versions.append(record)
                self._step(record)

    def _step(self, record: VersionRecord) -> None:
        """An update is counted; its device need not know yet, but has it on flash."""
        counted = [self._pending[lease_id] for lease_id in record.counted]
        (epoch,) = {pending.cache_of for pending in counted}
        if epoch not in self.epochs:
            self.epochs.append(epoch)
            self.caches.clear()
            self.slack = TOLERANCE
        assert epoch == self.epochs[-1], "counted in an epoch that is over"
        for pending in counted:
            self.caches[self.devices[pending.lease_id]] = _vector(pending.residual)
        if self._given is not None:
            self.slack += len(counted) * self._given.noise / self._given.scale
        known = np.frombuffer(record.strategy_state["sum"], "<f8")
        summed = np.sum(list(self.caches.values()), axis=0)
        assert np.abs(known - summed).max() <= self.slack
        (num_devices,) = np.frombuffer(record.strategy_state["num_devices"], "<f8")
        assert num_devices == len(self.caches)

    def check_devices(self) -> None:
        """Every device remembers what was counted of it, or will as soon as it hears of it."""
        if not self.versions:
            return
        counted = {lease_id for record in self.versions for lease_id in record.counted}
        for name, device in self._world.devices.items():
            expected = self.caches.get(name)
            found = _remembered(device.storage, counted, self.epochs[-1])
            if expected is None or found is None:
                assert found is None
                assert expected is None
            else:
                np.testing.assert_array_equal(found, expected)


class _Storage(dict[str, bytes]):
    def __init__(self, caches: Caches) -> None:
        super().__init__()
        self._caches = caches

    def __setitem__(self, key: str, data: bytes) -> None:
        super().__setitem__(key, data)
        if key == PENDING:
            self._caches.stored(unpack_pending(data))


def _remembered(storage: Mapping[str, bytes], counted: set[bytes], epoch: bytes) -> Float64 | None:
    """Return a device's cache once it has heard all; None if it is of another epoch, or none."""
    if PENDING in storage:
        pending = unpack_pending(storage[PENDING])
        if pending.lease_id in counted:
            return _vector(pending.residual) if pending.cache_of == epoch else None
    if RESIDUAL not in storage:
        return None
    residual = unpack_residual(storage[RESIDUAL])
    return _vector(residual.values) if residual.cache_of == epoch else None


def _vector(values: bytes) -> Float64:
    return np.frombuffer(values, "<f4").astype(np.float64)


# --- secure tasks ------------------------------------------------------------------------------


class Secure:
    """A secure task's operator: keys for all its epochs, a roster for each."""

    def __init__(self, config: TaskConfig, settings: SecureConfig, names: Sequence[str]) -> None:
        self.given = settings.parameters(config, len(names), SIZE)
        self._epochs = {epoch: cohort(names, TASK, epoch=epoch) for epoch in (1, 2, 3)}
        first = self._epochs[1]
        self.enrolment = Enrolment(settings, first.aggregator, first.enrolment, (self.roster(1),))

    def roster(self, epoch: int) -> SignedRoster:
        """Return the roster of an epoch, signed."""
        roster = replace(self._epochs[epoch].roster, parameters=self.given)
        return roster.signed(derive(SEED, "enrolment"))

    def keys(self, name: str) -> Keys:
        """Return what a device's keys file holds."""
        secrets = {
            str(epoch): each.epoch_secret(name).hex() for epoch, each in self._epochs.items()
        }
        return parse_keys(json.dumps({**self._epochs[1].keys[name], "epochs": secrets}))
