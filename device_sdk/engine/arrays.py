"""The array types that all of the engine shares."""

from typing import Final

import numpy as np
import numpy.typing as npt

#: Shape of one sample, without the batch's axis.
Shape = tuple[int, ...]
#: Float32 wherever a model is trained; float64 where its derivatives are checked.
Array = npt.NDArray[np.floating]
#: Samples as they come, of any number type.
Numbers = npt.NDArray[np.generic]
#: Targets: whole numbers for classes, floating point for regression.
Targets = npt.NDArray[np.generic]

#: Samples that evaluation and prediction take at a time, if they take no more than this much.
EVAL_ROWS: Final = 256
EVAL_BYTES: Final = 1 << 24

#: Numbers that are checked at a time.
_CHECKED: Final = 1 << 14


def is_finite(flat: Array) -> bool:
    """Whether no number of a flat vector is NaN or infinity, at the cost of a little memory."""
    parts = (flat[start : start + _CHECKED] for start in range(0, flat.size, _CHECKED))
    return all(np.isfinite(part).all() for part in parts)
