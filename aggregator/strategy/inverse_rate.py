"""Inverse-rate weights: who comes seldom weighs more, so that every device has the same say.

If device i is in a part f_i of all updates, the mean over a buffer leans towards fast devices; with
weights in proportion to 1 / f_i it does not (importance weighting; as FAVANO, L. Leconte et al.
2023, does with the number of local steps). f_i is counted in versions, not in seconds: the gap
between a device's counted updates is 1 / f_i but for a factor that all share.

Does not work under masking: updates are summed before the aggregator could weigh them.
"""

from typing import Final

#: No update weighs more than so many times that of the fastest devices.
CLIP: Final = 10.0


def inverse_rate(gap: float, shortest: float) -> float:
    """Weight of a device with a ``gap`` of versions between updates, 1 to `CLIP`.

    ``shortest``: the fastest devices' gap, above 0; only the ratio counts.
    """
    return min(max(1.0, gap / shortest), CLIP)
