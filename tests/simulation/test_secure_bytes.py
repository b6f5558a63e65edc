"""What is in the bytes of a secure history: nothing that tells of one device's update.

N, t, T, U = 6, 1, 3, 4 throughout.
"""

from collections.abc import Collection, Iterable

import msgpack
import numpy as np
import pytest

from device_sdk.dealing import Mask
from device_sdk.holding import SHARE
from protocol.secagg import scheme
from protocol.secagg.field import Elements, to_bytes
from protocol.secagg.fixedpoint import unpack
from protocol.stream import derive
from tests.simulation.history import AdvanceTime, Join, RestartAggregator, RestartDevice
from tests.simulation.secure_generate import NAMES
from tests.simulation.secure_history import (
    NextRoster,
    Numbers,
    SecureHistory,
    SecureOperation,
)
from tests.simulation.secure_play import SecurePlayer
from tests.simulation.secure_training import num_samples

#: Chi-square with 7 degrees of freedom is above this once in ten million times.
NUM_BINS = 8
HIGHEST = 45.0


def history(name: str) -> SecureHistory:
    """Two epochs, in which devices and the aggregator lose power."""
    operations: tuple[SecureOperation, ...] = (
        *(Join(each) for each in NAMES[:6]),
        AdvanceTime(20.0),
        *(RestartDevice("b", 3, 1.0), RestartAggregator(5, 2.0), RestartDevice("d", 9, 0.5)),
        *(AdvanceTime(60.0), NextRoster(), AdvanceTime(60.0)),
    )
    return SecureHistory(
        seed=1,
        mode="buffered",
        scheme=name,
        support="dense",
        weighted=False,
        numbers=Numbers(6, 1, 3, 4),
        packet_bytes=1 << 16,
        valid_s=100_000,
        operations=operations,
    )


class Witness:
    """Knows every mask that was ever at hand, all that was stored, and all that was sent."""

    def __init__(self, player: SecurePlayer) -> None:
        self.masks: dict[bytes, Mask] = {}
        self.stored: set[bytes] = set()
        self.sent: set[bytes] = set()
        self.player = player
        self._published = player.world.broker.watch
        player.world.broker.watch = self._watch
        player.run()

    def _watch(self, topic: str, payload: bytes) -> None:
        self._published(topic, payload)
        self.sent.add(payload)
        for device in self.player.world.devices.values():
            self.stored.update(device.storage.values())
            member = None if device.session is None else device.session._member
            seat = None if member is None else member._membership.seat
            if seat is not None:
                self.masks |= {mask.seed: mask for mask in seat.dealer._stock}


@pytest.fixture(scope="module", params=["seedmask", "lightsecagg"])
def witness(request: pytest.FixtureRequest) -> Witness:
    return Witness(SecurePlayer(history(request.param)))


def test_secrets_and_their_seeds_are_never_stored_or_sent(witness: Witness) -> None:
    """Restoring an old copy of a storage can so never use a secret twice."""
    player = witness.player
    assert len(witness.masks) > 30
    needles = _needles(player, witness.masks.values())
    assert not _found(needles, b"".join(witness.stored))
    assert not _found(needles, b"".join(witness.sent))
    shares = [msgpack.unpackb(data)[-1] for data in _shares(player)]
    assert len(shares) > 30
    assert _found([share[:32] for share in shares], b"".join(witness.stored))
    assert not _found([share[:32] for share in shares], b"".join(witness.sent))


def _needles(player: SecurePlayer, masks: Iterable[Mask]) -> list[bytes]:
    """Return seeds and secrets as they might be written down.

    In lightsecagg the secret is the mask itself: where the values are 0, that is what is sent.
    """
    given = player.operator.newest.parameters
    needles = []
    for mask in masks:
        seeds = [derive(mask.seed, purpose) for purpose in ("secret", "dealing", "noise")]
        secret = scheme(given.scheme).secret(given, seeds[0])
        assert np.array_equal(secret, mask.secret(player.operator.newest))
        needles += [mask.seed, *seeds, mask.noise_seed(), secret.tobytes()[:64]]
        if given.scheme == "seedmask":
            needles += [to_bytes(secret, given.modulus)[:32], secret.astype("<i2").tobytes()[:32]]
    return needles


def _found(needles: Collection[bytes], hay: bytes) -> list[bytes]:
    return [needle for needle in needles if needle in hay]


def _shares(player: SecurePlayer) -> list[bytes]:
    return [
        data
        for storage in player.audit.storages.values()
        for key, data in storage.items()
        if key.startswith(SHARE)
    ]


def test_masked_values_are_uniform_where_the_plain_ones_are_not(witness: Witness) -> None:
    """Chi-square over everything sent, and over what is never zero in the plain updates.

    The plain values, by the same measure, are anything but uniform.
    """
    player = witness.player
    given = player.operator.newest.parameters
    highest = (given.modulus - 1) >> given.shift
    everything, moved, plain = [], [], []
    for update in player.audit.plaintexts.updates.values():
        elements = unpack(update.masked.body, given.width, given.size)
        everything.append(elements)
        moved.append(elements[[update.coordinate, given.size - 1]])
        values = update.wanted.astype(np.float32)
        plain.append(given.encode(values, num_samples(update.device))[0] % given.modulus)
    assert _chi_square(np.concatenate(everything), highest) < HIGHEST
    assert _chi_square(np.concatenate(moved), highest) < HIGHEST
    assert _chi_square(np.concatenate(plain), given.modulus - 1) > 100 * HIGHEST


def _chi_square(elements: Elements, highest: int) -> float:
    """How far from uniform in 0..``highest`` elements are."""
    bins = np.bincount(elements * NUM_BINS // (highest + 1), minlength=NUM_BINS)
    expected = elements.size / NUM_BINS
    return float(((bins - expected) ** 2 / expected).sum())
