"""The update that has no receipt yet, and what becomes of it: the session's memory of its own work.

A receipt is committed in two writes, the residual first, which names the update it accounts for:
so an update is never settled twice.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from device_sdk.actions import Action, Delete, Store
from device_sdk.pending import (
    PENDING,
    RESIDUAL,
    Pending,
    Residual,
    pack_pending,
    pack_residual,
    unpack_pending,
    unpack_residual,
)
from device_sdk.reporting import fold
from protocol import refusals
from protocol.chunks import checksum, cut
from protocol.messages import UpdateChunk
from protocol.vectors.layout import Layout

#: Late copies of this many settled leases are known for what they are.
CLOSED_LEASES: Final = 16


class Outgoing:
    """Made from what storage holds; what its methods return must be stored."""

    def __init__(self, task: str, stored: Mapping[str, bytes]) -> None:
        self.pending: Pending | None = None
        self.residual: Residual | None = None
        self._task = task
        self._closed: deque[bytes] = deque(maxlen=CLOSED_LEASES)
        if RESIDUAL in stored:
            self.residual = unpack_residual(stored[RESIDUAL])
            self._closed.append(self.residual.lease_id)
        if PENDING in stored:
            pending = unpack_pending(stored[PENDING])
            # If it is closed, the power went between the two writes of its receipt.
            self.pending = None if self.is_closed(pending.lease_id) else pending

    def is_closed(self, lease_id: bytes) -> bool:
        """Whether this lease's update has been settled."""
        return lease_id in self._closed

    def start(self) -> list[Action]:
        """Forget an update that was settled before the start."""
        return [] if self.pending is not None else [Delete(PENDING)]

    def hold(self, pending: Pending) -> list[Action]:
        """Keep an update until it is settled."""
        self.pending = pending
        return [Store(PENDING, pack_pending(pending))]

    def counted(self, pending: Pending, version: int) -> list[Action]:
        """It was counted in a version: what it has not sent is the residual, or it is in the cache.

        An unbiased update remembers nothing: the residual of others waits for their next one, and
        does not age by the versions that were made while this one was.
        """
        if not pending.residual:
            residual = self._as_it_was(pending)
            if residual.version >= 0:
                attended = version - pending.base_version
                residual = replace(residual, version=residual.version + attended)
            return self._close(residual)
        values, cache_of = pending.residual, pending.cache_of
        return self._close(Residual(pending.lease_id, values, cache_of, version))

    def refused(self, pending: Pending, reason: str, layout: Layout | None) -> list[Action]:
        """It will not be used. After a refusal that faults nobody its delta is not lost.

        One of a calibrated codec leaves no trace: the next difference is to the same cache.
        Nothing happens while folding needs a layout that is not known: it is refused again later.
        """
        residual = self._as_it_was(pending)
        if reason in refusals.FOLDED and pending.residual and not pending.cache_of:
            if layout is None:
                return []
            residual = fold(self._task, pending, layout)
            if reason == refusals.TOO_STALE:  # else the device was there: it missed nothing
                residual = replace(residual, version=pending.base_version)
        return self._close(residual)

    def _as_it_was(self, pending: Pending) -> Residual:
        if self.residual is None:
            return Residual(pending.lease_id, b"")
        return replace(self.residual, lease_id=pending.lease_id)

    def _close(self, residual: Residual) -> list[Action]:
        self.pending = None
        self.residual = residual
        self._closed.append(residual.lease_id)
        return [Store(RESIDUAL, pack_residual(residual)), Delete(PENDING)]


def pieces(
    pending: Pending, indices: tuple[int, ...], chunk_bytes: int, aggregator: bytes = b""
) -> list[UpdateChunk]:
    """Return chunks of an update, each with at most so many bytes of it: the ones named, or all.

    It is sealed to the public key ``aggregator`` if it is to be.
    """
    data, sealed = pending.update, int(bool(pending.seal_seed and aggregator))
    if sealed:
        from protocol.identity import seal  # noqa: PLC0415 - only devices with keys wait for it

        data = seal(data, aggregator, pending.seal_seed, pending.lease_id)
    parts, whole, lease_id = cut(data, chunk_bytes), checksum(data), pending.lease_id
    wanted = [index for index in indices if index < len(parts)] or range(len(parts))
    return [
        UpdateChunk(lease_id, whole, index, len(parts), parts[index], sealed) for index in wanted
    ]
