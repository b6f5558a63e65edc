"""What the devices of a secure history know and nobody else: the plaintext of every update."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from device_sdk.pending import PENDING, RESIDUAL, Pending, unpack_pending, unpack_residual
from protocol.codec import unpack
from protocol.secagg import scheme
from protocol.secagg.common import coordinates, read_named
from protocol.secagg.messages import MaskedUpdate
from protocol.secagg.parameters import Parameters
from protocol.vectors.packing import DENSE, RANDK, CodecSpec
from protocol.vectors.sparse import Indices, decode_indices
from tests.simulation.secure_training import Trainings, num_samples
from tests.simulation.training import SIZE, Float64

#: Sums of a few float32 numbers of about 1.
TOLERANCE: Final = 2e-5
#: The same, and the rounding of many versions.
ROUNDED: Final = 5e-3

Storage = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """An update as its device alone knows it: what it wanted to send, and under which mask.

    ``staleness`` counts the versions that the device had heard of since its base.
    """

    device: str
    pending: Pending
    masked: MaskedUpdate
    coordinate: int
    wanted: Float64
    staleness: int


class Plaintexts:
    """All updates that were ever stored, by their bytes. ``named`` has the supports by number.

    Devices in ``malicious`` may train twice for one lease.
    """

    def __init__(self, task: str, codec: CodecSpec, trainings: Trainings) -> None:
        self.malicious: frozenset[str] = frozenset()
        self.updates: dict[bytes, Plain] = {}
        self.named: dict[int, bytes] = {}
        self.codec = codec
        self._task = task
        self._trainings = trainings
        self._by_lease: dict[bytes, bytes] = {}
        self._by_mask: dict[tuple[bytes, str, int], bytes] = {}

    def stored(self, device: str, storage: Storage, pending: Pending, newest: int) -> None:
        """One training result is masked once, and one mask is used for one update."""
        update, masked = pending.update, unpack(pending.update, MaskedUpdate)
        first = self._by_lease.setdefault(pending.lease_id, update)
        assert first == update or device in self.malicious, "masked twice"
        mask = (masked.roster_hash, device, masked.counter)
        assert self._by_mask.setdefault(mask, update) == update, "two updates under one mask"
        if update in self.updates:
            return
        coordinate = self._trainings.newest[device]
        wanted = np.zeros(SIZE)
        wanted[coordinate] = 1.0
        if self.codec.contractive and RESIDUAL in storage:
            wanted += _vector(unpack_residual(storage[RESIDUAL]).values)
        late = max(0, newest - pending.base_version)
        self.updates[update] = Plain(device, pending, masked, coordinate, wanted, late)

    def mean(self, plains: Sequence[Plain], given: Parameters) -> tuple[Float64, float]:
        """Return the mean delta of some updates of one support, and how far off it may be.

        The bound is the scheme's noise and half a unit of rounding a device.
        """
        support, factor = self._coordinates(plains[0].masked.support)
        wanted = np.zeros(SIZE)
        for plain in plains:
            wanted[support] += self.part(plain, given) * plain.wanted[support]
        factor /= sum(self.part(plain, given) for plain in plains)
        noise = scheme(given.scheme).noise_bound(given, len(plains)) + 0.5 * len(plains)
        return wanted * factor, noise * factor / given.scale + TOLERANCE

    def part(self, plain: Plain, given: Parameters) -> float:
        """Return the weight of an update, at most 1."""
        return given.level(num_samples(plain.device), plain.staleness) / given.levels

    def _coordinates(self, number: int) -> tuple[Indices, float]:
        """Return where the values of a support belong, and what they are multiplied with."""
        if self.codec.support == DENSE:
            return np.arange(SIZE), 1.0
        kept = self.codec.num_kept(SIZE)
        named = read_named(self.named.get(number, b""), SIZE, kept)
        factor = SIZE / kept if self.codec.support == RANDK else 1.0
        return coordinates(self._task, number, named, SIZE, kept), factor

    def check_conservation(
        self, counted: Mapping[bytes, Plain], storages: Iterable[Storage]
    ) -> None:
        """Each delta that was ever stored was counted, or is still on its device, and once."""
        found = np.zeros(SIZE)
        for plain in counted.values():
            found += _sent(plain.pending)
        for storage in storages:
            found += self._kept(storage, counted)
        trained = np.zeros(SIZE)
        trained[[plain.coordinate for plain in self.updates.values()]] = 1.0
        np.testing.assert_allclose(found, trained, atol=ROUNDED)

    def _kept(self, storage: Storage, counted: Mapping[bytes, Plain]) -> Float64:
        """What a device has trained that is not in the model."""
        residual = unpack_residual(storage[RESIDUAL]) if RESIDUAL in storage else None
        pending = unpack_pending(storage[PENDING]) if PENDING in storage else None
        if pending is None or (residual and residual.lease_id == pending.lease_id):
            return _vector(residual.values) if residual else np.zeros(SIZE)
        unsent = _vector(pending.residual)
        return unsent if pending.lease_id in counted else unsent + _sent(pending)


def _sent(pending: Pending) -> Float64:
    sent = np.zeros(SIZE)
    values = np.frombuffer(pending.sent, "<f4")
    sent[decode_indices(pending.indices, SIZE, values.size)] = values
    return sent


def _vector(values: bytes) -> Float64:
    return np.frombuffer(values, "<f4").astype(np.float64) if values else np.zeros(SIZE)
