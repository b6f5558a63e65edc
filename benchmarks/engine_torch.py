"""PyTorch beside the engine: the same spec, params, batches, loss and optimiser, on one thread."""

from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from device_sdk.adapters.torch_modules import LossFunction, loss_function
from device_sdk.adapters.torch_params import FlatState
from device_sdk.engine.arrays import EVAL_ROWS, Shape
from device_sdk.engine.layers import (
    GRU,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool,
    ReLU,
)
from device_sdk.engine.layers.windows import output_sides
from device_sdk.engine.model import Model
from device_sdk.engine.settings import TrainingSettings
from protocol.stream import Stream, derive

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def torch_steps(
    model: Model, x: Float32, y: Labels, *, batch: int, rate: float, seed: bytes
) -> Callable[[], None]:
    """Return a pass of SGD over the samples, as PyTorch's tutorials have it."""
    module, loss = _begin(model, seed)
    samples, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.SGD(module.parameters(), lr=rate)

    def run() -> None:
        for rows in torch.randperm(len(samples)).split(batch):
            optimiser.zero_grad()
            loss(module(samples[rows]), labels[rows]).backward()
            optimiser.step()

    return run


def torch_fit(
    model: Model, x: Float32, y: Labels, settings: TrainingSettings, seed: bytes
) -> Callable[[Float32], Float32]:
    """Train as `device_sdk.engine.fit` does, batch for batch; return what predicts."""
    module, loss = _begin(model, seed)
    samples, labels = torch.from_numpy(x), torch.from_numpy(y)
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    more = {"momentum": settings.momentum} if settings.optimiser == "sgd" else {}
    optimiser = kinds[settings.optimiser](module.parameters(), lr=settings.learning_rate, **more)
    batches = islice(_batches(len(x), settings, seed), settings.max_steps)
    for step, rows in enumerate(batches):
        optimiser.param_groups[0]["lr"] = settings.rate(step)
        optimiser.zero_grad()
        loss(module(samples[rows]), labels[rows]).backward()
        optimiser.step()
    module.eval()

    def predict(inputs: Float32) -> Float32:
        with torch.no_grad():
            parts = [module(part) for part in torch.from_numpy(inputs).split(EVAL_ROWS)]
            outputs: Float32 = torch.cat(parts).numpy()
        return outputs

    return predict


def _begin(model: Model, seed: bytes) -> tuple[nn.Module, LossFunction]:
    """Return a module with the engine's first params, and its loss."""
    torch.set_num_threads(1)
    pairs = list(zip(model.spec.layers, model.spec.shapes, strict=False))
    first = [_ChannelsFirst()] if len(model.spec.input) == 3 else []
    module = nn.Sequential(*first, *(_written_by_hand(*pair) for pair in pairs))
    FlatState(module, model.spec).from_flat(model.init(seed))
    module.train()
    return module, loss_function(model.spec.loss)


def _written_by_hand(layer: Layer, shape: Shape) -> nn.Module:
    """Return the plain module that a user of PyTorch would write, for the layers measured here.

    (`SpecModule` does more and takes longer: it takes every spec, and batches of one number.)
    """
    match layer:
        case Dense():
            return nn.Linear(shape[-1], layer.units, bias=layer.bias)
        case Conv2D():
            return _convolution(layer, shape, layer.filters, groups=1)
        case DepthwiseConv2D():
            return _convolution(layer, shape, shape[-1], groups=shape[-1])
        case BatchNorm():
            return nn.BatchNorm2d(shape[-1], layer.epsilon, layer.momentum)
        case MaxPool():
            return nn.MaxPool2d(*layer.window(shape))
        case GlobalAvgPool():
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        case GRU():
            return _LastState(shape[-1], layer.units)
        case ReLU():
            return nn.ReLU()
        case Flatten():
            return _Rows()
    raise NotImplementedError(type(layer).__name__)


def _convolution(
    layer: Conv2D | DepthwiseConv2D, shape: Shape, filters: int, groups: int
) -> nn.Module:
    window = (layer.kernel, layer.stride)
    outs = output_sides(shape[:-1], *window, layer.padding)
    totals = [
        max((out - 1) * step + width - side, 0)
        for side, out, width, step in zip(shape, outs, *window, strict=False)
    ]
    convolution = nn.Conv2d(shape[-1], filters, *window, groups=groups, bias=layer.bias)
    if all(total % 2 == 0 for total in totals):
        convolution.padding = tuple(total // 2 for total in totals)
        return convolution
    pads = [each for total in reversed(totals) for each in (total // 2, total - total // 2)]
    return nn.Sequential(nn.ZeroPad2d(tuple(pads)), convolution)


class _ChannelsFirst(nn.Module):  # type: ignore[misc] # mypy does not look into torch
    """As PyTorch has images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(-1, 1)


class _Rows(nn.Module):  # type: ignore[misc] # mypy does not look into torch
    """The engine's order of numbers, for its weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).flatten(1)


class _LastState(nn.Module):  # type: ignore[misc] # mypy does not look into torch
    """A GRU's last state."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, units, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[1][0]


def _batches(count: int, settings: TrainingSettings, seed: bytes) -> Iterable[Tensor]:
    """Yield the rows of each of the engine's batches."""
    for epoch in range(settings.epochs):
        order = Stream(derive(seed, "order", epoch, 0)).permutation(count)
        yield from torch.from_numpy(order).split(settings.batch_size)
