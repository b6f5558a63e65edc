"""What a real run on a real broker was told, simulated machines answer with the same bytes.

Of secure tasks, too: given the seeds and keys of the real machines, every message is the same to
the byte, its signature, its mask and its seal included.
"""

import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgpack
import numpy as np
import pytest

import aggregator.service
import device_sdk.device
import simulator.device
from aggregator.config import AggregatorConfig, IdentityConfig
from aggregator.coordinator import Coordinator
from aggregator.records import Standing, StandingRecord
from aggregator.scheduling.buffered import Buffered
from aggregator.scheduling.rounds import Rounds
from aggregator.secure_config import SecureConfig
from aggregator.service import Service
from aggregator.task_config import TaskConfig
from device_sdk.config import DeviceConfig, TelemetryConfig
from device_sdk.config import IdentityConfig as DeviceIdentity
from device_sdk.device import Device
from device_sdk.session import Session
from device_sdk.trainer import NumpyTrainer
from fedbus.enrolment import AGGREGATOR_KEY, ENROLMENT_PUBLIC, ROSTERS, enrol, enrol_plain
from fedbus.key_files import read_key
from protocol.codec import open_envelope, read
from protocol.errors import ConfigError, LocalProtocolError
from protocol.messages import UpdateChunk
from protocol.topics import Kind, Topics
from simulator import DryTrainer, MemoryStore, World
from simulator.enrolment import certify_all
from simulator.trace import Entry, read_recording, record, replay, write_recording
from tests.support.bus_client import BusClient
from tests.support.mosquitto import Mosquitto, broker
from tests.support.remade import Remade, remaking
from transport.config import BrokerConfig

__all__ = ["broker"]

NUM_DEVICES: Final = 3
NUM_VERSIONS: Final = 3
PATIENCE_S: Final = 30.0
CONFIG: Final = TaskConfig(
    task="real",
    model={
        "input": [8],
        "layers": [{"type": "dense", "units": 4}],
        "loss": "softmax_cross_entropy",
    },
    buffered=Buffered(goal=3, max_wait_s=1.0, min_contributors=3),
    check_in_s=1,
)
#: The others prove themselves, or are for people.
SIGNED: Final = {Kind.OUT, Kind.IN, Kind.UPDATE, Kind.PLAN, Kind.MANIFEST}
IN_ROUNDS: Final = replace(CONFIG, mode="rounds", rounds=Rounds(size=3, quorum=3, gather_s=0.2))


@dataclass(frozen=True, slots=True)
class Setup:
    """A task as its operator would set it: what hides an update, and what proves who sent it."""

    name: str
    scheme: str = "none"
    signed: bool = True
    task: TaskConfig = CONFIG

    def __str__(self) -> str:
        return self.name


OPEN: Final = Setup("open and unsigned", signed=False)
SEALED: Final = Setup("signed and sealed")
MASKED: Final = Setup("signed and masked", "seedmask")
SETUPS: Final = (OPEN, SEALED, MASKED, Setup("signed and in pairs", "pairwise", task=IN_ROUNDS))


