"""What an update should carry of a delta, and what the device remembers once it is counted.

- Error feedback (Stich et al. 2018), with a contractive codec: the residual is added before
  encoding, and what was not sent becomes the next one, so that residual + sent = delta + previous
  residual. Unbiased codecs neither send nor touch it: it waits for the next contractive one.
- A residual ages while its device is away: it is of a model that others have moved on meanwhile.
  Versions missed are those made between the one in which the device's last update was counted and
  the one that it trains from now; each beyond the first `GRACE` leaves `DECAY` of it. A slow device
  that asks for its next lease on the receipt of the last misses none, and one that is picked for
  one round in five a few: to decay with those too costs accuracy (docs/adr/0023).
- Calibration (CA2FL, Wang et al. 2024, with the cache on the device): what was counted of this
  device is taken off before encoding and added to after it, by just what was counted, so that the
  aggregator's sum is that of all caches. What was not sent is in the next difference (EF21,
  Richtarik et al. 2021), so there is no residual beside. A cache is of one mask epoch: in another
  the aggregator has begun from nothing, and so does the device.

Pure functions.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from device_sdk.pending import Residual
from protocol.vectors.packing import CodecSpec
from protocol.vectors.quantise import LARGEST

#: The epoch of what is counted in the open, where no other follows.
OPEN: Final = b"open"
#: What remains of a residual for each version missed beyond `GRACE`.
DECAY: Final = 0.9
#: As many as an update may be late by default (`max_staleness`).
GRACE: Final = 20

Float32 = npt.NDArray[np.float32]


class Feedback(NamedTuple):
    """``wanted`` is to be sent as well as the codec can; ``kept`` is remembered till it counts.

    ``cache_of`` as in `device_sdk.pending.Residual`.
    """

    wanted: Float32
    kept: Float32
    cache_of: bytes

    def after(self, sent: Float32) -> bytes:
        """Return what is remembered (float32 bytes) once just ``sent`` of it was counted."""
        left = self.kept + sent if self.cache_of else self.wanted - sent
        return left.astype("<f4").tobytes()


def feedback(
    delta: Float32,
    codec: CodecSpec,
    residual: Residual | None,
    epoch: bytes = OPEN,
    *,
    version: int,
) -> Feedback:
    """Return what an update of ``delta`` (sound) should carry; ``epoch`` is the present one's.

    ``version`` is the one that was trained from.
    """
    cache_of = epoch if codec.calibrated else b""
    kept = remembered(residual, delta.size, cache_of)
    if codec.calibrated:
        return Feedback(np.clip(delta - kept, -LARGEST, LARGEST), kept, cache_of)
    if (too_many := num_missed(residual, version) - GRACE) > 0:
        kept = kept * np.float32(DECAY**too_many)
    wanted = delta + kept if codec.contractive else delta
    # A residual that has run away is dropped, and nothing else.
    return Feedback(wanted if is_sound(wanted) else delta, kept, cache_of)


def num_missed(residual: Residual | None, version: int) -> int:
    """Return how many versions were made while the device was away; 0 where it is not known."""
    if residual is None or residual.version < 0:
        return 0
    return max(0, version - residual.version)


def remembered(residual: Residual | None, size: int, cache_of: bytes = b"") -> Float32:
    """Return the cache of an epoch, or the residual, of ``size`` params: zeros without one."""
    if residual is None or residual.cache_of != cache_of or len(residual.values) != 4 * size:
        return np.zeros(size, np.float32)
    return np.frombuffer(residual.values, "<f4")


def is_sound(delta: Float32) -> bool:
    """Every value is finite, and small enough to be encoded whatever the codec."""
    return bool(np.all(np.abs(delta) <= LARGEST))
