"""PyTorch as the engine, for devices that have the memory, or a GPU. Needs the extra ``[torch]``.

Device.from_config("device.toml", TorchTrainer(data=(x, y), device="cuda")).run()
"""

import math
from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from device_sdk.adapters.passes import Passes, trained
from device_sdk.adapters.torch_modules import SpecModule, loss_function
from device_sdk.adapters.torch_params import FlatState
from device_sdk.engine import Data, Model, TrainingSettings, parse_spec
from device_sdk.engine.arrays import Numbers, Targets
from device_sdk.engine.selection import Selection
from device_sdk.engine.spec import ModelSpec
from device_sdk.trainer import Assignment, Trained, Trainer
from protocol.settings import build
from protocol.stream import derive

Float32 = npt.NDArray[np.float32]


class TorchTrainer(Trainer):
    """Trains with PyTorch, by all settings of a plan.

    Without a ``module`` the plan's model is built. A module of one's own takes and returns batches
    as the plan's model does, channels last, and its state is the layout's: in that order, or as
    ``names`` says (the layout's name to the module's). ``data`` and ``num_samples`` are as for
    `NumpyTrainer`. ``device`` is where PyTorch computes; empty: a GPU if there is one. The same
    seed gives the same numbers wherever PyTorch's own operations do. A memory budget is not kept:
    it is of the SDK's engine.
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        *,
        data: Data,
        num_samples: int | None = None,
        names: Mapping[str, str] | None = None,
        device: str = "",
    ) -> None:
        self._module, self._names = module, names
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._passes = Passes(data, num_samples)

    def num_samples(self) -> int:
        """Samples at hand, as far as that is known."""
        return self._passes.num_samples()

    def train(self, assignment: Assignment) -> Trained:
        """Train from the assignment's params; metrics are those of `NumpyTrainer`.

        Raises ConfigError for a module that is not the plan's model, TrainingError for data that
        does not fit, or numbers that are not finite in most steps.
        """
        settings = build(TrainingSettings, assignment.training, "training")
        model = Model(parse_spec(assignment.model))
        model.check_params(assignment.params)
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(int.from_bytes(derive(assignment.seed, "noise")[:8], "little"))
            module = SpecModule(model.spec) if self._module is None else self._module
            module.to(self._device)
            state = FlatState(module, model.spec, self._names)
            state.from_flat(assignment.params)
            descent = _Descent(module, state, model.spec, settings)
            fitted = self._passes.run(descent.step, model, settings, assignment)
        module.eval()
        return trained(model, settings, assignment, state.to_flat(), fitted)


class _Descent:
    """Takes steps; what they need to know is on PyTorch's device."""

    def __init__(
        self, module: nn.Module, state: FlatState, spec: ModelSpec, settings: TrainingSettings
    ) -> None:
        self._module, self._settings = module, settings
        self._loss = loss_function(spec.loss)
        self._target_type = torch.float32 if spec.loss.dense_targets else torch.int64
        selection = settings.selection(spec)
        _set_training(module, state, selection)
        self._params: list[torch.Tensor] = []
        self._statistics: list[torch.Tensor] = []
        for place, is_trained in zip(state.places, chain(*selection.trained), strict=True):
            if isinstance(place.tensor, nn.Parameter):
                place.tensor.requires_grad_(is_trained)
                place.tensor.grad = None
            else:
                self._statistics.append(place.tensor)
            if is_trained:
                self._params.append(place.tensor)
        self._bases = _copies(self._params) if settings.proximal else []
        self._optimiser = _optimiser(self._params, settings)
        self._device = state.places[0].tensor.device

    def step(self, x: Numbers, y: Targets, rate: float) -> float:
        """Take a step; or none, and return NaN, if its numbers are not finite."""
        statistics = _copies(self._statistics)
        loss = self._loss_and_gradient(x, y)
        if not math.isfinite(loss) or not self._clip():
            for tensor, before in zip(self._statistics, statistics, strict=True):
                tensor.copy_(before)
            return math.nan
        for param, base in zip(self._params, self._bases, strict=False):
            param.grad.add_(param.detach() - base, alpha=self._settings.proximal)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        return loss

    def _loss_and_gradient(self, x: Numbers, y: Targets) -> float:
        inputs = torch.from_numpy(np.ascontiguousarray(x, np.float32)).to(self._device)
        targets = torch.from_numpy(np.ascontiguousarray(y)).to(self._device, self._target_type)
        self._optimiser.zero_grad()
        loss = self._loss(self._module(inputs), targets)
        loss.backward()
        for param in self._params:
            if param.grad is None:  # a module of one's own may not use it
                param.grad = torch.zeros_like(param)
        return float(loss.item())

    def _clip(self) -> bool:
        """Shorten the gradient to the longest that is allowed; return whether it is finite."""
        norms = [torch.linalg.vector_norm(param.grad) for param in self._params]
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        limit = self._settings.clip_norm
        if limit is not None and limit < norm < math.inf:
            for param in self._params:
                param.grad.mul_(limit / norm)
        return math.isfinite(norm)


def _set_training(module: nn.Module, state: FlatState, selection: Selection) -> None:
    """Let only those layers work as in training that take part in it."""
    module.train()
    if isinstance(module, SpecModule):
        layers = dict(enumerate(module.layers))
    else:  # of a module of one's own, only layers with tensors can be told apart
        layers = {
            place.layer: module.get_submodule(place.name.rpartition(".")[0])
            for place in state.places
        }
    for index, layer in layers.items():
        layer.train(selection.takes_part(index))


def _optimiser(params: list[torch.Tensor], settings: TrainingSettings) -> torch.optim.Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "adam":
        return torch.optim.Adam(params, rate, weight_decay=decay)
    return torch.optim.SGD(
        params, rate, settings.momentum, weight_decay=decay, nesterov=settings.nesterov
    )


def _copies(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [each.detach().clone() for each in tensors]