class Federation:
    """The processes of one machine as threads of a test, and what they were made from."""

    def __init__(self, setup: Setup, folder: Path, port: int) -> None:
        self.setup = setup
        self.coordinators: list[Remade] = []
        self.sessions: list[Remade] = []
        self._folder = folder
        self._broker = BrokerConfig(port=port)
        self._names = [f"d{number}" for number in range(NUM_DEVICES)]
        self._secure = SecureConfig(scheme=setup.scheme, rosters=str(folder / ROSTERS))
        self._identity = IdentityConfig(required=setup.signed)
        if setup.signed:
            self._enrol()

    def _enrol(self) -> None:
        operator = self._folder / "operator"
        task = self.setup.task
        if self._secure.enabled:
            parameters = self._secure.parameters(task, NUM_DEVICES, task.trained().layout.size)
            enrol(operator, parameters, task.task, self._names)
            self._secure = replace(self._secure, rosters=str(operator / ROSTERS))
        else:
            enrol_plain(operator, task.task, self._names)
        public = read_key(operator / ENROLMENT_PUBLIC).hex()
        key_file = str(operator / AGGREGATOR_KEY)
        self._identity = IdentityConfig(key_file=key_file, enrolment_key=public)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let all take part."""
        config = AggregatorConfig(
            state_dir=str(self._folder / "aggregator"),
            task=self.setup.task,
            broker=self._broker,
            secure=self._secure,
            identity=self._identity,
        )
        with pytest.MonkeyPatch.context() as patch:
            make = remaking(Coordinator, self.coordinators)
            patch.setattr(aggregator.service, "Coordinator", make)
            patch.setattr(device_sdk.device, "Session", remaking(Session, self.sessions))
            devices = [self._device(number) for number in range(NUM_DEVICES)]
            with in_threads(Service(config), *devices):
                yield

    def _device(self, number: int) -> Device:
        name, rng = self._names[number], np.random.default_rng(number)
        keys = self._folder / "operator" / "devices" / f"{name}.json"
        config = DeviceConfig(
            task=self.setup.task.task,
            device=name,
            state_dir=str(self._folder / name),
            broker=self._broker,
            telemetry=TelemetryConfig(interval_s=0),
            identity=DeviceIdentity(keys=str(keys) if self.setup.signed else ""),
        )
        x = rng.standard_normal((20, 8)).astype(np.float32)
        return Device(config, NumpyTrainer(data=(x, rng.integers(0, 4, 20))))

    def num_trained(self) -> int:
        """Return how often anybody has trained."""
        return sum(entry.what == "trained" for each in self.sessions for entry in each.entries)


@contextmanager
def in_threads(*shells: Service | Device) -> Iterator[None]:
    threads = [threading.Thread(target=shell.run) for shell in shells]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for shell in reversed(shells):  # the devices before the aggregator
            shell.stop()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.mark.broker
@pytest.mark.parametrize("setup", SETUPS, ids=str)
def test_what_a_real_run_was_told_is_answered_with_the_same_bytes_in_a_simulation(
    broker: Mosquitto, tmp_path: Path, setup: Setup
) -> None:
    federation = Federation(setup, tmp_path, broker.port)
    with BusClient(broker.port, "watcher", "fedbus/1/real/#") as watcher:
        with federation.running():
            goal = NUM_DEVICES * NUM_VERSIONS
            watcher.until(lambda: federation.num_trained() > goal, "trainings")
        watcher.settle()
        on_the_bus = {each for each in watcher.messages if "/mon/" not in each[0]}

    assert [len(federation.sessions), len(federation.coordinators)] == [NUM_DEVICES, 1]
    told: set[tuple[str, bytes]] = set()
    for each in federation.sessions:
        told |= replayed(each, each.session(), tmp_path)
    (real,) = federation.coordinators
    coordinator, store = real.coordinator()
    told |= replayed(real, coordinator, tmp_path, store)
    assert told == on_the_bus
    assert len(store.counted_ids()) >= NUM_DEVICES * (NUM_VERSIONS - 1)
    if setup.signed:
        signed = [payload for topic, payload in told if kind_of(topic) in SIGNED]
        assert all(open_envelope(payload).signature for payload in signed)
    assert (Kind.SHARE in {kind_of(topic) for topic, _ in told}) == (setup.scheme == "seedmask")
    chunks = {payload for topic, payload in told if kind_of(topic) is Kind.UPDATE}
    assert {is_sealed(payload) for payload in chunks} == {setup is SEALED}


def replayed(
    real: Remade, machine: object, folder: Path, store: MemoryStore | None = None
) -> set[tuple[str, bytes]]:
    """Tell a machine what the real one was told, by way of a file; return what both sent."""
    path = folder / "recording"
    write_recording(path, real.entries)
    assert real.seed not in path.read_bytes()
    found = replay(machine, read_recording(path), store)
    assert found == real.said
    return sent(real.entries)


def sent(entries: Sequence[Entry]) -> set[tuple[str, bytes]]:
    """Return what left: of what is retained and said before there is a connection, the last."""
    connected = next(at for at, entry in enumerate(entries) if entry.what == "connected")
    later = {entry.topic for entry in entries[connected:] if entry.is_out}
    early = [entry for entry in entries[:connected] if entry.topic not in later]
    return {
        (entry.topic, entry.payload) for entry in [*early, *entries[connected:]] if entry.is_out
    }


def kind_of(topic: str) -> Kind:
    return Topics("fedbus/1", CONFIG.task).parse(topic).kind


def is_sealed(chunk: bytes) -> bool:
    envelope = open_envelope(chunk)
    return bool(read(envelope, (UpdateChunk,), task=CONFIG.task, sender=envelope.sender).sealed)


def test_a_simulated_session_is_recorded_and_replayed_alike() -> None:
    """And without its message at one time, or from another seed, it says something else."""
    kept: list[Remade] = []
    trust, keys = certify_all(CONFIG.task, ["d"], bytes(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator.device, "Session", remaking(Session, kept))
        config = replace(CONFIG, buffered=Buffered(goal=1))
        world = World(config, bytes(32), trust=trust)
        world.add("d", DryTrainer(), lambda _: 1.0, keys=keys["d"])
        world.run_for(20.0)
    (real,) = kept
    assert len(real.said) > 10
    assert replay(real.session(), real.entries) == real.said
    assert replay(real.session(seed=bytes(32)), real.entries) != real.said
    without = [entry for entry in real.entries if entry.topic != world.topics.into("d")]
    assert replay(real.session(), without) != real.said


def test_a_device_with_keys_is_recorded_only_by_who_says_that_it_is_exposed() -> None:
    trust, keys = certify_all(CONFIG.task, ["d"], bytes(32))
    world = World(CONFIG, bytes(32), trust=trust)
    device = world.add("d", DryTrainer(), lambda _: 1.0, keys=keys["d"])
    with pytest.raises(LocalProtocolError, match="exposed=True"):
        record(device.session, [])


def test_a_recording_is_its_owners_alone_and_keeps_what_an_operator_did(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.touch(0o644)
    standing = StandingRecord("d", Standing.QUARANTINED, "by the operator", is_cut=True)
    decreed = Entry(1.0, "decreed", {"standings": [standing]})
    write_recording(path, [decreed])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_recording(path) == [decreed]


@pytest.mark.parametrize("data", [b"", b"\x00", msgpack.packb(["fedbus trace", 1, []])[:-1]])
def test_what_is_no_recording_is_refused_by_its_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "trace"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="trace"):
        read_recording(path)


def test_a_recording_names_nothing_that_nobody_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    write_recording(path, [Entry(1.0, "burn", {})])
    with pytest.raises(ConfigError, match="nobody can be told 'burn'"):
        read_recording(path)
