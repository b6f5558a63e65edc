"""Calibrated tasks: the aggregator's sum is that of what devices remember, whatever befalls them.

Plain to the precision of float32; with `seedmask` up to the noise of the sums since the epoch
began, each bounded by its scheme: nobody can tell that noise from what was sent. A new epoch begins
from nothing on both sides, and so without it.
"""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import pytest

from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from aggregator.task_config import StrategyConfig, TaskConfig
from protocol import refusals
from protocol.stream import derive
from protocol.topics import Kind
from simulator import World
from tests.simulation.caches import MODEL, SIZE, TASK, Caches, Float64, Pull, Secure
from transport import Message

pytestmark = pytest.mark.usefixtures("remembered_crypto")

NAMES = "abcdef"
SECURE_NAMES = "abcdefgh"
#: A training takes one of these; the last is too long for any version to wait for.
DURATIONS_S = (0.5, 1.0, 2.0, 4.0, 30.0)
NUM_UPDATES = 120
PATIENCE = 2_000
#: Of 32 disturbances up to this one are harmful.
POWER_CUTS = 16


def config(codec: str = "dense/float32", mode: str = "buffered") -> TaskConfig:
    return TaskConfig(
        task=TASK,
        model=MODEL,
        codec=codec,
        mode=mode,
        buffered=Buffered(goal=3, concurrency=6, max_wait_s=15.0, min_contributors=3),
        rounds=Rounds(size=4, over_selection=1.5, quorum=3, deadline_s=12.0, gather_s=2.0),
        strategy=StrategyConfig(name="calibrated"),
        weigh_by_samples=False,
        max_staleness=1 if mode == "buffered" else 0,
        lease_ttl_s=20,
        chunk_patience_s=3.0,
        check_in_s=6,
    )


class Trouble:
    """A world in which nothing works twice; the same ``seed`` gives the same one."""

    def __init__(
        self, config: TaskConfig, names: str, seed: bytes, secure: Secure | None = None
    ) -> None:
        self.names = names
        self.num_doubled = 0
        self._draws = _numbers(seed)
        enrolment = None if secure is None else secure.enrolment
        self.world = World(config, seed, enrolment=enrolment)
        self.caches = Caches(self.world, None if secure is None else secure.given)
        self.world.broker.route = self._route
        for name in names:
            self.world.add(
                name,
                Pull(name),
                lambda _assignment: DURATIONS_S[self._draw(len(DURATIONS_S))],
                storage=self.caches.storage(),
                retry_first_s=3.0,
                retry_cap_s=12.0,
                keys=None if secure is None else secure.keys(name),
            )

    def run(self, num_updates: int) -> None:
        """Let bad things happen until so many more updates are counted, then heal."""
        num_wanted = self.caches.num_counted + num_updates
        for _ in range(PATIENCE):
            self.world.run_for(0.1 * (1 + self._draw(40)))
            self.caches.check_devices()
            if self.caches.num_counted >= num_wanted:
                break
            self._disturb()
        else:
            pytest.fail(f"stuck at {self.caches.num_counted} updates")
        self.world.run_for(40.0)
        self.caches.check_devices()

    def _draw(self, bound: int) -> int:
        return next(self._draws) % bound

    def _route(self, _client: str, message: Message) -> Sequence[float]:
        """Some messages are lost, some come twice, the second long after the first."""
        fate = self._draw(64)
        if fate == 0:
            return ()
        if fate > 8:
            return (0.05,)
        self.num_doubled += self.world.topics.parse(message.topic).kind is Kind.UPDATE
        return (0.05, 0.1 + 4.0 * fate)

    def _disturb(self) -> None:
        device = self.world.devices[self.names[self._draw(len(self.names))]]
        match self._draw(32):
            case 0:
                self.world.server.lose_power(after=self._draw(9), down_s=1.0 + self._draw(5))
            case 1:
                self.world.server.store.fail_next(kept=bool(self._draw(2)))
            case 2 | 3 | 4:
                device.fail_next_write()
            case fault if fault < POWER_CUTS:
                device.lose_power(after=self._draw(9), down_s=1.0 + self._draw(10))


def _numbers(seed: bytes) -> Iterator[int]:
    for index in count():
        yield from derive(seed, "draws", index)


# --- in the open -------------------------------------------------------------------------------


