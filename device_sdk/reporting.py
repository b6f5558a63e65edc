"""From a delta to the update that is stored and sent, and back into the residual.

Error feedback (Stich et al. 2018): with a contractive codec the residual is added before
encoding and what was not sent becomes the next residual, so that residual + sent = delta +
previous residual. Unbiased codecs keep none. Pure functions.
"""

import numpy as np
import numpy.typing as npt

from device_sdk.pending import Pending, Residual
from protocol import refusals
from protocol.codec import decode_update, encode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import Lease, Update
from protocol.vectors.layout import Layout
from protocol.vectors.packing import decode, encode, parse_codec
from protocol.vectors.quantise import LARGEST
from protocol.vectors.sparse import decode_indices
from protocol.vectors.support import support_seed

Float32 = npt.NDArray[np.float32]


def make_pending(
    task: str,
    lease: Lease,
    delta: Float32,
    num_samples: int,
    *,
    layout: Layout,
    residual: Residual | None,
    rounding_seed: bytes,
) -> Pending:
    """Encode ``delta`` (float32, ``layout.size`` values, finite) as the lease's codec asks.

    Raises RemoteProtocolError (``oversize``) if the lease does not allow what its codec needs.
    """
    codec = parse_codec(lease.codec)
    support = support_seed(task, lease.version)
    wanted = delta + residual_values(residual, layout.size) if codec.contractive else delta
    if not is_sound(wanted):  # a residual that has run away is dropped, and nothing else
        wanted = delta
    body = encode(wanted, codec, layout, rounding_seed=rounding_seed, support_seed=support)
    update = encode_update(Update(lease.version, lease.codec, num_samples, body))
    if len(update) > lease.budget_bytes:
        raise RemoteProtocolError(
            refusals.OVERSIZE, f"{len(update)} bytes, the lease allows {lease.budget_bytes}"
        )
    unsent = b""
    if codec.contractive:
        sent = decode(body, codec, layout, support_seed=support).dense()
        unsent = (wanted - sent).astype("<f4").tobytes()
    return Pending(lease.lease_id, lease.version, lease.partition, update, unsent)


def fold(task: str, pending: Pending, layout: Layout) -> Residual:
    """Return the residual with a refused update's delta taken back into it.

    If the model has changed its shape meanwhile, only what was never sent remains.
    """
    values = np.frombuffer(pending.residual, "<f4")
    if pending.sent:
        return _fold_masked(pending, values, layout.size)
    update = decode_update(pending.update)
    support = support_seed(task, update.base_version)
    codec = parse_codec(update.codec)
    try:
        sent = decode(update.body, codec, layout, support_seed=support).dense()
    except RemoteProtocolError:
        return Residual(pending.lease_id, pending.residual)
    if layout.size != values.size:
        return Residual(pending.lease_id, pending.residual)
    return Residual(pending.lease_id, (values + sent).astype("<f4").tobytes())


def _fold_masked(pending: Pending, values: Float32, size: int) -> Residual:
    """What a mask hides is kept beside it for this."""
    sent = np.frombuffer(pending.sent, "<f4")
    if values.size != size:
        return Residual(pending.lease_id, pending.residual)
    folded = values.astype(np.float32)
    folded[decode_indices(pending.indices, size, sent.size)] += sent
    return Residual(pending.lease_id, folded.astype("<f4").tobytes())


def is_sound(delta: Float32) -> bool:
    """Every value is finite, and small enough to be encoded whatever the codec."""
    return bool(np.all(np.abs(delta) <= LARGEST))


def residual_values(residual: Residual | None, size: int) -> Float32:
    """Return the residual of a model with ``size`` params: zeros without one that fits."""
    if residual is None or len(residual.values) != 4 * size:
        return np.zeros(size, np.float32)
    return np.frombuffer(residual.values, "<f4")
