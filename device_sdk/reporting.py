"""From a delta to the update that is stored and sent, and back into the residual.

What is remembered from one update to the next: `device_sdk.feedback`. Pure functions.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from device_sdk.feedback import feedback
from device_sdk.pending import Pending, Residual
from protocol import refusals
from protocol.codec import decode_update, encode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import Lease, Update
from protocol.vectors.layout import Layout
from protocol.vectors.packing import decode, encode, parse_codec
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
    fed_back = feedback(delta, codec, residual, version=lease.version)
    body = encode(fed_back.wanted, codec, layout, rounding_seed=rounding_seed, support_seed=support)
    update = encode_update(Update(lease.version, lease.codec, num_samples, body))
    if len(update) > lease.budget_bytes:
        raise RemoteProtocolError(
            refusals.OVERSIZE, f"{len(update)} bytes, the lease allows {lease.budget_bytes}"
        )
    pending = Pending(lease.lease_id, lease.version, lease.partition, update, b"")
    if not codec.contractive:
        return pending
    sent = decode(body, codec, layout, support_seed=support).dense()
    return replace(pending, residual=fed_back.after(sent), cache_of=fed_back.cache_of)


def fold(task: str, pending: Pending, layout: Layout) -> Residual:
    """Return the residual with a refused update's delta taken back into it; not if calibrated.

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
