"""Bad input over a real broker: refused, counted by reason, on ``mon/``; the model stays."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest

from protocol.chunks import checksum
from protocol.codec import encode_update
from protocol.messages import CheckIn, ChunksMissing, Lease, Receipt, Refusal, Update, UpdateChunk
from tests.support.bus_client import BusClient
from tests.support.federation import SMALL, TOPICS, TWO_CHUNKS, Federation
from tests.support.moments import seeded
from tests.support.mosquitto import OPEN
from tests.support.raw_device import ANSWERS_FILTER, RawDevice, dense_update

pytestmark = pytest.mark.broker

SIZE = 810
MODEL = {**SMALL, "input": [80], "layers": [{"type": "dense", "units": 10}]}
TASK_SETTINGS = {
    "model": MODEL,
    "codec": "dense/float32",
    "buffered": {"goal": 1, "concurrency": 5_000},
    "max_staleness": 2,
}

names = (f"raw-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """An aggregator whose devices are all raw ones."""
    folder = tmp_path_factory.mktemp("bad-input")
    with Federation(folder, (), task=TASK_SETTINGS, broker=OPEN, signed=False) as federation:
        federation.start()
        federation.until(lambda: federation.version == 0, "no version")
        yield federation


@pytest.fixture
def bus(aggregator: Federation) -> Iterator[BusClient]:
    with BusClient(aggregator.broker.port, "raw", ANSWERS_FILTER) as client:
        yield client


Fault = Callable[[RawDevice, Lease], bytes]
ONES = np.ones(SIZE, np.float32)


def in_one(device: RawDevice, lease: Lease, data: bytes) -> bytes:
    return device.says(UpdateChunk(lease.lease_id, checksum(data), 0, 1, data))


def changed(device: RawDevice, lease: Lease, **changes: object) -> bytes:
    update = Update(lease.version, lease.codec, 10, ONES.tobytes())
    return in_one(device, lease, encode_update(dataclasses.replace(update, **changes)))  # type: ignore[arg-type] # one field each


def with_value(value: float) -> Fault:
    return lambda device, lease: in_one(device, lease, dense_update(lease, ONES * value))


def with_wire_version(device: RawDevice, lease: Lease) -> bytes:
    envelope = msgpack.unpackb(in_one(device, lease, dense_update(lease, ONES)))
    packed: bytes = msgpack.packb([envelope[0] + 1, *envelope[1:]])
    return packed


def of(device: RawDevice, lease: Lease, *, task: str = "", sender: str = "") -> bytes:
    data = dense_update(lease, ONES)
    chunk = UpdateChunk(lease.lease_id, checksum(data), 0, 1, data)
    return device.says(chunk, task=task or "faults", sender=sender)


#: reason, what is published in place of an update, whether the device is told so
FAULTS: dict[str, tuple[str, Fault, bool]] = {
    "nan": ("not_finite", with_value(np.nan), True),
    "infinity": ("not_finite", with_value(np.inf), True),
    "negative infinity": ("not_finite", with_value(-np.inf), True),
    "too few values": (
        "wrong_shape",
        lambda device, lease: in_one(device, lease, dense_update(lease, ONES[:-1])),
        True,
    ),
    "too many values": (
        "wrong_shape",
        lambda device, lease: in_one(device, lease, dense_update(lease, np.append(ONES, ONES[0]))),
        True,
    ),
    "truncated": (
        "malformed",
        lambda device, lease: in_one(device, lease, dense_update(lease, ONES)[:-7]),
        True,
    ),
    "random": ("malformed", lambda device, lease: in_one(device, lease, bytes(range(99))), True),
    "oversize": ("oversize", lambda device, lease: in_one(device, lease, bytes(9_999)), True),
    "too many chunks": (
        "oversize",
        lambda device, lease: device.says(UpdateChunk(lease.lease_id, 0, 0, 9_999, b"x")),
        True,
    ),
    "a future base": (
        "future_version",
        lambda device, lease: changed(device, lease, base_version=lease.version + 1),
        True,
    ),
    "another codec": (
        "wrong_codec",
        lambda device, lease: changed(device, lease, codec="dense/float16"),
        True,
    ),
    "another checksum": (
        "malformed",
        lambda device, lease: device.says(
            UpdateChunk(lease.lease_id, 1, 0, 1, dense_update(lease, ONES))
        ),
        True,
    ),
    "a lease nobody gave": (
        "unknown_lease",
        lambda device, _: device.says(UpdateChunk(bytes(16), 0, 0, 1, b"x")),
        True,
    ),
    "another task": ("wrong_task", lambda device, lease: of(device, lease, task="other"), False),
    "another sender": (
        "wrong_sender",
        lambda device, lease: of(device, lease, sender="raw-sender"),
        False,
    ),
    "another wire version": ("wire_version", with_wire_version, False),
    "a check-in": (
        "wrong_kind",
        lambda device, _: device.says(CheckIn(device.install_id, -1, 10, ("dense",))),
        False,
    ),
    "a cut envelope": ("malformed", lambda device, lease: of(device, lease)[:-20], False),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_update_is_refused_counted_and_shown(
    aggregator: Federation, bus: BusClient, fault: str
) -> None:
    reason, make, is_told = FAULTS[fault]
    device = RawDevice(bus, next(names))
    lease = device.lease()
    before, version = aggregator.refused, aggregator.version
    expected = {**before, reason: before.get(reason, 0) + 1}
    bus.publish(device.topic, make(device, lease))
    bus.settle()
    aggregator.until(lambda: aggregator.refused == expected, f"not counted as {reason}")
    said = f"{device.name}: {reason}: "
    aggregator.until(lambda: last_alert(aggregator).startswith(said), f"no alert says {said}")
    if is_told:
        bus.until(lambda: isinstance(device.answers()[-1], Refusal), "the device is told")
        answer = device.answers()[-1]
        assert isinstance(answer, Refusal)
        assert answer.reason == reason
    assert aggregator.version == version
    assert model_hash(aggregator) == lease.model_hash
    assert aggregator.is_running("aggregator")


def last_alert(aggregator: Federation) -> str:
    """Return the newest alert that a subscriber has seen; reports arrive one topic at a time."""
    alerts: list[str] = aggregator.monitor.report("alerts").get("alerts", [])
    return alerts[-1] if alerts else ""


def model_hash(aggregator: Federation) -> bytes:
    """Return the hash of the newest version's params, as they are stored."""
    [(digest,)] = aggregator.query(
        "SELECT model_hash FROM fedbus_version ORDER BY version DESC LIMIT 1"
    )
    return bytes(digest)


