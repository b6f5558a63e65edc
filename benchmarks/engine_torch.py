"""A spec as a PyTorch module with the same weights: what the engine is compared with."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from device_sdk.engine.arrays import EVAL_ROWS
from device_sdk.engine.layers import (
    GELU,
    GRU,
    Add,
    AvgPool,
    BatchNorm,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    ReLU,
    ReLU6,
    Reshape,
    Sigmoid,
    Tanh,
)
from device_sdk.engine.layers.windows import output_sides
from device_sdk.engine.losses import (
    BinaryCrossEntropy,
    Distillation,
    Huber,
    Loss,
    MeanSquaredError,
)
from device_sdk.engine.model import Model
from device_sdk.engine.settings import TrainingSettings
from device_sdk.engine.spec import ModelSpec
from protocol.stream import Stream, derive

Array = npt.NDArray[np.float32]
Shape = tuple[int, ...]

Run = Callable[[Tensor], Tensor]

_ELEMENTWISE: Final[dict[type[Layer], Run]] = {
    ReLU: functional.relu,
    ReLU6: functional.relu6,
    Tanh: torch.tanh,
    Sigmoid: torch.sigmoid,
    GELU: lambda x: functional.gelu(x, approximate="tanh"),
}


class Twin:
    """Takes samples as the engine does; inside, channels are where PyTorch likes them.

    ``load`` and ``flat`` translate params from the engine's order and to it; ``flat`` also the
    gradients.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        pairs = zip(spec.layers, spec.shapes, strict=False)
        self._parts = [_part(layer, shape) for layer, shape in pairs]
        self._modules = nn.ModuleList(part.module for part in self._parts)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs as the engine's."""
        x = _channels_first(x)
        outputs: list[Tensor] = []
        for part, source in zip(self._parts, self._spec.sources, strict=True):
            x = part.run(x) if source is None else x + outputs[source]
            outputs.append(x)
        return _channels_last(x)

    def parameters(self) -> list[Tensor]:
        """What an optimiser moves."""
        return list(self._modules.parameters())

    def train(self, *, training: bool) -> None:
        """Switch what is different in training."""
        self._modules.train(training)

    def load(self, params: Array) -> None:
        """Take the engine's flat params."""
        arrays = self._spec.layout.views(params).values()
        with torch.no_grad():
            for (turn, tensor), array in zip(self._tensors(), arrays, strict=True):
                tensor.copy_(torch.from_numpy(_to_torch(turn, array.copy())))

    def flat(self, *, gradient: bool = False) -> Array:
        """The params or their gradients, as the engine's flat vector."""
        found = []
        for turn, tensor in self._tensors():
            value = tensor.grad if gradient else tensor
            value = torch.zeros_like(tensor) if value is None else value
            found.append(_from_torch(turn, value.detach().numpy()).reshape(-1))
        return np.concatenate(found)

    def _tensors(self) -> list[tuple[str, Tensor]]:
        """How each tensor is turned, and where it is, in the engine's order."""
        pairs = zip(self._spec.layers, self._parts, strict=True)
        return [place for layer, part in pairs for place in _places(layer, part.module)]


def torch_steps(
    model: Model, x: Array, y: npt.NDArray[np.generic], *, batch: int, rate: float, seed: bytes
) -> Callable[[], object]:
    """A pass of SGD over the samples, from the engine's first params, on one thread."""
    torch.set_num_threads(1)
    twin, loss = Twin(model.spec), torch_loss(model.spec.loss)
    twin.load(model.init(seed))
    samples, labels = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.SGD(twin.parameters(), lr=rate)

    def run() -> None:
        for rows in torch.randperm(len(samples)).split(batch):
            optimiser.zero_grad()
            loss(twin(samples[rows]), labels[rows]).backward()
            optimiser.step()

    return run


