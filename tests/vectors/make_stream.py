"""Writes stream.json: what seeds give. Run it with ``python -m tests.vectors.make_stream``.

Each entry has the seed (hex) and one call in ``input`` and the little-endian numbers that it gives
in ``bytes``: int64, float32 or plain bytes. Running it must change nothing: a change here means
that devices and aggregator of different releases no longer draw the same numbers.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from protocol.stream import PAGE_BYTES, Stream, derive

PATH = Path(__file__).with_name("stream.json")

ZERO = bytes(32)
COUNTING = bytes(range(32))

Entry = dict[str, object]


def text() -> str:
    """What the file has to hold."""
    entries = [*_bytes(), *_integers(), *_uniform(), *_orders(), *_derived()]
    return json.dumps(entries, indent=1) + "\n"


def _entry(name: str, comment: str, call: Entry, data: bytes) -> Entry:
    return {"name": name, "comment": comment, "input": call, "bytes": data.hex(), "expect": "ok"}


def _call(seed: bytes, method: str, **arguments: int) -> Entry:
    return {"seed": seed.hex(), "method": method, **arguments}


def _bytes() -> Iterator[Entry]:
    for name, seed in (("zero seed", ZERO), ("counting seed", COUNTING)):
        yield _entry(
            f"bytes, {name}",
            "the start of page 0",
            _call(seed, "bytes", num_bytes=40),
            Stream(seed).bytes(40),
        )
    stream = Stream(COUNTING)
    skipped = PAGE_BYTES - 8
    stream.bytes(skipped)
    yield _entry(
        "bytes, next page",
        "the last 8 bytes of page 0 and the first 8 of page 1",
        _call(COUNTING, "bytes", skip=skipped, num_bytes=16),
        stream.bytes(16),
    )


def _integers() -> Iterator[Entry]:
    cases = {
        1: "always 0, yet a word each",
        10: "words modulo 10",
        2**32: "a power of two skips no word",
        2**64 // 3 + 1: "skips a third of the words",
        2**63: "the largest bound",
    }
    for bound, comment in cases.items():
        numbers = Stream(COUNTING).integers(bound, 8)
        yield _entry(
            f"integers below {bound}",
            comment,
            _call(COUNTING, "integers", bound=bound, size=8),
            numbers.astype("<i8").tobytes(),
        )


def _uniform() -> Iterator[Entry]:
    numbers = Stream(COUNTING).uniform(8)
    yield _entry(
        "uniform",
        "the upper 24 bits of 4-byte words, as float32",
        _call(COUNTING, "uniform", size=8),
        numbers.astype("<f4").tobytes(),
    )


def _orders() -> Iterator[Entry]:
    order = Stream(COUNTING).permutation(10)
    yield _entry(
        "permutation",
        "the order of 10 words",
        _call(COUNTING, "permutation", size=10),
        order.astype("<i8").tobytes(),
    )
    for size, num_chosen, comment in (
        (100, 5, "drawn"),
        (8, 6, "more than half: the two that are left out are drawn"),
        (8, 8, "all of them: nothing is drawn"),
    ):
        subset = Stream(COUNTING).subset(size, num_chosen)
        yield _entry(
            f"subset of {num_chosen} of {size}",
            comment,
            _call(COUNTING, "subset", size=size, num_chosen=num_chosen),
            subset.astype("<i8").tobytes(),
        )


def _derived() -> Iterator[Entry]:
    cases: dict[str, list[str | bytes | int]] = {
        "no label": [],
        "text": ["support"],
        "text and number": ["support", "digits", 7],
        "bytes": [b"\x00\x01"],
        "numbers": [0, -1, 255, 2**40],
        "umlaut": ["gerät"],
    }
    for name, labels in cases.items():
        spelled = [{"bytes": each.hex()} if isinstance(each, bytes) else each for each in labels]
        yield _entry(
            f"derive, {name}",
            "labels are hashed with their type and length",
            {"seed": COUNTING.hex(), "method": "derive", "labels": spelled},
            derive(COUNTING, *labels),
        )


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
