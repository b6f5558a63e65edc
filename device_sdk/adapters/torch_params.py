"""The flat vector of a layout, and the state of a PyTorch module: the same numbers, otherwise.

PyTorch has weights the other way round, (outputs, inputs, *window). A module's tensors must come in
the layout's order, as those of a `torch.nn.Sequential` do, or be named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError
from protocol.vectors.layout import Tensor

Float32 = npt.NDArray[np.float32]

#: A layer's word and tensor: the axes of the engine's array in PyTorch's order.
_AXES: Final[Mapping[tuple[str, str], tuple[int, ...]]] = {
    ("dense", "weight"): (1, 0),
    ("gru", "weight"): (1, 0),
    ("gru", "recurrent"): (1, 0),
    ("conv1d", "weight"): (2, 1, 0),
    ("conv2d", "weight"): (3, 2, 0, 1),
    ("depthwise_conv2d", "weight"): (2, 0, 1),
}
#: How the names of PyTorch's tensors end, where not as ours.
_ENDS: Final[Mapping[tuple[str, str], str]] = {
    ("batch_norm", "scale"): "weight",
    ("batch_norm", "offset"): "bias",
    ("batch_norm", "mean"): "running_mean",
    ("batch_norm", "variance"): "running_var",
    ("layer_norm", "scale"): "weight",
    ("layer_norm", "offset"): "bias",
    ("gru", "weight"): "weight_ih_l0",
    ("gru", "recurrent"): "weight_hh_l0",
    ("gru", "bias"): "bias_ih_l0",
    ("gru", "recurrent_bias"): "bias_hh_l0",
}
#: Counts batches where a momentum is None; has no place in a model.
_COUNTER: Final = "num_batches_tracked"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one tensor of the layout is in a module, and by which name."""

    layer: int
    shape: tuple[int, ...]  # the engine's
    axes: tuple[int, ...]
    name: str
    tensor: torch.Tensor

    def load(self, array: Float32) -> None:
        """Copy the engine's array into the module."""
        # A copy: an assignment's params are not to be written, and PyTorch warns of such arrays.
        turned = array.transpose(self.axes).copy().reshape(self.tensor.shape)
        with torch.no_grad():
            self.tensor.copy_(torch.from_numpy(turned))

    def array(self, tensor: torch.Tensor) -> Float32:
        """Return the value or the gradient that is in this place as the engine has it."""
        turned = tensor.detach().cpu().float().numpy()
        turned = turned.reshape([self.shape[axis] for axis in self.axes])
        array: Float32 = turned.transpose(np.argsort(self.axes))
        return array


class FlatState:
    """A module's state as the flat vector of a spec's layout, both ways.

    ``names``: the module's name for each of the layout's, where its tensors have another order.
    Raises ConfigError, which names the tensor that is missing, or is another, or has another shape.
    """

    def __init__(
        self, module: nn.Module, spec: ModelSpec, names: Mapping[str, str] | None = None
    ) -> None:
        state = {
            name: tensor
            for name, tensor in module.state_dict(keep_vars=True).items()
            if not name.endswith(_COUNTER)
        }
        tensors = spec.layout.tensors
        if len(state) != len(tensors):
            raise ConfigError(
                f"the module has {len(state)} tensors, the plan's model {len(tensors)}: "
                f"{', '.join(state)} for {', '.join(each.name for each in tensors)}"
            )
        if names is None:
            names = dict(zip((each.name for each in tensors), state, strict=True))
        self.places = tuple(_place(each, names, state) for each in tensors)
        self._layout = spec.layout

    def from_flat(self, params: Float32) -> None:
        """Set the module's state."""
        views = self._layout.views(params).values()
        for place, view in zip(self.places, views, strict=True):
            place.load(view)

    def to_flat(self) -> Float32:
        """Return the module's state, copied."""
        return np.concatenate([place.array(place.tensor).reshape(-1) for place in self.places])


def _place(tensor: Tensor, names: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> Place:
    layer, word, key = tensor.name.split(".")
    name = names.get(tensor.name, "")
    if name not in state:
        raise ConfigError(f"{tensor.name}: the module has no {name!r} among {', '.join(state)}")
    end = _ENDS.get((word, key), key)
    if name.rpartition(".")[2] != end:
        raise ConfigError(f"{tensor.name}: expected a {end!r} of the module, not {name!r}")
    axes = _AXES.get((word, key), tuple(range(len(tensor.shape))))
    shape = [tensor.shape[axis] for axis in axes]
    if word == "depthwise_conv2d" and key == "weight":
        shape.insert(1, 1)  # inputs of each group
    if list(state[name].shape) != shape:
        raise ConfigError(
            f"{tensor.name}: the module's {name!r} is {tuple(state[name].shape)}, "
            f"not {tuple(shape)}"
        )
    return Place(int(layer), tensor.shape, axes, name, state[name])
