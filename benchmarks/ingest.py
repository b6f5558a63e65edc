"""``ingest``: updates a second into a whole aggregator, beside a paho client that only receives.

The aggregator is a process of its own (`aggregator.service`): leases, admission, journal, buffer,
steps, stored versions, publication and receipts (in the manifest) are all on and all count. The
leases are written into its store before it starts; the payloads are encoded before, their ids
distinct. Devices are sockets that send prepared packets (`benchmarks.raw_publisher`) through
mosquitto as we ship it configured.

Windows alternate: one with the aggregator attached, one with a bare paho subscriber, each with a
fresh broker, a fresh copy of the store and the same packets. Publishing stays a few buffers ahead
of what is consumed, so that everything competes for the same cores during all that is measured: the
time between two manifests (of the bare side: two counts), the first and last few left out.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from aggregator.records import LeaseRecord, VersionRecord
from aggregator.store import open_store
from benchmarks.processes import lines, running, tell
from benchmarks.raw_publisher import write_packets
from benchmarks.report import Report, figure, median, ratio_of_medians, spread
from benchmarks.watcher import Watcher
from broker_config.files import BrokerFiles, write_accounts
from broker_config.running import Broker, running_broker
from device_sdk.engine.model import Model
from device_sdk.engine.spec import parse_spec
from protocol.chunks import checksum, cut, payload_bytes
from protocol.codec import encode, encode_update
from protocol.messages import LEASE_ID_BYTES, Update, UpdateChunk
from protocol.stream import derive
from protocol.topics import Topics
from protocol.vectors.layout import params_to_bytes
from protocol.vectors.packing import encode as encode_delta
from protocol.vectors.packing import parse_codec

TASK: Final = "ingest"
DEVICES: Final = tuple(f"device-{number}" for number in range(8))
SEED: Final = bytes(32)
NUM_BODIES: Final = 32  # different deltas; every update has an id of its own
SKIPPED: Final = 2  # versions at the start, before everything is under way

Mark = tuple[int, float]  # updates consumed, and when


@dataclass(frozen=True, slots=True)
class Attached:
    """What consumes: its process, and what it says of its progress."""

    pid: int
    marks: Iterator[Mark]


@dataclass(frozen=True, slots=True)
class Pace:
    """One window: updates a second, and the consumer's CPU time for each."""

    per_s: float
    cpu_us: float


@dataclass(frozen=True, slots=True)
class Case:
    """One codec. ``ahead`` versions' worth of updates are published before they are consumed."""

    codec: str
    size: int
    goal: int
    versions: int
    ahead: int
    window: int  # packets of one device without a PUBACK
    pairs: int

    @property
    def num_updates(self) -> int:
        """Updates of one window."""
        return self.goal * self.versions


@dataclass(frozen=True, slots=True)
class Prepared:
    """What all windows of a case share: packets, the store before the first, the accounts."""

    case: Case
    directory: Path
    packets: list[Path]
    packets_per_update: int


CASES: Final = {
    "a": Case("topk-0.01/int8", 100_000, 500, 32, ahead=6, window=256, pairs=7),
    "b": Case("dense/float32", 100_000, 50, 14, ahead=3, window=28, pairs=7),
}
TINY: Final = {
    "a": Case("topk-0.01/int8", 2_000, 5, 6, ahead=2, window=16, pairs=1),
    "b": Case("dense/float32", 20_000, 2, 6, ahead=2, window=16, pairs=1),
}


def measure(*, quick: bool) -> Report:
    """Run both cases."""
    return {name: _compare(case) for name, case in (TINY if quick else CASES).items()}


def _compare(case: Case) -> Report:
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(case, Path(folder))
        for _ in range(case.pairs):
            ours.append(rate(prepared, aggregator))
            theirs.append(rate(prepared, bare))
    per_s = [pace.per_s for pace in ours]
    bare_per_s = [pace.per_s for pace in theirs]
    return {
        "ratio_to_bare_paho": ratio_of_medians(per_s, bare_per_s),
        "updates_per_s": median(per_s),
        "updates_per_s_range": spread(per_s),
        "bare_per_s": median(bare_per_s),
        "bare_per_s_range": spread(bare_per_s),
        "pair_ratios": [
            figure(our / other, 3) for our, other in zip(per_s, bare_per_s, strict=True)
        ],
        "cpu_us_per_update": median([pace.cpu_us for pace in ours]),
        "bare_cpu_us_per_update": median([pace.cpu_us for pace in theirs]),
        "codec": case.codec,
        "params": case.size,
        "goal": case.goal,
        "updates_per_window": case.num_updates,
        "packets_per_update": prepared.packets_per_update,
        "pairs": case.pairs,
    }


# --- before the windows --------------------------------------------------------------------------


