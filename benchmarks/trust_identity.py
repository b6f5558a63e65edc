"""``trust``, part identity: what signatures and sealing cost, for each update.

An update of 100,000 params in the default codec, from the device's stored bytes to its packets, and
from the packets to the bytes that are journalled; and with it one check-in, which the device signs
and the aggregator checks, and one lease, the other way. CPU time with and without, with the
product's own voices and gates. ``dense``: the same update as float32, in 7 packets.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Final, NamedTuple

import numpy as np

from aggregator.gate import Gate as AggregatorGate
from aggregator.gate import Trust
from aggregator.publication import Publication
from aggregator.task_config import TaskConfig
from benchmarks.report import Report, figure, within
from device_sdk.gate import Gate as DeviceGate
from device_sdk.identity import Keys
from device_sdk.outgoing import pieces
from device_sdk.pending import Pending
from device_sdk.voice import Voice
from protocol.actions import Publish
from protocol.chunks import Assembly
from protocol.codec import encode_update
from protocol.identity import Signer
from protocol.messages import CheckIn, Lease, Update, UpdateChunk
from protocol.stream import derive
from protocol.topics import Kind, Topics
from protocol.vectors.layout import Layout, Tensor
from protocol.vectors.packing import encode, parse_codec
from simulator.enrolment import certify_all

SIZE: Final = 100_000
MOST_MS: Final = 1.0
DEVICE: Final = "pump-7"
TOPICS: Final = Topics("fedbus/1", "t")
SEED: Final = bytes(32)
LEASE: Final = Lease(bytes(16), bytes(16), 1, bytes(32), 400_000, 7, "topk", 60_000, 0, 600)
CHECK_IN: Final = CheckIn(bytes(16), 1, 100, ("dense", "topk", "float32", "int8"))
#: Bytes of an update in a packet.
ROOM: Final = 59_000

Times = dict[str, list[float]]


class _Ends(NamedTuple):
    """Both ends of a task; None where nothing is signed."""

    trust: Trust | None
    keys: Keys | None


def measure(*, quick: bool) -> Report:
    """Measure both sides, with and without."""
    rounds = 20 if quick else 400
    default = TaskConfig.__dataclass_fields__["codec"].default
    return {
        "params": SIZE,
        "rounds": rounds,
        "default": _measure_codec(str(default), rounds),
        "dense": _measure_codec("dense/float32", rounds, reach=False),
    }


def _measure_codec(codec: str, rounds: int, *, reach: bool = True) -> Report:
    update = _update(codec)
    trust, keys = certify_all(TOPICS.task, [DEVICE], SEED)
    bare, num_bare = _play(_Ends(None, None), update, rounds)
    full, num_full = _play(_Ends(trust, keys[DEVICE]), update, rounds)
    report: Report = {"codec": codec, "update_bytes": len(update)}
    for side in ("device", "aggregator"):
        extra = median(full[side]) - median(bare[side])
        report[side] = {
            "ms_with": figure(median(full[side])),
            "ms_without": figure(median(bare[side])),
            "ms_extra": within(figure(extra), MOST_MS) if reach else figure(extra),
        }
    report["bytes_extra"] = num_full - num_bare
    return report


def _update(codec: str) -> bytes:
    delta = np.random.default_rng(0).normal(0, 0.01, SIZE).astype(np.float32)
    layout = Layout((Tensor("w", (SIZE,)),))
    body = encode(delta, parse_codec(codec), layout, rounding_seed=SEED, support_seed=SEED)
    return encode_update(Update(1, codec, 100, body))


def _play(ends: _Ends, update: bytes, rounds: int) -> tuple[Times, int]:
    """Return the milliseconds of each side in each round but the first, and a round's bytes."""
    times: Times = defaultdict(list)
    device, aggregator = _Device(ends.keys), _Aggregator(ends.trust)
    num_bytes = 0
    for number in range(rounds + 1):
        with _timed(times["device"]):
            asked = device.asks(first=number == 0)
        with _timed(times["aggregator"]):
            lease = aggregator.answers(asked)
        with _timed(times["device"], more=True):
            sent = device.sends(lease, update, number)
        with _timed(times["aggregator"], more=True):
            taken = aggregator.takes(sent)
        if taken != update:
            raise RuntimeError("this is not the update")
        num_bytes = sum(len(publish.payload) for publish in (asked, lease, *sent))
    return {side: ms[1:] for side, ms in times.items()}, num_bytes


@contextmanager
def _timed(ms: list[float], *, more: bool = False) -> Iterator[None]:
    start = time.process_time()
    yield
    spent = 1e3 * (time.process_time() - start)
    if more:
        ms[-1] += spent
    else:
        ms.append(spent)


class _Device:
    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys
        self._aggregator = b"" if keys is None else keys.aggregator
        signer = None if keys is None else Signer(keys.identity, TOPICS.prefix)
        self._voice = Voice(TOPICS, DEVICE, 1, signer)
        self._gate = DeviceGate(TOPICS, {}, self._aggregator)

    def asks(self, *, first: bool) -> Publish:
        """Check in."""
        if not first or self._keys is None:
            return self._voice.tell(CHECK_IN)
        return self._voice.tell(CheckIn(bytes(16), 1, 100, (), certificate=self._keys.certificate))

    def sends(self, lease: Publish, update: bytes, number: int) -> Sequence[Publish]:
        """Take a lease, and send its update."""
        self._gate.open(lease.topic, Kind.IN, lease.payload)
        seed = derive(SEED, number) if self._aggregator else b""
        pending = Pending(bytes(16), 1, 0, update, b"", seal_seed=seed)
        topic = TOPICS.update(0, DEVICE)
        chunks = pieces(pending, (), ROOM, self._aggregator)
        return [self._voice.say(topic, chunk) for chunk in chunks]


class _Aggregator:
    def __init__(self, trust: Trust | None) -> None:
        signer = None if trust is None else trust.signer(TOPICS.prefix)
        self._publication = Publication(TOPICS, 1 << 32, signer)
        self._gate = AggregatorGate(TOPICS, trust, {})

    def answers(self, asked: Publish) -> Publish:
        """Take a check-in, and give a lease."""
        self._gate.open(asked.topic, TOPICS.parse(asked.topic), asked.payload, (CheckIn,))
        return self._publication.to_device(DEVICE, LEASE)

    def takes(self, sent: Sequence[Publish]) -> bytes:
        """Take an update's packets; return what would be journalled."""
        whole, is_sealed = Assembly(len(sent), 1 << 20), False
        for publish in sent:
            address = TOPICS.parse(publish.topic)
            heard = self._gate.open(publish.topic, address, publish.payload, (UpdateChunk,))
            whole.replace(heard.message.index, heard.message.data)
            is_sealed = bool(heard.message.sealed)
        return self._gate.unseal(whole.join(), bytes(16)) if is_sealed else whole.join()
