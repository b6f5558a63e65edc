"""What exceeds one packet is cut here and put together again.

Chunks may come in any order and more than once; what is missing can be asked for. The bytes are
trusted only when the whole is checked by its hash or its decoder.
"""

import zlib
from collections.abc import Sequence
from typing import Final

from protocol import refusals
from protocol.codec import ENVELOPE_BYTES
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.messages import CHUNK_BYTES, MAX_CHUNKS

#: A packet below this cannot carry a chunk worth sending.
MIN_PACKET_BYTES: Final = 1024


def payload_bytes(max_packet_bytes: int) -> int:
    """Return how many bytes of data a chunk may hold where a packet may hold so many.

    The topic and MQTT's own header are inside ``max_packet_bytes``; 256 bytes are kept for them.
    Raises LocalProtocolError below `MIN_PACKET_BYTES`.
    """
    if max_packet_bytes < MIN_PACKET_BYTES:
        raise LocalProtocolError(f"a broker that takes {max_packet_bytes} bytes a packet only")
    return min(CHUNK_BYTES, max_packet_bytes - 256) - ENVELOPE_BYTES


def checksum(data: bytes) -> int:
    """Return the CRC-32 by which the chunks of one update know each other."""
    return zlib.crc32(data)


def cut(data: bytes, size: int) -> list[bytes]:
    """Cut ``data`` into pieces of at most ``size`` bytes; empty data is one empty piece."""
    if not data:
        return [b""]
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    if len(pieces) > MAX_CHUNKS:
        raise LocalProtocolError(f"{len(data)} bytes need more than {MAX_CHUNKS} chunks of {size}")
    return pieces


class Assembly:
    """Puts the chunks of one thing together, in at most ``max_bytes`` of memory."""

    def __init__(self, num_chunks: int, max_bytes: int) -> None:
        self.num_chunks = num_chunks
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._pieces: dict[int, bytes] = {}

    @property
    def complete(self) -> bool:
        """Every chunk is here."""
        return len(self._pieces) == self.num_chunks

    def missing(self) -> Sequence[int]:
        """Return the indices that have not come, in order."""
        return [index for index in range(self.num_chunks) if index not in self._pieces]

    def fits(self, index: int, data: bytes) -> bool:
        """Whether a chunk can be of the same whole as those that are here."""
        known = self._pieces.get(index)
        if known is not None:
            return known == data
        return self.num_bytes + len(data) <= self._max_bytes

    def add(self, index: int, data: bytes) -> None:
        """Take a chunk; one that is here already changes nothing.

        Raises RemoteProtocolError: ``malformed`` for an index outside the whole or for other bytes
        under the same index, ``oversize`` beyond ``max_bytes``.
        """
        if index >= self.num_chunks:
            raise RemoteProtocolError(
                refusals.MALFORMED, f"chunk {index} of {self.num_chunks} chunks"
            )
        known = self._pieces.get(index)
        if known is not None:
            if known != data:
                raise RemoteProtocolError(refusals.MALFORMED, f"chunk {index} came twice, changed")
            return
        if self.num_bytes + len(data) > self._max_bytes:
            raise RemoteProtocolError(refusals.OVERSIZE, f"more than {self._max_bytes} bytes")
        self._pieces[index] = data
        self.num_bytes += len(data)

    def replace(self, index: int, data: bytes) -> None:
        """Take a chunk in place of the one that is here, if any. Raises as `add`."""
        known = self._pieces.pop(index, None)
        self.num_bytes -= len(known or b"")
        self.add(index, data)

    def join(self) -> bytes:
        """Return the whole. Raises LocalProtocolError while chunks are missing."""
        if not self.complete:
            raise LocalProtocolError(f"{len(self.missing())} chunks are missing")
        return b"".join(self._pieces[index] for index in range(self.num_chunks))