def model_spec(size: int) -> dict[str, object]:
    """Return a softmax regression with ``size`` (a multiple of 100) params."""
    return {
        "input": [size // 100 - 1],
        "layers": [{"type": "dense", "units": 100}],
        "loss": "softmax_cross_entropy",
    }


def prepare(case: Case, directory: Path) -> Prepared:
    """Encode everything, and write the store that each window starts from."""
    lease_ids = [
        derive(SEED, "lease", number)[:LEASE_ID_BYTES] for number in range(case.num_updates)
    ]
    _write_store(case, directory / "state", lease_ids)
    files = write_accounts(directory / "broker", DEVICES)
    updates = _updates(case)
    packets, num_packets = [], 0
    for number, device in enumerate(DEVICES):
        path = directory / f"{device}.packets"
        messages = (
            message
            for index in range(number, case.num_updates, len(DEVICES))
            for message in _messages(device, lease_ids[index], updates[index % len(updates)])
        )
        password = files.secret(device).read_text(encoding="utf-8").strip()
        num_packets += write_packets(path, device, password, messages)
        packets.append(path)
    return Prepared(case, directory, packets, num_packets // case.num_updates)


def _write_store(case: Case, directory: Path, lease_ids: list[bytes]) -> None:
    params = params_to_bytes(np.zeros(case.size, np.float32))
    store = open_store(directory, TASK)
    store.commit([VersionRecord(0, params, hashlib.sha256(params).digest())])
    store.commit(
        [
            LeaseRecord(lease_id, DEVICES[number % len(DEVICES)], 0, case.codec)
            for number, lease_id in enumerate(lease_ids)
        ]
    )
    store.close()


def _updates(case: Case) -> list[bytes]:
    layout = Model(parse_spec(model_spec(case.size))).layout
    codec = parse_codec(case.codec)
    random = np.random.default_rng(0)
    bodies = (
        encode_delta(
            random.normal(0, 1e-3, case.size).astype(np.float32),
            codec,
            layout,
            rounding_seed=derive(SEED, "rounding", number),
            support_seed=SEED,
        )
        for number in range(NUM_BODIES)
    )
    return [encode_update(Update(0, case.codec, 100, body)) for body in bodies]


def _messages(device: str, lease_id: bytes, update: bytes) -> Iterator[tuple[str, bytes]]:
    topic = Topics("fedbus/1", TASK).update(0, device)
    pieces = cut(update, payload_bytes(1 << 16))
    for index, piece in enumerate(pieces):
        chunk = UpdateChunk(lease_id, checksum(update), index, len(pieces), piece)
        yield topic, encode(chunk, task=TASK, sender=device, counter=index)


# --- one window ----------------------------------------------------------------------------------

Process = subprocess.Popen[str]
Attach = Callable[[Prepared, Path, Broker], AbstractContextManager[Attached]]


def rate(prepared: Prepared, attach: Attach) -> Pace:
    """Run one window with what ``attach`` attaches."""
    with tempfile.TemporaryDirectory(dir=prepared.directory) as name:
        window = Path(name)
        shutil.copytree(prepared.directory / "broker", window / "broker")
        with (
            running_broker(window / "broker", engine="mosquitto") as broker,
            attach(prepared, window, broker) as attached,
        ):
            if next(attached.marks)[0] != 0:
                raise RuntimeError("something was there before anything was published")
            with _publisher(prepared, broker) as publisher:
                return _drive(prepared.case, attached, publisher)


def _drive(case: Case, attached: Attached, publisher: Process) -> Pace:
    """Publish a little ahead of what is consumed, to the end; return the pace in between."""
    if next(lines(publisher)) != "ready":
        raise RuntimeError("the publisher did not start")
    times, cpu_s = {}, {}
    allowed = case.ahead * case.goal
    tell(publisher, str(allowed))
    for count, at in attached.marks:
        times[count], cpu_s[count] = at, _cpu_s(attached.pid)
        if count == case.num_updates:
            break
        if allowed < case.num_updates:
            allowed = min(case.num_updates, count + case.ahead * case.goal)
            tell(publisher, str(allowed))
    first, last = SKIPPED * case.goal, (case.versions - case.ahead) * case.goal
    num_updates = last - first
    return Pace(
        num_updates / (times[last] - times[first]),
        1e6 * (cpu_s[last] - cpu_s[first]) / num_updates,
    )


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far, in steps of a hundredth of a second."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def _publisher(prepared: Prepared, broker: Broker) -> AbstractContextManager[Process]:
    case = prepared.case
    numbers = [broker.port, case.window, prepared.packets_per_update]
    return running("benchmarks.raw_publisher", *map(str, numbers), *prepared.packets)


# --- what is attached ----------------------------------------------------------------------------


@contextmanager
def bare(prepared: Prepared, _window: Path, broker: Broker) -> Iterator[Attached]:
    """Attach the bare subscriber; give its counts."""
    every = prepared.case.goal * prepared.packets_per_update
    account = "aggregator"  # it may read updates
    arguments = [str(broker.port), account, str(broker.files.secret(account))]
    topics = f"fedbus/1/{TASK}/up/+/+"
    with running("benchmarks.bare_subscriber", *arguments, topics, str(every)) as process:
        words = (line.split() for line in lines(process))
        parts = prepared.packets_per_update
        yield Attached(process.pid, ((int(count) // parts, float(at)) for count, at in words))


@contextmanager
def aggregator(prepared: Prepared, window: Path, broker: Broker) -> Iterator[Attached]:
    """Attach the aggregator; give how many updates its manifests say are counted."""
    shutil.copytree(prepared.directory / "state", window / "state")
    config = window / "fed.toml"
    config.write_text(_config(prepared.case, window, broker.files, broker.port), encoding="utf-8")
    with (
        running("benchmarks.aggregator_process", config) as process,
        Watcher(TASK, broker) as watcher,
    ):
        yield Attached(process.pid, _counted(watcher))


def _counted(watcher: Watcher) -> Iterator[Mark]:
    counted: set[bytes] = set()
    for manifest in watcher.manifests():
        if counted.intersection(manifest.counted):
            raise RuntimeError(f"version {manifest.version} counts an update again")
        counted.update(manifest.counted)
        yield len(counted), time.monotonic()


def _config(case: Case, window: Path, files: BrokerFiles, port: int) -> str:
    return f"""
state_dir = "{window / "state"}"
[secure]
scheme = "none"
[identity]
required = false
[broker]
port = {port}
password_file = "{files.secret("aggregator")}"
[task]
task = "{TASK}"
codec = "{case.codec}"
max_staleness = {case.versions}
[task.buffered]
goal = {case.goal}
[task.model]
input = [{case.size // 100 - 1}]
layers = [{{ type = "dense", units = 100 }}]
loss = "softmax_cross_entropy"
"""
