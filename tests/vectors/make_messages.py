"""Writes messages.json: whole messages, good and bad: ``python -m tests.vectors.make_messages``.

Running it must change nothing: a change here means that devices in the field can no longer talk to
us, and that WIRE_VERSION has to be raised.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import msgpack

from protocol import refusals
from protocol.chunks import checksum
from protocol.codec import encode, encode_update
from protocol.messages import (
    AGGREGATOR,
    KINDS,
    CheckIn,
    ChunksMissing,
    Held,
    Lease,
    Manifest,
    Message,
    ModelChunk,
    Plan,
    Receipt,
    Refusal,
    Update,
    UpdateChunk,
)

PATH = Path(__file__).with_name("messages.json")
TASK = "digits"
DEVICE = "pump-7"
ID = bytes(range(16))
INSTALL = bytes(range(16, 32))
HASH = bytes(range(32))
UPDATE = Update(3, "topk-0.01/int8", 120, b"\x01\x02\x03")

Entry = dict[str, object]

GOOD: list[tuple[str, Message]] = [
    (DEVICE, CheckIn(INSTALL, -1, 180, ("dense", "topk", "float32", "int8"))),
    (DEVICE, CheckIn(INSTALL, 41, 180, ("dense", "float32"), ID)),
    (AGGREGATOR, Lease(ID, INSTALL, 41, HASH, 9640, 1, "topk-0.1/int8", 700, 0, 600)),
    (AGGREGATOR, ChunksMissing(ID, (0, 2, 19_999))),
    (AGGREGATOR, ChunksMissing(ID, ())),
    (AGGREGATOR, Held(ID)),
    (AGGREGATOR, Receipt(ID, 42)),
    (AGGREGATOR, Refusal(ID, refusals.TOO_STALE, "21 behind")),
    (AGGREGATOR, Refusal(b"", refusals.DUPLICATE_DEVICE, "cloned", 3600, INSTALL)),
    (DEVICE, UpdateChunk(ID, checksum(encode_update(UPDATE)), 0, 1, encode_update(UPDATE))),
    (DEVICE, UpdateChunk(ID, 0xFFFF_FFFF, 6, 7, b"\xff" * 5)),
    (AGGREGATOR, ModelChunk(41, 0, b"\x00\x00\x80\x3f")),
    (AGGREGATOR, Plan('{"input": [2]}', "{}", "dense/float32", 60)),
    (AGGREGATOR, Manifest(42, HASH, 9640, 1, (ID, INSTALL))),
]


def text() -> str:
    """What the file has to hold."""
    return json.dumps([*_good(), *_bad()], indent=1) + "\n"


def _entry(name: str, sender: str, kind: str, data: bytes, expect: str) -> Entry:
    return {
        "name": name,
        "comment": f"{kind}, {expect}",
        "input": {"task": TASK, "sender": sender, "kind": kind},
        "bytes": data.hex(),
        "expect": expect,
    }


def _good() -> Iterator[Entry]:
    for number, (sender, message) in enumerate(GOOD):
        starts = 1 << 20 if number % 2 else 1
        data = encode(message, task=TASK, sender=sender, counter=(starts << 32) + number)
        kind = type(message).__name__
        yield _entry(f"good {number} {kind}", sender, kind, data, "ok")


def _bad() -> Iterator[Entry]:
    body = msgpack.packb([ID])
    held = KINDS[Held]
    envelopes: dict[str, tuple[object, str]] = {
        "empty array": ([], refusals.MALFORMED),
        "a map": ({}, refusals.MALFORMED),
        "next wire version": ([2, held, TASK, AGGREGATOR, 1, body, b"", b""], "wire_version"),
        "version is true": ([True, held, TASK, AGGREGATOR, 1, body, b"", b""], refusals.MALFORMED),
        "a field short": ([1, held, TASK, AGGREGATOR, 1, body, b""], refusals.MALFORMED),
        "body is text": ([1, held, TASK, AGGREGATOR, 1, "x", b"", b""], refusals.MALFORMED),
        "other task": ([1, held, "other", AGGREGATOR, 1, body, b"", b""], refusals.WRONG_TASK),
        "other sender": ([1, held, TASK, DEVICE, 1, body, b"", b""], refusals.WRONG_SENDER),
        "unknown kind": ([1, 99, TASK, AGGREGATOR, 1, body, b"", b""], refusals.WRONG_KIND),
        "another kind": ([1, 5, TASK, AGGREGATOR, 1, body, b"", b""], refusals.WRONG_KIND),
        "counter below 0": ([1, held, TASK, AGGREGATOR, -1, body, b"", b""], refusals.MALFORMED),
        "id a byte short": (
            [1, held, TASK, AGGREGATOR, 1, msgpack.packb([ID[:15]]), b"", b""],
            refusals.MALFORMED,
        ),
        "body with a tail": (
            [1, held, TASK, AGGREGATOR, 1, body + b"\xc0", b"", b""],
            refusals.MALFORMED,
        ),
        "empty body": ([1, held, TASK, AGGREGATOR, 1, b"", b"", b""], refusals.MALFORMED),
    }
    for name, (envelope, expect) in envelopes.items():
        yield _entry(name, AGGREGATOR, "Held", msgpack.packb(envelope), expect)
    yield _entry("nothing at all", AGGREGATOR, "Held", b"", refusals.MALFORMED)
    good = msgpack.packb([1, held, TASK, AGGREGATOR, 1, body, b"", b""])
    yield _entry("cut off", AGGREGATOR, "Held", good[:-3], refusals.MALFORMED)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