def torch_loss(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """PyTorch's loss that is ours."""
    match loss:
        case MeanSquaredError():
            return functional.mse_loss
        case Huber():
            return lambda x, y: functional.huber_loss(x, y, delta=loss.delta)
        case BinaryCrossEntropy():
            return lambda x, y: functional.binary_cross_entropy_with_logits(x, y.reshape(x.shape))
        case Distillation():
            return lambda x, y: (
                functional.kl_div(
                    functional.log_softmax(x / loss.temperature, dim=1),
                    functional.log_softmax(y / loss.temperature, dim=1),
                    reduction="batchmean",
                    log_target=True,
                )
                * loss.temperature**2
            )
        case _:
            return lambda x, y: functional.cross_entropy(x, y, ignore_index=-1)


def torch_fit(
    model: Model,
    x: Array,
    y: npt.NDArray[np.generic],
    settings: TrainingSettings,
    seed: bytes,
) -> Callable[[Array], Array]:
    """Train as `device_sdk.engine.fit` does, batch for batch; return what predicts."""
    torch.set_num_threads(1)
    twin, loss = Twin(model.spec), torch_loss(model.spec.loss)
    twin.load(model.init(seed))
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    more = {"momentum": settings.momentum} if settings.optimiser == "sgd" else {}
    optimiser = kinds[settings.optimiser](twin.parameters(), lr=settings.learning_rate, **more)
    samples, labels = torch.from_numpy(x), torch.from_numpy(y)
    batches = (
        rows
        for epoch in range(settings.epochs)
        for rows in torch.from_numpy(
            Stream(derive(seed, "order", epoch, 0)).permutation(len(x))
        ).split(settings.batch_size)
    )
    for step, rows in enumerate(islice(batches, settings.max_steps)):
        optimiser.param_groups[0]["lr"] = settings.rate(step)
        optimiser.zero_grad()
        loss(twin(samples[rows]), labels[rows]).backward()
        optimiser.step()
    twin.train(training=False)

    def predict(inputs: Array) -> Array:
        with torch.no_grad():
            parts = [twin(part) for part in torch.from_numpy(inputs).split(EVAL_ROWS)]
            outputs: Array = torch.cat(parts).numpy()
        return outputs

    return predict


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, x.dim() - 1, *range(1, x.dim() - 1)) if x.dim() > 2 else x


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, *range(2, x.dim()), 1) if x.dim() > 2 else x


@dataclass(frozen=True, slots=True)
class _Part:
    """One layer: the module that holds its tensors, and what it does."""

    module: nn.Module
    run: Run


def _of(module: nn.Module) -> _Part:
    return _Part(module, module)


def _free(run: Run) -> _Part:
    return _Part(nn.Identity(), run)


