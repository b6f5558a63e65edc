"""A hostile broker at the parsers of the real processes: no crash, no growth, no lasting harm.

A scripted peer on a socket gives the aggregator's and the device's processes 200 streams, one a
connection: in turn in place of CONNACK, and after it. Half of them come to processes that believe
unsigned messages, so that all garbage gets to the decoders; half to processes as `fedbus init`
makes them, and of that garbage half is signed by whom it should come from.
"""

import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from aggregator.config import load_config
from device_sdk.identity import read_keys
from fedbus.enrolment import AGGREGATOR_KEY, Enrolled, enrol
from fedbus.key_files import read_secret
from protocol.codec import encode
from protocol.identity import Signer
from protocol.messages import AGGREGATOR
from protocol.topics import Topics
from tests.hostile.streams import Streams
from tests.simulation.test_garbage_decoders import MESSAGES
from tests.support.fake_broker import CONNECT, PUBACK, PUBLISH, FakeBroker, Peer, Script, packet
from transport.stream import Stream

#: For either kind of a process.
NUM_STREAMS: Final = 100
#: After so many a process has all its code and caches; from there on its memory may not grow.
WARM: Final = 50
MAX_GROWTH_KIB: Final = 2048
PATIENCE_S: Final = 60.0

TOPICS: Final = Topics("fedbus/1", "sim")
AGGREGATOR_TOML: Final = """
state_dir = "{folder}/state"
broker = {{port = {port}, backoff_first_s = 0.01, backoff_cap_s = 0.02}}
{trust}
[task]
task = "sim"
buffered = {{goal = 4, min_contributors = 4}}
[task.model]
input = [8]
layers = [{{type = "dense", units = 4}}]
loss = "softmax_cross_entropy"
"""
DEVICE_TOML: Final = """
task = "sim"
device = "a"
state_dir = "{folder}/state"
broker = {{port = {port}, backoff_first_s = 0.01, backoff_cap_s = 0.02}}
data = {{file = "{folder}/data.npz"}}
{trust}
"""
#: What to write for ``trust``, by the process and by whether all is signed and masked.
TRUST: Final = {
    ("aggregator", False): 'identity = {{required = false}}\nsecure = {{scheme = "none"}}',
    ("aggregator", True): """
identity = {{key_file = "{folder}/operator/aggregator.key", enrolment_key = "{enrolment}"}}
secure = {{scheme = "seedmask", rosters = "{folder}/operator/rosters"}}
""",
    ("device", False): "",
    ("device", True): 'identity = {{keys = "{folder}/operator/devices/a.json"}}',
}
NAMES: Final = ("a", "b", "c", "d", "e", "f")
COMMANDS: Final = {
    "aggregator": (AGGREGATOR_TOML, ("fedbus", "aggregator", "run"), AGGREGATOR),
    "device": (DEVICE_TOML, ("device_sdk", "run"), "a"),
}
#: Where each listens, and where it says that it is alive.
HEARD: Final = {
    "aggregator": (
        *(TOPICS.out("a"), TOPICS.out("b"), TOPICS.state("a"), TOPICS.info("a")),
        *(TOPICS.telemetry("a"), TOPICS.update(0, "a"), TOPICS.manifest(), "x"),
    ),
    "device": (
        *(TOPICS.into("a"), TOPICS.plan(), TOPICS.manifest(), TOPICS.model(0, 0)),
        *(TOPICS.state("a"), TOPICS.info("a"), TOPICS.into("b"), "x"),
        *(TOPICS.roster("all"), TOPICS.support(), TOPICS.share("a", "b")),
    ),
}
SIGN_OF_LIFE: Final = {"aggregator": TOPICS.manifest(), "device": TOPICS.state("a")}


