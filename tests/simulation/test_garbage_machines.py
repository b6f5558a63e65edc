"""Whatever arrives, on whatever topic, in whatever state: nothing crashes, the model stays.

A world is brought into a state and stopped there; then garbage goes straight to the coordinator or
the session. A mutation that happens to be a sound update of an open lease is none, and left out.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pytest

from aggregator.actions import Action, Recall, Store
from aggregator.coordinator import Coordinator
from device_sdk.actions import Train
from device_sdk.session import Session
from device_sdk.states import State
from protocol.chunks import checksum
from protocol.codec import decode, encode, encode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import (
    AGGREGATOR,
    CheckIn,
    ChunksMissing,
    Held,
    Lease,
    Manifest,
    ModelChunk,
    Plan,
    Receipt,
    Refusal,
    Update,
    UpdateChunk,
)
from protocol.secagg.messages import AnyMessage as Message
from simulator import World
from tests.simulation.garbage import Garbage
from tests.simulation.history import History, Join
from tests.simulation.play import Player
from tests.simulation.training import SIZE

NUM_PAYLOADS = 60_000
NUM_QUICK = 4_000
#: So many payloads meet one machine before it is brought into its state afresh.
ROUND = 400
NAN_BODY = b"\0\0\xc0\x7f" * SIZE

Settled = Callable[[World], bool]


def coordinator_of(world: World) -> Coordinator:
    assert world.server.coordinator is not None
    return world.server.coordinator


SERVER_STATES: dict[str, Settled] = {
    "idle": lambda _world: True,
    "leased": lambda world: coordinator_of(world).leases.num_active > 0,
    "partial update": lambda world: len(coordinator_of(world).partials) > 0,
    "buffer nearly full": lambda world: len(coordinator_of(world).buffers) == 2,
    "just stepped": lambda world: coordinator_of(world).version == 2,
}


def session_of(world: World) -> Session:
    session = world.devices["a"].session
    assert session is not None
    return session


def is_in(state: State, world: World) -> bool:
    return session_of(world).state is state


SESSION_STATES: dict[str, Settled] = {
    "idle": partial(is_in, State.IDLE),
    "fetching": partial(is_in, State.FETCHING),
    "training": partial(is_in, State.TRAINING),
    "reporting": partial(is_in, State.REPORTING),
    "served": lambda world: session_of(world).counts["receipts"] > 0,
}


def stopped(mode: str, condition: Settled, seed: int) -> World:
    """Return a world of three devices in which the condition has just come true.

    Messages take different times, so that chunks come one by one.
    """
    history = History(seed, mode, "dense/float32", 1024, (Join("a"), Join("b"), Join("c")))
    player = Player(history)
    player.world.broker.route = lambda _name, message: [0.05 + 0.03 * (message.token % 7)]
    for operation in history.operations:
        player.perform(operation)
    world = player.world
    plan = world.topics.plan()
    reached = world.run_until(lambda: plan in world.broker.retained and condition(world), 400.0)
    assert reached, (mode, seed)
    return world


def sealed(messages: Sequence[Message], sender: str) -> list[bytes]:
    return [encode(each, task="sim", sender=sender, counter=1 << 39) for each in messages]


def check_round(
    seed: int, num_payloads: int, one: Callable[[bytes], None], honest: Garbage
) -> None:
    for number in range(num_payloads):
        payload = honest.payload()
        try:
            one(payload)
        except Exception as error:  # noqa: BLE001 - this is what must not happen
            pytest.fail(f"seed {seed}, number {number}: {error!r} from {payload!r}")


# --- the aggregator --------------------------------------------------------------------------


class Attacked:
    """A coordinator that garbage is thrown at, with the store that its answers go to."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.coordinator = coordinator_of(world)
        self.now = world.now
        self.leases = {lease.lease_id: lease.record for lease in self.coordinator.leases}
        self.garbage = Garbage(seed, self.honest())
        topics = self.coordinator.topics
        self.topics = [
            *(make(name) for name in "abz" for make in (topics.out, topics.state, topics.info)),
            *(topics.update(0, name) for name in "abz"),
            *(topics.plan(), topics.manifest(), topics.into("a"), "fedbus/1/other/plan", "x"),
        ]

    def honest(self) -> list[bytes]:
        """Sound messages, and updates of open leases that are wrong in one way each."""
        ids = [*self.leases, bytes(16)]
        found: list[bytes] = []
        for lease_id in ids:
            record = self.leases.get(lease_id)
            name = record.device if record else "a"
            found += sealed([CheckIn(bytes(16), -1, 5, ("dense",), lease_id)], name)
            updates = [
                Update(99, "dense/float32", 1, bytes(4 * SIZE)),
                Update(0, "topk-0.1/int8", 1, b"\1" * 40),
                Update(0, "dense/float32", 1, bytes(8)),
                Update(0, "dense/float32", 1, NAN_BODY),
            ]
            wrong = [encode_update(update) for update in updates] + [b"\xc1" * 50]
            found += sealed(
                [UpdateChunk(lease_id, checksum(data), 0, 1, data) for data in wrong], name
            )
            found += sealed([UpdateChunk(lease_id, 0, 7, 9000, b"x")], name)
        return found

    def throw(self, payload: bytes) -> None:
        topic = self.topics[self.garbage.below(len(self.topics))]
        if self.is_sound(topic, payload):
            return
        before = self.coordinator.versions.newest.params
        refused = self.num_refused()
        self.perform(self.coordinator.message(topic, payload, self.now))
        assert self.coordinator.versions.newest.params == before
        if not topic.endswith("/info") and not self.is_understood(topic, payload):
            assert self.num_refused() == refused + 1
        self.now += 0.01
        if self.garbage.below(20) == 0:
            self.perform(self.coordinator.timer(self.now))

    def perform(self, actions: Sequence[Action]) -> None:
        store = self.world.server.store
        store.commit([action.record for action in actions if isinstance(action, Store)])
        for action in actions:
            if isinstance(action, Recall):
                known = store.lease(action.lease_id)
                self.perform(self.coordinator.recalled(action.device, action.lease_id, known))

    def is_understood(self, topic: str, payload: bytes) -> bool:
        """Whether it is a message that may be sent to this topic, or a word for a state."""
        try:
            address = self.coordinator.topics.parse(topic)
            if topic.endswith("/state"):
                return payload[:16] in (b"", b"online", b"offline", b"sleeping")
            allowed = UpdateChunk if "/up/" in topic else CheckIn
            decode(payload, (allowed,), task="sim", sender=address.device)
        except RemoteProtocolError:
            return False
        return topic.endswith("/out") or "/up/" in topic

    def is_sound(self, topic: str, payload: bytes) -> bool:
        """Whether it may be part of an update that an honest device could have sent."""
        if "/up/" not in topic or not self.is_understood(topic, payload):
            return False
        device = self.coordinator.topics.parse(topic).device
        chunk = decode(payload, (UpdateChunk,), task="sim", sender=device)
        return chunk.lease_id in self.leases and len(chunk.data) > 4 * SIZE

    def num_refused(self) -> int:
        counts = self.coordinator.counts
        return sum(number for name, number in counts.items() if name.startswith("refused_"))