def _padded(sides: Shape, kernel: Shape, stride: Shape, padding: str, value: float = 0.0) -> Run:
    """TensorFlow's "same": of an odd padding, the larger half is at the end."""
    if padding == "valid":
        return lambda x: x
    pads: list[int] = []
    outs = output_sides(sides, kernel, stride, padding)
    for side, out, width, step in zip(sides, outs, kernel, stride, strict=True):
        total = max((out - 1) * step + width - side, 0)
        pads = [total // 2, total - total // 2, *pads]
    return lambda x: functional.pad(x, pads, value=value)


def _part(layer: Layer, shape: Shape) -> _Part:  # noqa: C901, PLR0912 - a line or two a layer
    channels = shape[-1]
    match layer:
        case Dense():
            return _of(nn.Linear(channels, layer.units, bias=layer.bias))
        case Conv2D() | Conv1D() | DepthwiseConv2D():
            return _convolution(layer, shape)
        case MaxPool() | AvgPool():
            return _pool(layer, shape)
        case GlobalAvgPool():
            return _free(lambda x: x.flatten(2).mean(dim=2))
        case Flatten():
            return _free(lambda x: _channels_last(x).flatten(1))
        case Reshape():
            return _free(lambda x: _channels_first(_channels_last(x).reshape(len(x), *layer.shape)))
        case Embedding():
            table = nn.Embedding(layer.vocabulary, layer.dim)
            return _Part(table, lambda x: table(x.long()).transpose(1, 2))
        case GRU():
            return _gru(layer, channels)
        case BatchNorm():
            kind = nn.BatchNorm2d if len(shape) > 2 else nn.BatchNorm1d
            return _of(kind(channels, layer.epsilon, layer.momentum))
        case LayerNorm():
            norm = nn.LayerNorm(channels, layer.epsilon)
            return _Part(norm, lambda x: _channels_first(norm(_channels_last(x))))
        case LeakyReLU():
            return _free(lambda x: functional.leaky_relu(x, layer.slope))
        case Dropout():
            return _of(nn.Dropout(layer.rate))
        case Add():
            return _free(lambda x: x)
    return _free(_ELEMENTWISE[type(layer)])


def _gru(layer: GRU, inputs: int) -> _Part:
    gru = nn.GRU(inputs, layer.units, batch_first=True)

    def run(x: Tensor) -> Tensor:
        states, last = gru(x.transpose(1, 2))
        return states.transpose(1, 2) if layer.return_sequences else last[0]

    return _Part(gru, run)


def _convolution(layer: Conv2D | Conv1D | DepthwiseConv2D, shape: Shape) -> _Part:
    channels = shape[-1]
    filters = channels if isinstance(layer, DepthwiseConv2D) else layer.filters
    groups = channels if isinstance(layer, DepthwiseConv2D) else 1
    kind = nn.Conv1d if isinstance(layer, Conv1D) else nn.Conv2d
    window = (layer.kernel, layer.stride)
    convolution = kind(channels, filters, *window, groups=groups, bias=layer.bias)
    pad = _padded(shape[:-1], *window, layer.padding)
    return _Part(convolution, lambda x: convolution(pad(x)))


def _pool(layer: MaxPool | AvgPool, shape: Shape) -> _Part:
    window = layer.window(shape)
    lowest = -math.inf if isinstance(layer, MaxPool) else 0.0
    pad = _padded(shape[:-1], *window, layer.padding, lowest)
    is_plane = len(window[0]) == 2
    if isinstance(layer, MaxPool):
        largest = functional.max_pool2d if is_plane else functional.max_pool1d
        return _free(lambda x: largest(pad(x), *window))
    mean = functional.avg_pool2d if is_plane else functional.avg_pool1d
    # The share of what is not padded is the mean of ones.
    return _free(lambda x: mean(pad(x), *window) / mean(pad(torch.ones_like(x)), *window))


def _places(layer: Layer, module: nn.Module) -> list[tuple[str, Tensor]]:
    """How each tensor of a layer is turned, and the module's tensor."""
    tensors = list(module.parameters())
    if isinstance(layer, BatchNorm):
        tensors += [module.running_mean, module.running_var]
    turns = {
        Dense: ["matrix"],
        GRU: ["matrix", "matrix"],
        Conv1D: ["window"],
        Conv2D: ["window"],
        DepthwiseConv2D: ["depthwise"],
    }
    return list(zip_longest(turns.get(type(layer), []), tensors, fillvalue=""))


def _to_torch(turn: str, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(*window, channels, filters) becomes (filters, channels, *window), and so on."""
    match turn:
        case "matrix":
            return np.ascontiguousarray(array.T)
        case "window":
            window = range(array.ndim - 2)
            return np.ascontiguousarray(array.transpose(array.ndim - 1, array.ndim - 2, *window))
        case "depthwise":
            return np.ascontiguousarray(array.transpose(2, 0, 1)[:, np.newaxis])
        case _:
            return array


def _from_torch(turn: str, array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    match turn:
        case "matrix":
            return array.T
        case "window":
            return array.transpose(*range(2, array.ndim), 1, 0)
        case "depthwise":
            return array[:, 0].transpose(1, 2, 0)
        case _:
            return array
