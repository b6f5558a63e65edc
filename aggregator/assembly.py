"""Updates that have come in part: bounded memory, a deadline each.

A device on a slow link may take long for a chunk. When none has come for ``patience_s`` the missing
ones are asked for, once; when none has come for `GIVE_UP` times as long, what came is dropped. The
device still holds the update, and asks after it itself.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from protocol import refusals
from protocol.chunks import Assembly, checksum
from protocol.errors import RemoteProtocolError
from protocol.messages import UpdateChunk

#: Smaller chunks than this are not worth their bookkeeping: so many pieces are refused.
MIN_CHUNK_BYTES: Final = 256
#: How many times the patience passes without a chunk before an update is given up.
GIVE_UP: Final = 30


@dataclass(slots=True)
class Partial:
    """An update of ``device`` that is not whole yet; ``since`` is when its last chunk came."""

    device: str
    assembly: Assembly
    checksum: int
    since: float


class Partials:
    """All updates that are not whole, in at most ``max_bytes`` of memory together.

    Every partial of a queue has the same patience, so the one that waits longest is in front.
    """

    def __init__(self, max_bytes: int, patience_s: float) -> None:
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._fresh: OrderedDict[bytes, Partial] = OrderedDict()
        self._asked: OrderedDict[bytes, Partial] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._asked)

    def get(self, lease_id: bytes) -> Partial | None:
        """Return what has come of an update."""
        return self._fresh.get(lease_id) or self._asked.get(lease_id)

    def add(self, device: str, chunk: UpdateChunk, budget_bytes: int, now: float) -> bytes | None:
        """Take a chunk; return the whole update when this chunk completes it.

        Raises RemoteProtocolError: ``oversize`` beyond ``budget_bytes``, ``malformed`` for a chunk
        outside the whole, or alone without its checksum; ``busy`` when all memory is taken, and if
        the chunks do not fit together: a broker that takes packets of another size has an honest
        device cut its update anew half-way. All of them are to be sent again then.
        """
        if chunk.num_chunks == 1 and chunk.index == 0:
            if len(chunk.data) > budget_bytes:
                raise RemoteProtocolError(refusals.OVERSIZE, f"more than {budget_bytes} bytes")
            self.drop(chunk.lease_id)
            return _checked(chunk.data, chunk.checksum)
        if chunk.num_chunks > budget_bytes // MIN_CHUNK_BYTES + 1:
            raise RemoteProtocolError(refusals.OVERSIZE, f"{chunk.num_chunks} chunks")
        if self.num_bytes + len(chunk.data) > self._max_bytes:
            raise RemoteProtocolError(refusals.BUSY, f"{len(self)} updates are incomplete already")
        partial = self._partial(device, chunk, budget_bytes, now)
        before = partial.assembly.num_bytes
        partial.assembly.add(chunk.index, chunk.data)
        self.num_bytes += partial.assembly.num_bytes - before
        partial.since = now
        self._queue(chunk.lease_id).move_to_end(chunk.lease_id)
        if not partial.assembly.complete:
            return None
        self.drop(chunk.lease_id)
        update = partial.assembly.join()
        if checksum(update) != partial.checksum:
            raise RemoteProtocolError(refusals.BUSY, "chunks of two cuts: send all of them again")
        return update

    def drop(self, lease_id: bytes) -> None:
        """Forget what has come of an update."""
        partial = self._queue(lease_id).pop(lease_id, None)
        if partial is not None:
            self.num_bytes -= partial.assembly.num_bytes

    def to_ask_for(self, now: float) -> list[tuple[bytes, Partial]]:
        """Return the updates whose missing chunks are to be asked for now: each once."""
        late = _overdue(self._fresh, self._patience_s, now)
        for lease_id, partial in late:
            del self._fresh[lease_id]
            partial.since = now
            self._asked[lease_id] = partial
        return late

    def give_up(self, now: float) -> list[tuple[bytes, Partial]]:
        """Drop and return the updates that have not moved for too long."""
        late = _overdue(self._asked, GIVE_UP * self._patience_s, now)
        for lease_id, _ in late:
            self.drop(lease_id)
        return late

    def next_deadline(self) -> float | None:
        """Return when the next update is to be asked for or given up."""
        waits = ((self._fresh, self._patience_s), (self._asked, GIVE_UP * self._patience_s))
        fronts = [next(iter(queue.values())).since + wait for queue, wait in waits if queue]
        return min(fronts, default=None)

    def _queue(self, lease_id: bytes) -> OrderedDict[bytes, Partial]:
        return self._asked if lease_id in self._asked else self._fresh

    def _partial(self, device: str, chunk: UpdateChunk, budget_bytes: int, now: float) -> Partial:
        partial = self.get(chunk.lease_id)
        if (
            partial is not None
            and partial.checksum == chunk.checksum
            and partial.assembly.num_chunks == chunk.num_chunks
            and partial.assembly.fits(chunk.index, chunk.data)
        ):
            return partial
        self.drop(chunk.lease_id)  # cut anew for another broker, or trained anew
        assembly = Assembly(chunk.num_chunks, budget_bytes)
        partial = Partial(device, assembly, chunk.checksum, now)
        self._fresh[chunk.lease_id] = partial
        return partial


def _overdue(
    queue: OrderedDict[bytes, Partial], wait_s: float, now: float
) -> list[tuple[bytes, Partial]]:
    """Return the front of a queue; due by the same sum as `next_deadline`, to the last bit."""
    late = []
    for lease_id, partial in queue.items():
        if partial.since + wait_s > now:
            break
        late.append((lease_id, partial))
    return late


def _checked(update: bytes, expected: int) -> bytes:
    if checksum(update) != expected:
        raise RemoteProtocolError(refusals.MALFORMED, "the update does not have its checksum")
    return update
