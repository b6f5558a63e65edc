"""PyTorch, where it is installed; CI promises that it is."""

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    from device_sdk.adapters.torch_params import FlatState


def require_torch() -> None:
    """Skip the module's tests without PyTorch; where CI promises it, let them fail."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("torch")


def gradient_of(state: "FlatState") -> npt.NDArray[np.float32]:
    """Return the gradients of a module, in the order of the flat params; 0 where there is none."""
    gradients = [
        place.array(place.tensor.new_zeros(place.tensor.shape) if grad is None else grad)
        for place, grad in ((place, place.tensor.grad) for place in state.places)
    ]
    return np.concatenate([each.reshape(-1) for each in gradients])