def test_an_update_may_come_in_any_order_more_than_once_and_counts_once(
    aggregator: Federation, bus: BusClient
) -> None:
    device = RawDevice(bus, next(names))
    lease = device.lease()
    chunks = device.chunks(lease.lease_id, dense_update(lease, ONES), num_chunks=4)
    version, refused = aggregator.version, aggregator.refused
    for payload in [*reversed(chunks[1:]), *chunks[1:], chunks[0], *chunks, *chunks]:
        bus.publish(device.topic, payload)
    bus.settle()
    aggregator.until(lambda: aggregator.version == version + 1, "not counted")
    bus.until(lambda: isinstance(device.answers()[-1], Receipt), "a receipt for what came late")
    bus.settle()
    assert aggregator.version == version + 1
    assert aggregator.refused == refused
    device.check_in(lease.lease_id)
    bus.until(lambda: device.answers()[-1] == Receipt(lease.lease_id, version + 1), "asked after")


def test_an_update_older_than_the_limit_is_refused(aggregator: Federation, bus: BusClient) -> None:
    late = RawDevice(bus, next(names))
    lease = late.lease()
    for _ in range(3):
        counts_one_more(aggregator, bus)
    before, digest = aggregator.refused, model_hash(aggregator)
    late.send(lease.lease_id, dense_update(lease, ONES))
    bus.until(lambda: isinstance(late.answers()[-1], Refusal), "the device is told")
    answer = late.answers()[-1]
    assert isinstance(answer, Refusal)
    assert answer.reason == "too_stale"
    expected = {**before, "too_stale": before.get("too_stale", 0) + 1}
    aggregator.until(lambda: aggregator.refused == expected, "not counted")
    assert model_hash(aggregator) == digest