def suffer(trouble: Trouble) -> Caches:
    """Let much go wrong, all the while each sum is that of all caches; return what was counted."""
    trouble.run(NUM_UPDATES)
    caches = trouble.caches
    assert len(caches.caches) == len(NAMES)
    assert trouble.num_doubled > 0
    assert caches.refused[refusals.TOO_STALE] > 0
    assert trouble.world.server.store.snapshot().totals["starts"] > 1
    return caches


@pytest.mark.parametrize(
    ("codec", "mode"),
    [
        ("dense/int8", "buffered"),
        ("topk-0.25/int8", "buffered"),
        ("randk-0.25/float32", "buffered"),
        ("dense/float32", "rounds"),
    ],
)
def test_the_sum_is_that_of_all_caches_whatever_befalls_them(codec: str, mode: str) -> None:
    suffer(Trouble(config(codec, mode), NAMES, derive(bytes(32), codec, mode)))


@pytest.mark.parametrize("after", range(24))
def test_power_may_go_between_any_two_writes(after: int) -> None:
    """Both of a device and of the aggregator, again and again."""
    trouble = Trouble(config(), NAMES, derive(bytes(32), "power", after))
    for _ in range(2):
        trouble.world.devices["a"].lose_power(after=after, down_s=2.0)
        trouble.world.server.lose_power(after=after, down_s=2.0)
        trouble.world.run_for(30.0)
        trouble.caches.check_devices()
    assert trouble.caches.num_counted > len(NAMES)


def test_in_every_disturbance_versions_are_those_of_the_textbook() -> None:
    """CA2FL as published, with all caches at the server, on the same arrivals."""
    trouble = Trouble(config(), NAMES, derive(bytes(32), "textbook"))
    first = trouble.world.server.store.params(0)
    assert first is not None
    caches = suffer(trouble)
    textbook = Textbook(np.frombuffer(first, "<f4").astype(np.float64))
    for record in caches.versions:
        textbook.step([(caches.devices[id_], caches.bases[id_]) for id_ in record.counted])
        params = np.frombuffer(record.params, "<f4")
        assert np.abs(params - textbook.versions[-1]).max() <= 1e-6


class Textbook:
    """Algorithm 1 of CA2FL; N are the devices that were counted before.

    A device's first update takes nothing of what is known.
    """

    def __init__(self, params: Float64) -> None:
        self.versions = [params]
        self._cached: dict[str, Float64] = {}

    def step(self, buffer: list[tuple[str, int]]) -> None:
        """``buffer`` has the devices and the versions that they trained from."""
        known = np.mean(list(self._cached.values()), axis=0) if self._cached else np.zeros(SIZE)
        known = known * (sum(device in self._cached for device, _ in buffer) / len(buffer))
        differences = np.zeros(SIZE)
        for device, base in buffer:
            delta = Pull(device).delta(self.versions[base])
            differences += delta - self._cached.get(device, np.zeros(SIZE))
            self._cached[device] = delta
        self.versions.append(self.versions[-1] + known + differences / len(buffer))


# --- masked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "support", "clip", "num_updates"),
    [
        ("seedmask", "randk-0.25", 2.0, 12),
        ("lightsecagg", "plan-0.25", 2.0, 12),
        ("lightsecagg", "dense", 0.1, 12),
        pytest.param("seedmask", "dense", 2.0, 30, marks=pytest.mark.slow),
        pytest.param("seedmask", "plan-0.25", 2.0, 30, marks=pytest.mark.slow),
    ],
)
def test_masked_too_up_to_the_noise_that_the_next_epoch_is_free_of(
    scheme: str, support: str, clip: float, num_updates: int
) -> None:
    task = config()
    settings = SecureConfig(
        scheme=scheme, support=support, support_every=2, bits=20, clip=clip, spare_wait_s=1.0
    )
    secure = Secure(task, settings, SECURE_NAMES)
    trouble = Trouble(task, SECURE_NAMES, derive(bytes(32), scheme, support), secure)
    trouble.run(num_updates)
    assert len(trouble.caches.epochs) == 1
    trouble.world.server.lay_down(secure.roster(2))
    trouble.run(num_updates)
    assert len(trouble.caches.epochs) == 2
    assert trouble.caches.slack < 0.01


def test_in_rounds_of_pairwise_too() -> None:
    task = config(mode="rounds")
    secure = Secure(task, SecureConfig(scheme="pairwise", noise=2, answers=3), "abcd")
    trouble = Trouble(task, "abcd", derive(bytes(32), "pairwise"), secure)
    trouble.world.run_for(600.0)
    assert trouble.caches.num_counted > 20
    trouble.caches.check_devices()