class Victim:
    """A process of the product, with a hostile broker in front of it."""

    def __init__(self, folder: Path, name: str, port: int, *, masked: bool) -> None:
        text, self._module, _ = COMMANDS[name]
        np.savez(folder / "data.npz", x=np.zeros((20, 8), np.float32), y=np.zeros(20, np.int64))
        config = folder / "config.toml"
        enrolment = (folder / "operator/enrolment.pub").read_text().strip() if masked else ""
        trust = TRUST[name, masked].format(folder=folder, enrolment=enrolment)
        config.write_text(text.format(folder=folder, port=port, trust=trust), encoding="utf-8")
        self._log = folder / "log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-m", *self._module, "--config", str(config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def memory_kib(self) -> int:
        """How much memory it has resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0])

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(PATIENCE_S)


class Siege:
    """The scripts of all connections, the last of which is honest."""

    def __init__(self, name: str, enrolled: Enrolled | None) -> None:
        sender = "a" if name == "aggregator" else AGGREGATOR
        honest = [encode(each, task="sim", sender=sender, counter=7) for each in MESSAGES]
        signer = None if enrolled is None else signer_of(enrolled, sender)
        self._streams = Streams(1, HEARD[name], honest, sender=sender, signer=signer)
        self._sign = SIGN_OF_LIFE[name].encode()
        self.num_done = 0
        self.recovered = threading.Event()
        self.is_over = threading.Event()

    def scripts(self) -> list[Script]:
        return [*[self._instead, self._after] * (NUM_STREAMS // 2), self._honestly]

    def _instead(self, peer: Peer) -> None:
        level = peer.expect(CONNECT).body[6]
        self._send(peer, self._streams.connack(level))

    def _after(self, peer: Peer) -> None:
        self._send(peer, self._streams.publishes(peer.accept()))

    def _send(self, peer: Peer, data: bytes) -> None:
        self.num_done += 1
        peer.send(data)
        peer.end()

    def _honestly(self, peer: Peer) -> None:
        self.is_over.wait(PATIENCE_S)
        peer.accept()
        topic = b""
        while topic != self._sign:
            said = peer.expect(PUBLISH)
            end = 2 + int.from_bytes(said.body[:2], "big")
            topic = said.body[2:end]
            if said.flags & 2:
                peer.send(packet(PUBACK, said.body[end : end + 2]))
        self.recovered.set()


def enrol_all(folder: Path) -> Enrolled:
    """Enrol all devices, as `fedbus init` does."""
    config = folder / "enrolment.toml"
    trust = 'secure = {scheme = "seedmask"}'
    config.write_text(AGGREGATOR_TOML.format(folder=folder, port=1, trust=trust), encoding="utf-8")
    read = load_config(config)
    parameters = read.secure.parameters(read.task, len(NAMES), read.task.trained().layout.size)
    return enrol(folder / "operator", parameters, "sim", NAMES)


def signer_of(enrolled: Enrolled, sender: str) -> Signer:
    if sender == AGGREGATOR:
        return Signer(read_secret(enrolled.directory / AGGREGATOR_KEY), TOPICS.prefix)
    keys = read_keys(enrolled.keys_files[sender], task="sim", device=sender)
    return Signer(keys.identity, TOPICS.prefix)


def until(condition: Callable[[], bool], victim: Victim, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert victim.is_running, f"{what}\n{victim.log[-3000:]}"
        assert time.monotonic() < deadline, f"{what}\n{victim.log[-3000:]}"
        time.sleep(0.02)


@pytest.mark.broker
@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("name", COMMANDS)
def test_malformed_streams_do_no_lasting_harm(name: str, tmp_path: Path, *, masked: bool) -> None:
    siege = Siege(name, enrol_all(tmp_path) if masked else None)
    with FakeBroker(siege.scripts()) as broker:
        victim = Victim(tmp_path, name, broker.port, masked=masked)
        try:
            until(lambda: siege.num_done >= WARM, victim, "it does not come back")
            warm = victim.memory_kib()
            until(lambda: broker.num_connections > NUM_STREAMS, victim, "it does not come back")
            grown = victim.memory_kib() - warm
            siege.is_over.set()
            until(siege.recovered.is_set, victim, "it says nothing to an honest broker")
        finally:
            siege.is_over.set()
            status = victim.stop()
    assert siege.num_done == NUM_STREAMS
    assert grown < MAX_GROWTH_KIB, f"{grown} KiB"
    assert "Traceback" not in victim.log
    assert status == 0


def test_a_packet_of_announced_size_gets_no_memory() -> None:
    """Paho would ask the kernel for a quarter of a gigabyte at once, for a packet of five bytes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = Stream(ours, lambda: None)
        theirs.sendall(b"\x30\xff\xff\xff\x7f")
        tracemalloc.start()
        try:
            assert len(stream.recv(5)) == 5
            with pytest.raises(ConnectionAbortedError, match="announced 268435455 bytes"):
                stream.recv(268_435_455)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
