"""If one of these fails, devices in the field can no longer talk to us: raise WIRE_VERSION."""

import json
from typing import TypedDict

import numpy as np
import pytest

from protocol.errors import RemoteProtocolError
from protocol.stream import Stream, derive
from protocol.vectors.layout import Layout, Tensor
from protocol.vectors.packing import decode, encode, parse_codec
from tests.vectors import make_packing, make_stream


class PackingInput(TypedDict, total=False):
    codec: str
    shapes: list[list[int]]
    rounding_seed: str
    support_seed: str
    delta: str


class PackingVector(TypedDict, total=False):
    name: str
    comment: str
    input: PackingInput
    bytes: str
    decoded: str
    expect: str


class StreamVector(TypedDict):
    name: str
    comment: str
    input: dict[str, str | int | list[str | int | dict[str, str]]]
    bytes: str
    expect: str


PACKING: list[PackingVector] = json.loads(make_packing.PATH.read_text(encoding="utf-8"))
STREAM: list[StreamVector] = json.loads(make_stream.PATH.read_text(encoding="utf-8"))


def layout_of(given: PackingInput) -> Layout:
    return Layout(tuple(Tensor(str(i), tuple(shape)) for i, shape in enumerate(given["shapes"])))


def drawn(vector: StreamVector) -> bytes:
    """What our code gives for the call in the vector."""
    match vector["input"]:
        case {"method": "derive", "seed": str(seed), "labels": list(labels)}:
            plain = [bytes.fromhex(x["bytes"]) if isinstance(x, dict) else x for x in labels]
            return derive(bytes.fromhex(seed), *plain)
        case {"seed": str(seed), "method": str(method), **arguments}:
            numbers = {key: value for key, value in arguments.items() if isinstance(value, int)}
            stream = Stream(bytes.fromhex(seed))
            stream.bytes(numbers.pop("skip", 0))
            result: bytes | np.ndarray[tuple[int], np.dtype[np.generic]]
            result = getattr(stream, method)(**numbers)
            if isinstance(result, bytes):
                return result
            return result.astype(result.dtype.newbyteorder("<")).tobytes()
    raise AssertionError(vector)


@pytest.mark.parametrize("vector", STREAM, ids=lambda vector: str(vector["name"]))
def test_a_seed_gives_the_frozen_numbers(vector: StreamVector) -> None:
    assert drawn(vector).hex() == vector["bytes"]


@pytest.mark.parametrize("vector", PACKING, ids=lambda vector: str(vector["name"]))
def test_a_body_decodes_as_frozen(vector: PackingVector) -> None:
    given = vector["input"]
    spec, layout = parse_codec(given["codec"]), layout_of(given)
    body, support_seed = bytes.fromhex(vector["bytes"]), bytes.fromhex(given["support_seed"])
    if vector["expect"] == "ok":
        decoded = decode(body, spec, layout, support_seed=support_seed)
        assert decoded.dense().astype("<f4").tobytes().hex() == vector["decoded"]
        return
    with pytest.raises(RemoteProtocolError) as refusal:
        decode(body, spec, layout, support_seed=support_seed)
    assert refusal.value.reason == vector["expect"]


@pytest.mark.parametrize(
    "vector",
    [vector for vector in PACKING if vector["expect"] == "ok"],
    ids=lambda vector: str(vector["name"]),
)
def test_a_delta_encodes_to_the_frozen_bytes(vector: PackingVector) -> None:
    given = vector["input"]
    body = encode(
        np.frombuffer(bytes.fromhex(given["delta"]), "<f4").astype(np.float32),
        parse_codec(given["codec"]),
        layout_of(given),
        rounding_seed=bytes.fromhex(given["rounding_seed"]),
        support_seed=bytes.fromhex(given["support_seed"]),
    )
    assert body.hex() == vector["bytes"]


def test_the_generators_change_nothing() -> None:
    assert make_stream.text() == make_stream.PATH.read_text(encoding="utf-8")
    assert make_packing.text() == make_packing.PATH.read_text(encoding="utf-8")


def test_names_say_which_vector_is_meant() -> None:
    for names in ([v["name"] for v in STREAM], [v["name"] for v in PACKING]):
        assert len(set(names)) == len(names)
