"""Updates that have come in part: bounded memory, a deadline each.

What stays incomplete is asked for once more (`protocol.messages.ChunksMissing`) and then given up:
the device still holds the update and asks after it itself.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from protocol import refusals
from protocol.chunks import Assembly
from protocol.errors import RemoteProtocolError
from protocol.messages import UpdateChunk

#: Smaller chunks than this are not worth their bookkeeping: so many pieces are refused.
MIN_CHUNK_BYTES: Final = 256


@dataclass(slots=True)
class Partial:
    """An update of ``device`` that is not whole yet."""

    device: str
    assembly: Assembly
    deadline: float
    asked: bool = False


class Partials:
    """All updates that are not whole, in at most ``max_bytes`` of memory together."""

    def __init__(self, max_bytes: int, patience_s: float) -> None:
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._by_id: OrderedDict[bytes, Partial] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, lease_id: bytes) -> Partial | None:
        """Return what has come of an update."""
        return self._by_id.get(lease_id)

    def add(self, device: str, chunk: UpdateChunk, budget_bytes: int, now: float) -> bytes | None:
        """Take a chunk; return the whole update when this chunk completes it.

        Raises RemoteProtocolError: ``oversize`` beyond ``budget_bytes``, ``busy`` when all memory
        is taken, ``malformed`` for a chunk that contradicts the others.
        """
        if chunk.num_chunks == 1 and chunk.index == 0:
            if len(chunk.data) > budget_bytes:
                raise RemoteProtocolError(refusals.OVERSIZE, f"more than {budget_bytes} bytes")
            self.drop(chunk.lease_id)
            return chunk.data
        if chunk.num_chunks > budget_bytes // MIN_CHUNK_BYTES + 1:
            raise RemoteProtocolError(refusals.OVERSIZE, f"{chunk.num_chunks} chunks")
        partial = self._partial(device, chunk, budget_bytes, now)
        if self.num_bytes + len(chunk.data) > self._max_bytes:
            raise RemoteProtocolError(refusals.BUSY, f"{len(self)} updates are incomplete already")
        before = partial.assembly.num_bytes
        partial.assembly.add(chunk.index, chunk.data)
        self.num_bytes += partial.assembly.num_bytes - before
        self._postpone(chunk.lease_id, partial, now)
        if not partial.assembly.complete:
            return None
        self.drop(chunk.lease_id)
        return partial.assembly.join()

    def drop(self, lease_id: bytes) -> None:
        """Forget what has come of an update."""
        partial = self._by_id.pop(lease_id, None)
        if partial is not None:
            self.num_bytes -= partial.assembly.num_bytes

    def overdue(self, now: float) -> list[tuple[bytes, Partial]]:
        """Return the updates whose patience is over: asked for now, or dropped if they were."""
        over = []
        while self._by_id:
            lease_id, partial = next(iter(self._by_id.items()))
            if partial.deadline > now:
                break
            over.append((lease_id, partial))
            if partial.asked:
                self.drop(lease_id)
            else:
                partial.asked = True
                self._postpone(lease_id, partial, now)
        return over

    def next_deadline(self) -> float | None:
        """Return when the next update is overdue."""
        return next(iter(self._by_id.values())).deadline if self._by_id else None

    def _postpone(self, lease_id: bytes, partial: Partial, now: float) -> None:
        partial.deadline = now + self._patience_s
        self._by_id.move_to_end(lease_id)

    def _partial(self, device: str, chunk: UpdateChunk, budget_bytes: int, now: float) -> Partial:
        partial = self._by_id.get(chunk.lease_id)
        if partial is not None and partial.assembly.num_chunks == chunk.num_chunks:
            return partial
        self.drop(chunk.lease_id)  # cut anew: the device met a broker with other limits
        assembly = Assembly(chunk.num_chunks, budget_bytes)
        partial = Partial(device, assembly, now + self._patience_s)
        self._by_id[chunk.lease_id] = partial
        return partial
