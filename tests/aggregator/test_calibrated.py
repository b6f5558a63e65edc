"""Calibrated buffers: a cache on each device is as good as all caches at the server."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from aggregator.robust.config import RobustConfig
from aggregator.scheduling.buffered import Buffered
from aggregator.task_config import StalenessConfig, StrategyConfig
from protocol.codec import decode
from protocol.errors import ConfigError
from protocol.messages import AGGREGATOR, Lease, Manifest
from tests.aggregator.conftest import MakeDesk, MakeSecure
from tests.support.desk import Desk, Vector, task_config
from tests.support.secure_desk import NAMES, SecureDesk

SIZE = 6
CALIBRATED = StrategyConfig(name="calibrated")
FOUR = ("a", "b", "c", "d")


class Textbook:
    """CA2FL with the caches at the server (Wang et al. 2024, Algorithm 1), devices seen so far.

    A device's first update is no difference, and takes nothing of what is known.
    """

    def __init__(self) -> None:
        self.caches: dict[str, npt.NDArray[np.float64]] = {}

    def step(self, deltas: Sequence[tuple[str, Vector]]) -> npt.NDArray[np.float64]:
        """Return what a buffer of (device, delta) adds to the params."""
        known = sum(self.caches.values(), np.zeros(SIZE)) / max(1, len(self.caches))
        known *= sum(device in self.caches for device, _ in deltas) / len(deltas)
        change = np.zeros(SIZE)
        for device, delta in deltas:
            before = self.caches.get(device, np.zeros(SIZE))
            change += delta.astype(np.float64) - before
            self.caches[device] = delta.astype(np.float64)
        return np.asarray(known + change / len(deltas))


@dataclass
class PlayedDevice:
    """What a device remembers: its last counted delta, and the update that is under way.

    ``delta`` is that of the update if it was sent, then it is kept until the receipt.
    """

    cache: Vector = field(default_factory=lambda: np.zeros(SIZE, np.float32))
    lease: Lease | None = None
    delta: Vector | None = None


class Fleet:
    """Devices that train, lose results, send twice, and commit when they see a receipt."""

    def __init__(self, desk: Desk, names: Sequence[str], seed: int) -> None:
        self.desk = desk
        self.devices = {name: PlayedDevice() for name in names}
        self.textbook = Textbook()
        self._draw = np.random.default_rng(seed)
        self._names = list(names)
        self._version = 0

    def turn(self) -> None:
        """Something happens to some device; fast ones come first more often."""
        place = min(self._draw.integers(len(self._names), size=2))
        name = self._names[place]
        device = self.devices[name]
        chance = self._draw.random()
        if device.lease is None:
            self.desk.check_in(name)
            found = self.desk.last(name)
            if isinstance(found, Lease):
                device.lease = found
        elif chance < 0.15 and device.delta is None:
            device.lease = None  # the power went: what was trained is lost
            self.desk.wait(31)
        else:
            self._report(name, device, place)
        if chance > 0.99:
            self.desk.restart()
        self._see_receipts()

    def _report(self, name: str, device: PlayedDevice, place: int) -> None:
        lease = device.lease
        assert lease is not None
        if device.delta is None:
            device.delta = self._draw.uniform(-0.1, 0.1, SIZE).astype(np.float32)
            device.delta[place % SIZE] += 0.3  # devices differ
        for _ in range(int(self._draw.integers(1, 4))):  # at least once
            self.desk.send(name, lease, list(device.delta - device.cache))

    def _see_receipts(self) -> None:
        topic = self.desk.coordinator.topics.manifest()
        payload = self.desk.retained[topic]
        manifest = decode(payload, (Manifest,), task="t", sender=AGGREGATOR)
        if manifest.version == self._version:
            return
        assert manifest.version == self._version + 1
        self._version = manifest.version
        holders = {d.lease.lease_id: n for n, d in self.devices.items() if d.lease is not None}
        counted = [holders[lease_id] for lease_id in manifest.counted]
        deltas = [(name, self._commit(self.devices[name])) for name in counted]
        np.testing.assert_allclose(self._step(), self.textbook.step(deltas), atol=1e-6)

    def _commit(self, device: PlayedDevice) -> Vector:
        """A device sees its receipt; return its delta."""
        assert device.delta is not None
        device.cache, device.lease, device.delta = device.delta, None, None
        return device.cache

    def _step(self) -> npt.NDArray[np.float64]:
        before = self.desk.store.params(self._version - 1)
        assert before is not None
        old = np.frombuffer(before, "<f4").astype(np.float64)
        return np.asarray(self.desk.params.astype(np.float64) - old)


@pytest.mark.slow
def test_it_is_the_textbook_rule_over_200_steps_with_losses_and_redeliveries(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(
        strategy=CALIBRATED, buffered=Buffered(goal=4), lease_ttl_s=30, max_staleness=1_000
    )
    names = [f"d{number}" for number in range(10)]
    fleet = Fleet(desk, names, seed=1)
    while desk.coordinator.version < 200:
        fleet.turn()
    caches = np.sum([device.cache for device in fleet.devices.values()], axis=0)
    state = desk.coordinator.versions._state
    np.testing.assert_allclose(state["sum"], caches, atol=1e-5)
    np.testing.assert_allclose(state["sum"] / 10, caches / 10, atol=1e-6)
    assert state["num_devices"] == 10
    assert desk.coordinator.counts["starts"] > 3


def test_with_every_device_in_every_buffer_it_is_fedavg(make_desk: MakeDesk) -> None:
    desks = [
        make_desk(
            buffered=Buffered(goal=4),
            strategy=StrategyConfig(name=name),
            robust=RobustConfig(rule="mean"),
        )
        for name in ("calibrated", "fedavg")
    ]
    caches = {name: np.zeros(SIZE, np.float32) for name in FOUR}
    deltas = np.random.default_rng(2).uniform(-1, 1, (5, 4, SIZE)).astype(np.float32)
    for several in deltas:
        for desk in desks:
            leases = {name: desk.lease(name) for name in FOUR}
            for name, delta in zip(FOUR, several, strict=True):
                sent = delta - caches[name] if desk is desks[0] else delta
                desk.send(name, leases[name], list(sent))
        caches = dict(zip(FOUR, several, strict=True))
    np.testing.assert_allclose(desks[0].params, desks[1].params, atol=1e-6)


def test_who_has_contributed_is_known_after_a_restart(make_desk: MakeDesk) -> None:
    steps = []
    for restarts in (False, True):
        desk = make_desk(strategy=CALIBRATED, buffered=Buffered(goal=2))
        for pair in ("ab", "cd", "ac", "bd"):
            for name in pair:
                desk.send(name, desk.lease(name), [0.1 * ord(name)] * SIZE)
            if restarts:
                desk.restart()
        steps.append(desk.params.tobytes())
    assert steps[0] == steps[1]


def test_leases_name_the_calibrated_codec(make_desk: MakeDesk) -> None:
    assert make_desk(strategy=CALIBRATED).lease("a").codec == "dense/float32/calibrated"


def test_stale_updates_weigh_as_much_as_fresh_ones(make_desk: MakeDesk) -> None:
    """Their differences are to what was counted, whenever that was."""
    desk = make_desk(strategy=CALIBRATED, buffered=Buffered(goal=1))
    slow = desk.lease("slow")
    desk.send("a", desk.lease("a"), [0.0] * SIZE)
    before = desk.params.copy()
    desk.send("slow", slow, [1.0] * SIZE)
    np.testing.assert_allclose(desk.params - before, 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"weigh_by_samples": True},
        {"staleness": StalenessConfig(rule="polynomial")},
        {"staleness": StalenessConfig(rule="hinge")},
    ],
)
def test_weights_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="right for a plain sum only"):
        task_config(strategy=CALIBRATED, **settings)


# --- masked ------------------------------------------------------------------------------------


def masked_version(desk: SecureDesk, differences: dict[str, Vector]) -> Vector:
    """Let four devices send differences; return the step that follows."""
    before = desk.desk.params.copy()
    leases = {name: desk.lease(name) for name in differences}
    for name, difference in differences.items():
        desk.send(name, leases[name], difference)
    desk.answer(*NAMES)
    return np.asarray(desk.desk.params - before)


def deltas_of(seed: int, names: Sequence[str] = FOUR) -> dict[str, Vector]:
    drawn = np.random.default_rng(seed).uniform(-0.3, 0.3, (len(names), SIZE)).astype(np.float32)
    return dict(zip(names, drawn, strict=True))


def test_masked_differences_make_the_same_steps(make_secure: MakeSecure) -> None:
    desk = make_secure(strategy=CALIBRATED)
    desk.stock_up(4)
    textbook, caches = Textbook(), {name: np.zeros(SIZE, np.float32) for name in NAMES}
    for turn, names in enumerate((FOUR, ("c", "d", "e", "f"), FOUR)):
        deltas = deltas_of(turn, names)
        sent = {name: deltas[name] - caches[name] for name in names}
        expected = textbook.step(list(deltas.items()))
        np.testing.assert_allclose(masked_version(desk, sent), expected, atol=4 * desk.tolerance(4))
        caches |= deltas
        desk.come_back()


@pytest.mark.parametrize("restarts", [False, True])
def test_a_new_epoch_forgets_what_was_counted_in_the_last(
    make_secure: MakeSecure, *, restarts: bool
) -> None:
    """Its devices begin anew. The last sum of the old epoch still belongs to that."""
    desk = make_secure(strategy=CALIBRATED)
    desk.stock_up()
    masked_version(desk, deltas_of(1))
    leases = {name: desk.lease(name) for name in FOUR}
    for name, difference in deltas_of(2).items():
        desk.send(name, leases[name], difference)
    following = desk.next_roster()
    desk.roster(following.signed)
    desk.answer(*NAMES)
    assert desk.version == 2
    assert desk.secure.cohorts.epochs == "all=2"
    if restarts:
        desk.restart()
    desk.move_to(following)
    desk.stock_up()
    deltas = deltas_of(3)
    expected = np.mean(list(deltas.values()), axis=0)
    np.testing.assert_allclose(masked_version(desk, deltas), expected, atol=4 * desk.tolerance(4))
    assert desk.coordinator.versions._state["num_devices"] == 4
