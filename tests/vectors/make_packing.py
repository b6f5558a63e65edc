"""Writes packing.json: bodies, good and bad. Run it with ``python -m tests.vectors.make_packing``.

In ``input``: the codec, the shapes of the layout, the seeds and, for bodies that are right, the
delta. ``bytes`` is the body, ``decoded`` what it stands for, ``expect`` either "ok" or the reason
of the refusal. Bytes are spelled in hex; the numbers of deltas are float32, little-endian. Running
it must change nothing: a change here means that devices in the field can no longer send updates.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from protocol import refusals
from protocol.stream import Stream, derive
from protocol.vectors.layout import Layout, Tensor
from protocol.vectors.packing import decode, encode, parse_codec

PATH = Path(__file__).with_name("packing.json")

ROUNDING = bytes(range(32))
SUPPORT = bytes(range(32, 64))
TINY = Layout((Tensor("0", (3, 2)), Tensor("1", (2,))))
WIDE = Layout((Tensor("0", (30, 20)), Tensor("1", (20,))))

Entry = dict[str, object]


def text() -> str:
    """What the file has to hold."""
    return json.dumps([*_good(), *_bad(), *_coarse_good(), *_coarse_bad()], indent=1) + "\n"


def _input(codec: str, layout: Layout) -> Entry:
    return {
        "codec": codec,
        "shapes": [tensor.shape for tensor in layout.tensors],
        "rounding_seed": ROUNDING.hex(),
        "support_seed": SUPPORT.hex(),
    }


def _good_entry(codec: str, comment: str, layout: Layout, delta: npt.NDArray[np.float32]) -> Entry:
    spec = parse_codec(codec)
    body = encode(delta, spec, layout, rounding_seed=ROUNDING, support_seed=SUPPORT)
    decoded = decode(body, spec, layout, support_seed=SUPPORT).dense()
    return {
        "name": f"{codec}, {comment}",
        "comment": comment,
        "input": {**_input(codec, layout), "delta": delta.astype("<f4").tobytes().hex()},
        "bytes": body.hex(),
        "decoded": decoded.astype("<f4").tobytes().hex(),
        "expect": "ok",
    }


def _good() -> Iterator[Entry]:
    tiny = np.array([1, -2.5, 0, 0.125, -0.0625, 3, 1e-3, -70_000], np.float32)
    for support in ("dense", "topk-0.25", "randk-0.5"):
        for dtype in ("float32", "float16", "int8"):
            yield _good_entry(f"{support}/{dtype}", "two tensors", TINY, tiny)
    wide = Stream(derive(ROUNDING, "delta")).uniform(WIDE.size) - np.float32(0.5)
    yield _good_entry("topk-0.002/int8", "few: varints", WIDE, wide)
    yield _good_entry("topk-0.02/int8", "some: buckets", WIDE, wide)
    yield _good_entry("topk-0.3/int8", "many: a bitmap", WIDE, wide)
    yield _good_entry("dense/int8", "all zero", TINY, np.zeros(TINY.size, np.float32))
    yield _good_entry("topk-0.5/float32", "ties", TINY, np.ones(TINY.size, np.float32))


def _coarse_good() -> Iterator[Entry]:
    tiny = np.array([1, -2.5, 0, 0.125, -0.0625, 3, 1e-3, -70_000], np.float32)
    wide = Stream(derive(ROUNDING, "delta")).uniform(WIDE.size) - np.float32(0.5)
    for dtype in ("int4", "ternary"):
        for support in ("dense", "topk-0.25", "randk-0.5"):
            yield _good_entry(f"{support}/{dtype}", "two tensors", TINY, tiny)
        yield _good_entry(f"dense/{dtype}", "scales of blocks", WIDE, wide)
        yield _good_entry(f"topk-0.05/{dtype}", "fitted buckets", WIDE, wide)
        yield _good_entry(f"topk-0.9/{dtype}", "a bitmap, scales of blocks", WIDE, wide)
        yield _good_entry(f"dense/{dtype}/calibrated", "two tensors", TINY, tiny)


def _coarse_bad() -> Iterator[Entry]:
    scale = "0000803f"
    cases = (
        ("dense/int4", "scale missing", "00" * 4 + scale, refusals.WRONG_SHAPE),
        ("dense/int4", "level -8", "80" + "00" * 3 + scale * 2, refusals.MALFORMED),
        ("dense/int4", "level -8 in the low half", "08" + "00" * 3 + scale * 2, refusals.MALFORMED),
        ("dense/int4", "scale infinite", "00" * 4 + scale + "0000807f", refusals.NOT_FINITE),
        ("dense/int4", "scale above 2**124", "00" * 4 + scale + "0100807d", refusals.MALFORMED),
        ("topk-0.3/int4", "a level after the last", "1111" + "0007" + scale, refusals.MALFORMED),
        ("dense/ternary", "byte 243", "f300" + scale * 2, refusals.MALFORMED),
        ("dense/ternary", "a level after the last", "001b" + scale * 2, refusals.MALFORMED),
        ("dense/ternary", "scale above 2**126", "0000" + scale + "0100807e", refusals.MALFORMED),
        ("topk-0.25/int8", "fitted buckets are not for int8",
         "7f81" + "03" + "0d" + "01" + scale * 2, refusals.MALFORMED),
        ("topk-0.25/int4", "fitted buckets cut off", "11" + "03", refusals.MALFORMED),
        ("topk-0.25/int4", "bits after the low ones", "11" + "03" + "1d" + "05" + scale * 2,
         refusals.MALFORMED),
    )  # fmt: skip
    yield from _refused(cases)


def _bad() -> Iterator[Entry]:
    scale = "0502013c"
    cases = (
        ("dense/float32", "empty", "", refusals.WRONG_SHAPE),
        ("dense/float32", "one byte short", "00" * 31, refusals.WRONG_SHAPE),
        ("dense/float32", "one number too many", "00" * 36, refusals.WRONG_SHAPE),
        ("dense/float32", "NaN", "00" * 28 + "0000c07f", refusals.NOT_FINITE),
        ("dense/float16", "infinity", "00" * 14 + "007c", refusals.NOT_FINITE),
        ("dense/int8", "scale missing", "00" * 8 + scale, refusals.WRONG_SHAPE),
        ("dense/int8", "scale NaN", "00" * 8 + scale + "0000c07f", refusals.NOT_FINITE),
        ("dense/int8", "scale negative", "00" * 8 + scale + "000080bf", refusals.MALFORMED),
        ("dense/int8", "scale above 2**120", "00" * 8 + scale + "0100807b", refusals.MALFORMED),
        ("dense/int8", "level -128", "80" + "00" * 7 + scale * 2, refusals.MALFORMED),
        ("topk-0.25/int8", "unknown coding", "7f81" + "0381" + scale * 2, refusals.MALFORMED),
        ("topk-0.25/int8", "three in the bitmap", "7f81" + "0083" + scale * 2, refusals.MALFORMED),
        ("topk-0.25/int8", "varint with a group too many", "7f81010080" + "00" + scale * 2,
         refusals.MALFORMED),
        ("topk-0.25/int8", "varint beyond the model", "7f81" + "010007" + scale * 2,
         refusals.MALFORMED),
        ("topk-0.25/int8", "buckets out of order", "7f81" + "02070003" + scale * 2,
         refusals.MALFORMED),
        ("topk-0.25/int8", "a scale for a tensor that sends nothing",
         "7f81" + "0003" + scale * 2, refusals.WRONG_SHAPE),
        ("randk-0.25/float16", "a number too many", "00" * 6, refusals.WRONG_SHAPE),
    )  # fmt: skip
    yield from _refused(cases)


def _refused(cases: Iterable[tuple[str, str, str, str]]) -> Iterator[Entry]:
    for codec, comment, body, reason in cases:
        yield {
            "name": f"{codec}, {comment}",
            "comment": comment,
            "input": _input(codec, TINY),
            "bytes": body,
            "expect": reason,
        }


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
