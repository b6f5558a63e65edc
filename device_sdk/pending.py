"""What a device keeps across reboots: the update that has no receipt yet, and its residual.

The two are tied by the update's id. A receipt is committed in two writes, the residual first: a
device that loses power between them finds a residual that already carries the pending update's id,
and knows that the update was counted.
"""

from dataclasses import dataclass

import msgpack

PENDING = "pending"
RESIDUAL = "residual"
BOOTS = "boots"


@dataclass(frozen=True, slots=True)
class Pending:
    """An update as it will be sent, and what is the `Residual` once it is counted.

    That is ``residual`` (float32 bytes) and ``cache_of``. Of a masked update with a residual also
    what it sends, in the open, to be taken back if it is refused: ``sent`` (float32 bytes) at
    ``indices`` (`protocol.vectors.sparse`). With a ``seal_seed`` the update is sealed as it is
    sent: to the same bytes each time.
    """

    lease_id: bytes
    base_version: int
    partition: int
    update: bytes
    residual: bytes
    indices: bytes = b""
    sent: bytes = b""
    cache_of: bytes = b""
    seal_seed: bytes = b""


@dataclass(frozen=True, slots=True)
class Residual:
    """What contractive codecs have not sent; ``lease_id`` is the last update it accounts for.

    ``version`` is the model's from which on it ages: the one in which that update was counted, or
    the base of one that came too late; -1: it does not age.

    With ``cache_of`` it is something else, the *cache* of calibrated codecs: what was counted of
    this device in that mask epoch, named by its roster's hash.
    """

    lease_id: bytes
    values: bytes
    cache_of: bytes = b""
    version: int = -1


def pack_pending(pending: Pending) -> bytes:
    """Return the bytes to be stored."""
    packed: bytes = msgpack.packb(
        [
            pending.lease_id,
            pending.base_version,
            pending.partition,
            pending.update,
            pending.residual,
            pending.indices,
            pending.sent,
            pending.cache_of,
            pending.seal_seed,
        ]
    )
    return packed


def unpack_pending(data: bytes) -> Pending:
    """Read what `pack_pending` wrote, also of old; storage has checked that it is whole."""
    return Pending(*msgpack.unpackb(data))


def pack_residual(residual: Residual) -> bytes:
    """Return the bytes to be stored."""
    packed: bytes = msgpack.packb(
        [residual.lease_id, residual.values, residual.cache_of, residual.version]
    )
    return packed


def unpack_residual(data: bytes) -> Residual:
    """Read what `pack_residual` wrote, also of old; storage has checked that it is whole."""
    return Residual(*msgpack.unpackb(data))
