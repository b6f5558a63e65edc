"""The checks that a whole update must pass before it may enter a buffer.

Pure: the lease and the current version are arguments. A refusal says whose fault it is in one word.
"""

from protocol import refusals
from protocol.codec import decode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import Update
from protocol.vectors.layout import Layout
from protocol.vectors.packing import CodecSpec, SparseDelta, decode


def check_staleness(base_version: int, version: int, limit: int) -> int:
    """Return the staleness of a base version, 0 or more.

    Raises RemoteProtocolError: ``future_version`` or, beyond ``limit``, ``too_stale``.
    """
    staleness = version - base_version
    if staleness < 0:
        raise RemoteProtocolError(
            refusals.FUTURE_VERSION, f"base version {base_version}, the current one is {version}"
        )
    if staleness > limit:
        raise RemoteProtocolError(
            refusals.TOO_STALE, f"base version {base_version} is {staleness} behind, limit {limit}"
        )
    return staleness


def admit(
    data: bytes, *, leased_version: int, leased_codec: str, version: int, limit: int
) -> tuple[Update, int]:
    """Parse a whole update and hold it against its lease; return it and its staleness.

    Raises RemoteProtocolError: ``malformed``, ``future_version``, ``too_stale``, ``wrong_base`` or
    ``wrong_codec``.
    """
    update = decode_update(data)
    staleness = check_staleness(update.base_version, version, limit)
    if update.base_version != leased_version:
        raise RemoteProtocolError(
            refusals.WRONG_BASE, f"base version {update.base_version}, leased {leased_version}"
        )
    if update.codec != leased_codec:
        raise RemoteProtocolError(
            refusals.WRONG_CODEC, f"codec {update.codec!r}, leased {leased_codec!r}"
        )
    return update, staleness


def read_delta(
    update: Update, codec: CodecSpec, layout: Layout, support_seed: bytes
) -> SparseDelta:
    """Return the delta of an admitted update.

    Raises RemoteProtocolError: ``wrong_shape``, ``not_finite`` or ``malformed``.
    """
    return decode(update.body, codec, layout, support_seed=support_seed)
