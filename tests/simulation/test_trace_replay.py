"""What a real run on a real broker was told, simulated machines answer with the same bytes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
import pytest

import aggregator.service
import device_sdk.device
import simulator.device
from aggregator.config import AggregatorConfig, IdentityConfig
from aggregator.coordinator import Coordinator
from aggregator.scheduling.buffered import Buffered
from aggregator.secure_config import SecureConfig
from aggregator.service import Service
from aggregator.task_config import TaskConfig
from device_sdk.config import DeviceConfig, TelemetryConfig
from device_sdk.device import Device
from device_sdk.session import Session
from device_sdk.trainer import NumpyTrainer
from protocol.errors import ConfigError
from simulator import DryTrainer, MemoryStore, World
from simulator.trace import Entry, read_recording, record, replay, write_recording
from tests.support.bus_client import BusClient
from tests.support.mosquitto import Mosquitto, broker
from transport.config import BrokerConfig

__all__ = ["broker"]

NUM_VERSIONS: Final = 4
PATIENCE_S: Final = 30.0
CONFIG: Final = TaskConfig(
    task="real",
    model={
        "input": [8],
        "layers": [{"type": "dense", "units": 4}],
        "loss": "softmax_cross_entropy",
    },
    buffered=Buffered(goal=2, max_wait_s=1.0),
    check_in_s=1,
)


class Recording:
    """One machine of the real run: how it was made, what it was told, what it said."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs
        self.entries: list[Entry] = []

    @property
    def said(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.is_out]


def recorded(machine: Callable[..., object], kept: list[Recording]) -> Callable[..., object]:
    """Return what makes machines as before, each with a recording of its own."""

    def make(*args: Any, **kwargs: Any) -> object:
        recording = Recording(args, kwargs)
        if "stored" in kwargs:
            recording.kwargs = {**kwargs, "stored": dict(kwargs["stored"])}
        made = machine(*args, **kwargs)
        record(made, recording.entries)
        kept.append(recording)
        return made

    return make


@contextmanager
def in_a_thread(shell: Service | Device) -> Iterator[None]:
    thread = threading.Thread(target=shell.run)
    thread.start()
    try:
        yield
    finally:
        shell.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def make_device(folder: Path, number: int, port: int) -> Device:
    rng = np.random.default_rng(number)
    x = rng.standard_normal((20, 8)).astype(np.float32)
    config = DeviceConfig(
        task="real",
        device=f"d{number}",
        state_dir=str(folder / f"d{number}"),
        broker=BrokerConfig(port=port),
        telemetry=TelemetryConfig(interval_s=0),
    )
    return Device(config, NumpyTrainer(data=(x, rng.integers(0, 4, 20))))


@pytest.mark.broker
def test_what_a_real_run_was_told_is_answered_with_the_same_bytes_in_a_simulation(
    broker: Mosquitto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinators: list[Recording] = []
    sessions: list[Recording] = []
    monkeypatch.setattr(aggregator.service, "Coordinator", recorded(Coordinator, coordinators))
    monkeypatch.setattr(device_sdk.device, "Session", recorded(Session, sessions))
    config = AggregatorConfig(
        state_dir=str(tmp_path / "aggregator"),
        task=CONFIG,
        broker=BrokerConfig(port=broker.port),
        secure=SecureConfig(scheme="none"),
        identity=IdentityConfig(required=False),
    )
    with BusClient(broker.port, "watcher", "fedbus/1/real/#") as watcher:
        with in_a_thread(Service(config)):
            devices = [make_device(tmp_path, number, broker.port) for number in range(2)]
            with in_a_thread(devices[0]), in_a_thread(devices[1]):
                watcher.until(lambda: num_trained(sessions) >= 2 * NUM_VERSIONS, "trainings")
        watcher.settle()
        on_the_bus = {each for each in watcher.messages if "/mon/" not in each[0]}

    told: set[tuple[str, bytes]] = set()
    assert [len(sessions), len(coordinators)] == [2, 1]
    for session in sessions:
        told |= replayed(session, Session(*session.args, **session.kwargs), tmp_path)
    (real,) = coordinators
    config_, snapshot, *rest = real.args
    store = MemoryStore(CONFIG.keep_versions)
    assert snapshot == store.snapshot()
    told |= replayed(real, Coordinator(config_, store.snapshot(), *rest), tmp_path, store)
    assert told == on_the_bus
    assert len(store.counted_ids()) >= 2 * NUM_VERSIONS - 2


def replayed(
    real: Recording, machine: object, folder: Path, store: MemoryStore | None = None
) -> set[tuple[str, bytes]]:
    """Tell a machine what the real one was told, by way of a file; return what both published."""
    path = folder / "recording"
    write_recording(path, real.entries)
    found = replay(machine, read_recording(path), store)
    assert found == [entry for entry in real.entries if entry.is_out]
    return {(entry.topic, entry.payload) for entry in found}


def num_trained(sessions: list[Recording]) -> int:
    return sum(entry.what == "trained" for each in sessions for entry in each.entries)


def test_a_simulated_session_is_recorded_and_replayed_alike() -> None:
    """And without its message at one time, it says something else."""
    kept: list[Recording] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator.device, "Session", recorded(Session, kept))
        world = World(CONFIG, bytes(32))
        world.add("d", DryTrainer(), lambda _: 1.0)
        world.run_for(20.0)
    (real,) = kept
    out = [entry for entry in real.entries if entry.is_out]
    assert len(out) > 10
    assert replay(Session(*real.args, **real.kwargs), real.entries) == out
    without = [entry for entry in real.entries if entry.topic != world.topics.into("d")]
    assert replay(Session(*real.args, **real.kwargs), without) != out


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
