"""Whatever the bytes: a decoder returns a value or raises RemoteProtocolError, nothing else."""

import contextlib

import numpy as np
import pytest

from device_sdk.plan import read_plan
from protocol.codec import decode, decode_update, encode, encode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import (
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
from protocol.topics import Topics
from protocol.vectors import packing
from protocol.vectors.layout import Layout, Tensor, params_from_bytes
from tests.simulation.garbage import Garbage
from tests.support.messages import KINDS

NUM_PAYLOADS = 100_000
NUM_QUICK = 4_000
BATCH = 10_000

TOPICS = Topics("fedbus/1", "sim")
LAYOUT = Layout((Tensor("w", (5, 4)), Tensor("b", (4,))))
CODECS = [
    packing.parse_codec(f"{support}/{dtype}")
    for support in ("dense", "topk-0.2", "topk-0.9", "randk-0.3")
    for dtype in ("float32", "float16", "int8")
]
ID, HASH = bytes(range(16)), bytes(32)
MESSAGES: tuple[Message, ...] = (
    CheckIn(ID, 3, 100, ("dense", "float32"), ID),
    Lease(ID, ID, 3, HASH, 96, 1, "dense/float32", 200, 0, 60),
    ChunksMissing(ID, (0, 2)),
    Held(ID),
    Receipt(ID, 4),
    Refusal(ID, "too_stale", "late", 3, ID),
    UpdateChunk(ID, 1, 0, 2, b"chunk"),
    ModelChunk(3, 0, bytes(96)),
    Plan('{"input": [2]}', '{"epochs": 1}', "dense/float32", 60),
    Manifest(3, HASH, 96, 1, (ID,)),
)
HEARD = tuple(KINDS)
TOPIC_STRINGS = (
    *(TOPICS.state("a"), TOPICS.out("a"), TOPICS.into("a"), TOPICS.update(0, "a")),
    *(TOPICS.plan(), TOPICS.manifest(), TOPICS.model(3, 0), TOPICS.monitor("rounds")),
)


def bodies() -> list[bytes]:
    delta = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
    return [
        packing.encode(delta, codec, LAYOUT, rounding_seed=HASH, support_seed=HASH)
        for codec in CODECS
    ]


def decoders(payload: bytes, honest: Garbage) -> None:
    """Run every decoder over one payload."""
    cls = HEARD[honest.below(len(HEARD))]
    for allowed in (HEARD, (cls,)):
        with contextlib.suppress(RemoteProtocolError):
            assert type(decode(payload, allowed, task="sim", sender="a")) in allowed
    with contextlib.suppress(RemoteProtocolError):
        assert isinstance(decode_update(payload), Update)
    codec = CODECS[honest.below(len(CODECS))]
    with contextlib.suppress(RemoteProtocolError):
        decoded = packing.decode(payload, codec, LAYOUT, support_seed=HASH)
        assert np.isfinite(decoded.dense()).all()
    with contextlib.suppress(RemoteProtocolError):
        assert np.isfinite(params_from_bytes(payload, LAYOUT.size)).all()
    with contextlib.suppress(RemoteProtocolError):
        TOPICS.parse(payload.decode("utf-8", "replace"))
    text = payload.decode("latin-1")
    with contextlib.suppress(RemoteProtocolError):
        read_plan(Plan(text, text, "dense/float32"))


def check(seed: int, num_payloads: int) -> None:
    encoded = [encode(each, task="sim", sender="a", counter=7) for each in MESSAGES]
    encoded += [encode_update(Update(3, "dense/float32", 9, body)) for body in bodies()]
    encoded += [topic.encode() for topic in TOPIC_STRINGS] + bodies()
    garbage = Garbage(seed, encoded)
    for number in range(num_payloads):
        payload = garbage.payload()
        try:
            decoders(payload, garbage)
        except Exception as error:  # noqa: BLE001 - this is what must not happen
            pytest.fail(f"seed {seed}, number {number}: {error!r} from {payload!r}")


def test_no_decoder_fails_in_another_way() -> None:
    check(0, NUM_QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 1 + NUM_PAYLOADS // BATCH))
def test_no_decoder_fails_in_another_way_however_often(seed: int) -> None:
    check(seed, BATCH)
