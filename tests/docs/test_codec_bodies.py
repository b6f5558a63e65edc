"""The page alone is enough to read a body: this decoder knows nothing else of `protocol.vectors`.

Slow and plain, one number after the other. Only the stream that draws rand-k's coordinates is ours.
"""

import json
import math
import struct
from fractions import Fraction
from pathlib import Path
from typing import Final, TypedDict

import pytest

from protocol.stream import Stream

VECTORS: Final = Path(__file__).parents[1] / "vectors" / "packing.json"
LARGEST: Final = {"int8": 127, "int4": 7, "ternary": 1}
MAX_SCALE: Final = {"int8": 2.0**120, "int4": 2.0**124, "ternary": 2.0**126}
PER_BYTE: Final = {"int8": 1, "int4": 2, "ternary": 5}
BLOCK: Final = {"int8": 1 << 28, "int4": 256, "ternary": 256}
FORMATS: Final = {"float32": "<f", "float16": "<e"}


class Asked(TypedDict, total=False):
    codec: str
    shapes: list[list[int]]
    support_seed: str


class Vector(TypedDict, total=False):
    name: str
    input: Asked
    bytes: str
    decoded: str
    expect: str


class RefusedError(Exception):
    """What the page calls refused, with its reason."""


GIVEN: Final[list[Vector]] = json.loads(VECTORS.read_text(encoding="utf-8"))


def single(value: float) -> float:
    """The nearest float32."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


class Reader:
    """Takes bytes from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        if len(self.data) < count:
            raise RefusedError("wrong_shape")
        taken, self.data = self.data[:count], self.data[count:]
        return taken


def digits_of(byte: int, dtype: str) -> list[int]:
    if dtype == "int8":
        return [byte - 256 if byte > 127 else byte]
    if dtype == "int4":
        halves = (byte % 16, byte // 16)
        return [half - 16 if half > 7 else half for half in halves]
    if byte > 242:
        raise RefusedError("malformed")
    return [(0, 1, -1)[byte // 3**place % 3] for place in range(5)]


def levels_of(data: bytes, count: int, dtype: str) -> list[int]:
    levels = [level for byte in data for level in digits_of(byte, dtype)]
    if any(levels[count:]) or any(abs(level) > LARGEST[dtype] for level in levels):
        raise RefusedError("malformed")
    return levels[:count]


def bits_of(data: bytes) -> list[int]:
    return [byte >> bit & 1 for byte in data for bit in range(8)]


def buckets(reader: Reader, size: int, count: int, low_bits: int) -> list[int]:
    packed = bits_of(reader.take(-(-count * low_bits // 8)))
    if any(packed[count * low_bits :]):
        raise RefusedError("malformed")
    lows = [
        sum(packed[at * low_bits + bit] << bit for bit in range(low_bits)) for at in range(count)
    ]
    num_bits = count + (size - 1 >> low_bits)
    indices: list[int] = []
    bucket = 0
    for bit in bits_of(reader.take(-(-num_bits // 8))):
        if not bit:
            bucket += 1
            continue
        if len(indices) == count:
            raise RefusedError("malformed")
        indices.append((bucket << low_bits) + lows[len(indices)])
    return indices


def varints(reader: Reader, count: int) -> list[int]:
    indices, before = [], -1
    for _ in range(count):
        groups = [reader.take(1)[0]]
        while groups[-1] > 127:
            groups.append(reader.take(1)[0])
        if len(groups) > 1 and groups[-1] == 0:
            raise RefusedError("malformed")
        before += 1 + sum((group & 127) << 7 * at for at, group in enumerate(groups))
        indices.append(before)
    return indices


def indices_of(reader: Reader, size: int, count: int, dtype: str) -> list[int]:
    coding = reader.take(1)[0]
    if coding > (3 if dtype in {"int4", "ternary"} else 2):
        raise RefusedError("malformed")
    if coding == 0:
        bits = bits_of(reader.take(-(-size // 8)))
        indices = [index for index, bit in enumerate(bits) if bit]
    elif coding == 1:
        indices = varints(reader, count)
    else:
        low_bits = 8 if coding == 2 else math.floor(math.log2(size / count))
        indices = buckets(reader, size, count, low_bits)
    if len(indices) != count or sorted(set(indices)) != indices or indices[-1] >= size:
        raise RefusedError("malformed")
    return indices


def scale_sizes(indices: list[int], sizes: list[int], dtype: str) -> list[int]:
    """How many values each scale is for."""
    found, start = [], 0
    for size in sizes:
        here = sum(start <= index < start + size for index in indices)
        found += [min(BLOCK[dtype], here - at) for at in range(0, here, BLOCK[dtype])]
        start += size
    return found


def read(body: bytes, asked: Asked) -> list[float]:
    codec = asked["codec"].removesuffix("/calibrated")
    support, dtype = codec.split("/")
    sizes = [math.prod(shape) for shape in asked["shapes"]]
    size = sum(sizes)
    share = Fraction(support.partition("-")[2] or "1")
    count = max(1, math.ceil(share * size))
    reader = Reader(body)
    per_byte = PER_BYTE.get(dtype)
    width = struct.calcsize(FORMATS[dtype]) if per_byte is None else 1
    raw = reader.take(-(-count // per_byte) if per_byte else count * width)
    indices = list(range(size))
    if support.startswith("topk"):
        try:
            indices = indices_of(reader, size, count, dtype)
        except RefusedError:
            raise RefusedError("malformed") from None
    elif support.startswith("randk"):
        indices = Stream(bytes.fromhex(asked["support_seed"])).subset(size, count).tolist()
    groups: list[int] = []
    if per_byte is None:
        values = [number for (number,) in struct.iter_unpack(FORMATS[dtype], raw)]
        scales: list[float] = []
    else:
        groups = scale_sizes(indices, sizes, dtype)
        scales = list(struct.unpack(f"<{len(groups)}f", reader.take(4 * len(groups))))
        values = []
    if reader.data:
        raise RefusedError("wrong_shape")
    if not all(map(math.isfinite, [*values, *scales])):
        raise RefusedError("not_finite")
    if per_byte is not None:
        if any(not 0 <= scale <= MAX_SCALE[dtype] for scale in scales):
            raise RefusedError("malformed")
        each = [scale for scale, many in zip(scales, groups, strict=True) for _ in range(many)]
        levels = levels_of(raw, count, dtype)
        values = [single(level * scale) for level, scale in zip(levels, each, strict=True)]
    decoded = [0.0] * size
    for index, value in zip(indices, values, strict=True):
        decoded[index] = value
    return decoded


@pytest.mark.parametrize("vector", GIVEN, ids=lambda vector: str(vector["name"]))
def test_the_page_says_what_a_body_stands_for(vector: Vector) -> None:
    body = bytes.fromhex(vector["bytes"])
    if vector["expect"] == "ok":
        wanted = [x for (x,) in struct.iter_unpack("<f", bytes.fromhex(vector["decoded"]))]
        assert read(body, vector["input"]) == wanted
        return
    with pytest.raises(RefusedError, match=vector["expect"]):
        read(body, vector["input"])