def attack_aggregator(seed: int, num_payloads: int) -> None:
    states = list(SERVER_STATES.items())
    for start in range(0, num_payloads, ROUND):
        turn = start // ROUND
        name, condition = states[turn % len(states)]
        mode = "rounds" if turn // len(states) % 2 else "buffered"
        attacked = Attacked(stopped(mode, condition, turn), seed * 10_000 + turn)
        check_round(seed * 10_000 + turn, ROUND, attacked.throw, attacked.garbage)
        assert attacked.num_refused() > 0, name


def test_garbage_neither_crashes_the_aggregator_nor_moves_the_model() -> None:
    attack_aggregator(0, NUM_QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_much_garbage_neither_crashes_the_aggregator_nor_moves_the_model(seed: int) -> None:
    attack_aggregator(seed, NUM_PAYLOADS // 6)


# --- the device ------------------------------------------------------------------------------


class Plagued:
    """A session that garbage is thrown at; what it asks to train is trained at once."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.device = world.devices["a"]
        self.session = session_of(world)
        self.now = world.now
        self.garbage = Garbage(seed, self.honest())
        topics = world.topics
        self.topics = [
            *(topics.into("a"), topics.into("a"), topics.plan(), topics.manifest()),
            *(topics.model(0, 0), topics.model(3, 9), topics.state("a"), topics.out("b"), "x"),
        ]

    def honest(self) -> list[bytes]:
        pending = self.session.pending
        held = bytes(16) if pending is None else pending.lease_id
        leases = [lease.lease_id for lease in coordinator_of(self.world).leases]
        plan = self.world.broker.retained[self.world.topics.plan()]
        manifest = self.world.broker.retained[self.world.topics.manifest()]
        install = self.device.install_id
        messages: list[Message] = [
            Lease(leases[0] if leases else held, install, 0, bytes(32), 96, 1, "?", 9, 0, 60),
            Lease(bytes(16), install, 0, bytes(32), 4 * SIZE, 20_000, "dense/int8", 1, 7, 60),
            *(ChunksMissing(held, (0, 19_999)), Held(held)),
            *(Receipt(bytes(16), 1), Refusal(held, "busy", ""), Refusal(b"", "busy", "", 1)),
            *(ModelChunk(0, 0, b"x" * 300), ModelChunk(0, 9, b"")),
            *(Plan("99", "{}", "?"), Plan('{"input": 4}', "[]", "?"), Plan("[[", "{}", "?")),
            Manifest(7, bytes(32), 1 << 30, 1, (bytes(16),)),
        ]
        return [*sealed(messages, AGGREGATOR), plan, manifest, b"offline"]

    def throw(self, payload: bytes) -> None:
        self.hear(self.topics[self.garbage.below(len(self.topics))], payload)

    def hear(self, topic: str, payload: bytes) -> None:
        actions = self.session.message(topic, payload, self.now)
        self.now += 0.01
        if self.garbage.below(10) == 0:
            self.now = max(self.now, min(self.session.timer_at, self.now + 100))
            actions += self.session.timer(self.now)
        for action in actions:
            if isinstance(action, Train):
                trained = self.device.train(action.assignment)
                if trained is not None:
                    self.session.trained(action.lease_id, trained, self.now)


def attack_device(seed: int, num_payloads: int) -> None:
    states = list(SESSION_STATES.items())
    for start in range(0, num_payloads, ROUND):
        turn = start // ROUND
        _, condition = states[turn % len(states)]
        plagued = Plagued(stopped("buffered", condition, turn), seed * 10_000 + turn)
        check_round(seed * 10_000 + turn, ROUND, plagued.throw, plagued.garbage)
        assert sum(plagued.session.counts.values()) > 0


def test_garbage_does_not_crash_a_device() -> None:
    attack_device(0, NUM_QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 7))
def test_much_garbage_does_not_crash_a_device(seed: int) -> None:
    attack_device(seed, NUM_PAYLOADS // 6)