def test_a_flood_of_garbage_on_every_topic_changes_nothing(
    aggregator: Federation, bus: BusClient
) -> None:
    random = seeded()
    device = RawDevice(bus, next(names))
    lease = device.lease()
    good = device.chunks(lease.lease_id, dense_update(lease, ONES * np.float32(9)), num_chunks=2)
    topics = [
        device.topic,
        TOPICS.out(device.name),
        TOPICS.state(device.name),
        TOPICS.info(device.name),
        TOPICS.update(7, device.name),
        TOPICS.update(0, "who"),
    ]
    before, digest = sum(aggregator.refused.values()), model_hash(aggregator)
    memory = aggregator.memory_kib("aggregator")
    num_large = 0
    for number in range(6_000):
        payload = bytearray(random.choice(good))
        match number % 3:
            case 0:
                payload = bytearray(random.randbytes(random.choice([1, 20, 300, 3_000])))
            case 1:
                payload[random.randrange(8)] ^= 1 << random.randrange(8)  # the envelope's head
            case 2:
                del payload[random.randrange(len(payload)) :]
        if number % 500 == 0:
            payload, num_large = bytearray(random.randbytes(300_000)), num_large + 1
        bus.publish(random.choice(topics), bytes(payload))
    bus.settle()
    # an info is not read, and an empty state is one that was cleared
    aggregator.until(lambda: sum(aggregator.refused.values()) > before + 3_000, "not counted")
    grown = aggregator.memory_kib("aggregator") - memory
    sys.stdout.write(f"{grown} KiB more; {aggregator.refused}\n")
    assert grown < 20_000
    assert model_hash(aggregator) == digest
    counts_one_more(aggregator, bus)


def counts_one_more(aggregator: Federation, bus: BusClient) -> None:
    """Send a good update, which makes the next version."""
    device, version = RawDevice(bus, next(names)), aggregator.version
    lease = device.lease()
    device.send(lease.lease_id, dense_update(lease, ONES))
    aggregator.until(lambda: aggregator.version == version + 1, "a good update is not counted")


def test_a_thousand_updates_that_never_complete_are_given_up(tmp_path: Path) -> None:
    task = {
        **TASK_SETTINGS,
        "model": TWO_CHUNKS,
        "chunk_patience_s": 0.2,  # asked for after that, given up after 30 times that
        "max_assembly_bytes": 4 << 20,
    }
    with Federation(tmp_path, (), task=task, broker=OPEN, signed=False) as federation:
        federation.start()
        federation.until(lambda: federation.version == 0, "no version")
        with BusClient(federation.broker.port, "raw", ANSWERS_FILTER) as bus:
            devices = [RawDevice(bus, f"raw-{number}") for number in range(1_000)]
            for device in devices:
                device.check_in()
            bus.until(lambda: len(bus.messages) == 1_000, "everybody gets a lease")
            leases = {device.name: answer for device, answer in first_answers(devices)}
            memory, digest = federation.memory_kib("aggregator"), model_hash(federation)
            for device in devices:
                lease = leases[device.name]
                data = dense_update(lease, np.ones(lease.model_bytes // 4, np.float32))
                bus.publish(device.topic, device.chunks(lease.lease_id, data, num_chunks=8)[3])
            bus.settle()
            federation.until(
                lambda: incomplete(federation) + busy(federation) == 1_000, "not all taken"
            )
            held = incomplete(federation)
            assert 0 < held < 1_000, "memory has no end"
            grown = federation.memory_kib("aggregator") - memory
            sys.stdout.write(f"{held} held in {grown} KiB, {busy(federation)} refused\n")
            assert grown < 40_000
            federation.until(
                lambda: federation.refused == {"busy": 1_000 - held, "incomplete": held},
                "not given up",
            )
            federation.until(lambda: incomplete(federation) == 0, "still held")
            bus.settle()
            asked = [
                answer
                for device in devices
                for answer in device.answers()
                if isinstance(answer, ChunksMissing)
            ]
            assert len(asked) == held
            assert all(message.indices == (0, 1, 2, 4, 5, 6, 7) for message in asked)
            assert model_hash(federation) == digest

            late = devices[0]
            lease = leases[late.name]
            data = dense_update(lease, np.ones(lease.model_bytes // 4, np.float32))
            late.send(lease.lease_id, data, num_chunks=8)
            federation.until(lambda: federation.version == 1, "it could not come after all")


def busy(federation: Federation) -> int:
    return federation.refused.get("busy", 0)


def incomplete(federation: Federation) -> int:
    return int(federation.monitor.report("rounds")["updates_incomplete"])


def first_answers(devices: list[RawDevice]) -> Iterator[tuple[RawDevice, Lease]]:
    for device in devices:
        [lease] = device.answers()
        assert isinstance(lease, Lease)
        yield device, lease
