"""From a delta to the masked update that is stored and sent: `reporting` in secure tasks.

On the common support the delta is clipped, made integers beside its weight, and masked. With the
plan's support (contractive) the residual is added before, and what was not sent, or cut by the
clip, or lost by rounding, stays as residual (`device_sdk.feedback`). Pure functions.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from device_sdk.feedback import feedback
from device_sdk.pending import Pending, Residual
from protocol import refusals
from protocol.codec import encode_update
from protocol.errors import RemoteProtocolError
from protocol.messages import Lease
from protocol.secagg.common import coordinates, read_named
from protocol.secagg.field import Elements
from protocol.secagg.messages import MaskedUpdate, Support
from protocol.secagg.roster import Roster
from protocol.vectors.packing import DENSE, CodecSpec
from protocol.vectors.sparse import Indices, encode_indices

Float32 = npt.NDArray[np.float32]


class Mask(Protocol):
    """A mask for one update, named by ``counter``."""

    @property
    def counter(self) -> int:
        """What the update names it by."""

    def apply(self, roster: Roster, values: Elements, public_seed: bytes, /) -> bytes:
        """Return the body of the update: the values under the mask."""

    def privacy_seed(self) -> bytes:
        """Return the seed of the noise beneath it (`Parameters.noisy`)."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The coordinates that travel, sorted (None: all of them); their support as it was told."""

    number: int
    indices: Indices | None
    named: bytes = b""


def choose(task: str, codec: CodecSpec, support: Support | None, size: int) -> Chosen | None:
    """Return the coordinates of an update with ``size`` params; None: the support is unknown yet.

    Raises RemoteProtocolError (``malformed``) for a support that does not fit the model.
    """
    if codec.support == DENSE:
        return Chosen(0, None)
    if support is None:
        return None
    num_kept = codec.num_kept(size)
    named = read_named(support.indices, size, num_kept)
    where = coordinates(task, support.number, named, size, num_kept)
    return Chosen(support.number, where, support.indices)


def make_masked(
    lease: Lease,
    codec: CodecSpec,
    delta: Float32,
    num_samples: int,
    *,
    staleness: int,
    chosen: Chosen,
    roster: Roster,
    mask: Mask,
    residual: Residual | None,
) -> tuple[Pending, int]:
    """Return the update of ``delta`` (finite), and how many of its values the clip has cut.

    ``staleness`` counts the versions made since the lease's. The mask must be used for nothing
    else, ever. Raises RemoteProtocolError (``oversize``) if the
    lease allows less than the update takes; the mask is spent all the same.
    """
    given = roster.parameters
    fed_back = feedback(delta, codec, residual, roster.hash, version=lease.version)
    where = slice(None) if chosen.indices is None else chosen.indices
    elements, num_saturated = given.encode(fed_back.wanted[where], num_samples, staleness)
    # The residual knows nothing of the noise: the next sum would take back what hid in this one.
    noisy = given.noisy(elements, mask.privacy_seed())
    body = mask.apply(roster, noisy, roster.support_seed(chosen.number, chosen.named))
    update = encode_update(
        MaskedUpdate(lease.version, roster.hash, mask.counter, chosen.number, body)
    )
    if len(update) > lease.budget_bytes:
        raise RemoteProtocolError(
            refusals.OVERSIZE, f"{len(update)} bytes, the lease allows {lease.budget_bytes}"
        )
    pending = Pending(lease.lease_id, lease.version, lease.partition, update, b"")
    if not codec.contractive:
        return pending, num_saturated
    part = elements[-1] / (given.step * given.levels)
    values = (elements[:-1] / (given.scale * part)).astype(np.float32)
    sent = np.zeros_like(fed_back.wanted)
    sent[where] = values
    pending = replace(pending, residual=fed_back.after(sent), cache_of=fed_back.cache_of)
    if chosen.indices is not None and not codec.calibrated:  # it may be taken back
        indices = encode_indices(chosen.indices, delta.size)
        pending = replace(pending, indices=indices, sent=values.astype("<f4").tobytes())
    return pending, num_saturated
