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
