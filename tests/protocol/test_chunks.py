"""Cutting and putting together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import refusals
from protocol.chunks import Assembly, cut, payload_bytes
from protocol.codec import encode
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import CHUNK_BYTES, MAX_CHUNKS, UpdateChunk


@given(st.binary(max_size=200), st.integers(1, 50), st.randoms())
def test_chunks_in_any_order_and_more_than_once_make_the_same_bytes(
    data: bytes, size: int, order: object
) -> None:
    pieces = list(enumerate(cut(data, size)))
    delivered = pieces + pieces[::2]
    order.shuffle(delivered)  # type: ignore[attr-defined] # hypothesis gives a random.Random
    assembly = Assembly(len(pieces), len(data))
    for index, piece in delivered:
        assembly.add(index, piece)
    assert assembly.join() == data


def test_missing_chunks_are_named_until_they_come() -> None:
    assembly = Assembly(4, 100)
    assembly.add(2, b"c")
    assert assembly.missing() == [0, 1, 3]
    assert not assembly.complete
    with pytest.raises(LocalProtocolError, match="3 chunks"):
        assembly.join()


def test_a_chunk_that_changes_is_refused_and_the_first_one_kept() -> None:
    assembly = Assembly(2, 100)
    assembly.add(0, b"a")
    with pytest.raises(RemoteProtocolError) as refused:
        assembly.add(0, b"b")
    assert refused.value.reason == refusals.MALFORMED
    assembly.add(1, b"c")
    assert assembly.join() == b"ac"


def test_more_bytes_than_allowed_are_refused() -> None:
    assembly = Assembly(2, 3)
    assembly.add(0, b"ab")
    with pytest.raises(RemoteProtocolError) as refused:
        assembly.add(1, b"cd")
    assert refused.value.reason == refusals.OVERSIZE
    assert assembly.num_bytes == 2


def test_an_index_outside_the_whole_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        Assembly(2, 10).add(2, b"")


@pytest.mark.parametrize("packet_bytes", [1024, 5_000, 60_000, 65_536, 1 << 20])
def test_a_full_chunk_fits_its_packet_with_the_longest_names(packet_bytes: int) -> None:
    data = bytes(payload_bytes(packet_bytes))
    chunk = UpdateChunk(bytes(16), 0xFFFF_FFFF, MAX_CHUNKS - 1, MAX_CHUNKS, data)
    payload = encode(chunk, task="t" * 64, sender="d" * 64, counter=1 << 40)
    topic = len("a/b/c") + len("/up/65535/") + 2 * 64
    mqtt_header = 5 + 2 + 2 + 1 + 5  # fixed header, topic length, packet id, properties
    assert len(payload) + topic + mqtt_header <= packet_bytes
    assert len(payload) <= CHUNK_BYTES


def test_too_small_a_packet_is_said_at_once() -> None:
    with pytest.raises(LocalProtocolError, match="1000"):
        payload_bytes(1000)
