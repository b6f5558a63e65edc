"""How near a reconstruction came: correlation and PSNR, against the best of several guesses."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: What an exact reconstruction is given in dB, so that it can be averaged and written as JSON.
MOST_DB: Final = 100.0


@dataclass(frozen=True, slots=True)
class Likeness:
    """Of one sample and the guess that is most like it: ``correlation`` -1 to 1, ``psnr`` in dB."""

    correlation: float
    psnr: float


def correlation(found: Floats, sample: Floats) -> float:
    """Pearson's, of all numbers of a sample; 0 where one of the two is constant or not finite."""
    if not np.isfinite(found).all():
        return 0.0
    one, other = found.ravel() - found.mean(), sample.ravel() - sample.mean()
    norms = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return float(one @ other) / norms if norms > 0 else 0.0


def psnr(found: Floats, sample: Floats, peak: float) -> float:
    """Peak signal-to-noise ratio in dB, at most `MOST_DB`; ``peak`` is the range of the data."""
    mean_square = float(np.mean((found - sample) ** 2))
    if not math.isfinite(mean_square):
        return -MOST_DB
    if mean_square == 0:
        return MOST_DB
    return max(-MOST_DB, min(MOST_DB, 10 * math.log10(peak**2 / mean_square)))


def likeness(found: Floats, sample: Floats, peak: float) -> Likeness:
    """Return the best of guesses (m, *shape) at one sample; of none, that of knowing nothing."""
    if not len(found):
        return Likeness(0.0, psnr(np.zeros_like(sample), sample, peak))
    correlations = [correlation(each, sample) for each in found]
    best = int(np.argmax(correlations))
    return Likeness(correlations[best], max(psnr(each, sample, peak) for each in found))
