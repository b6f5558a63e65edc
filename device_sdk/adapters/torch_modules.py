"""A model spec as a PyTorch module. Needs the extra ``[torch]``.

It takes and returns batches as the engine does, channels last; inside, channels come first, where
PyTorch has them. State is in the order of the spec's layout: `device_sdk.adapters.torch_params`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from device_sdk.engine.arrays import Shape
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
    MASKED,
    BinaryCrossEntropy,
    Distillation,
    Huber,
    Loss,
    MeanSquaredError,
)
from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError

#: Outputs and targets to the mean loss.
LossFunction = Callable[[Tensor, Tensor], Tensor]
#: Axes of a batch of plain rows.
_ROWS: Final = 2


class _Module(nn.Module):  # type: ignore[misc] # mypy does not look into torch
    """One that computes what PyTorch has no module for."""


class SpecModule(_Module):
    """The model of a spec; ``layers`` has a module for each layer, in order."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        pairs = zip(spec.layers, spec.shapes, spec.shapes[1:], strict=False)
        self.layers = nn.ModuleList(_module(*each) for each in pairs)
        self._sources = spec.sources

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (n, *output shape) for ``x``, (n, *input shape)."""
        x = _channels_first(x)
        outputs: list[Tensor] = []
        for layer, source in zip(self.layers, self._sources, strict=True):
            x = layer(x) if source is None else x + outputs[source]
            outputs.append(x)
        return _channels_last(x)


def loss_function(loss: Loss) -> LossFunction:
    """Return PyTorch's form of a loss."""
    match loss:
        case MeanSquaredError():
            return functional.mse_loss
        case Huber():
            return lambda z, y: functional.huber_loss(z, y, delta=loss.delta)
        case BinaryCrossEntropy():
            return lambda z, y: functional.binary_cross_entropy_with_logits(z, y.reshape(z.shape))
        case Distillation():
            return lambda z, y: _distillation(z, y, loss.temperature)
        case _:
            return lambda z, y: functional.cross_entropy(z, y, ignore_index=MASKED)


def _distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    ours, theirs = (
        functional.log_softmax(each / temperature, dim=1) for each in (student, teacher)
    )
    divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def _channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1) if x.dim() > _ROWS else x


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1) if x.dim() > _ROWS else x


def _module(layer: Layer, shape: Shape, output: Shape) -> nn.Module:  # noqa: C901, PLR0912 - a table
    """Return the module of one layer, from its input's and its output's shape, channels last."""
    match layer:
        case Dense():
            return nn.Linear(shape[-1], layer.units, bias=layer.bias)
        case Conv2D() | Conv1D() | DepthwiseConv2D():
            return _convolution(layer, shape, output[-1])
        case MaxPool():
            return _pool((nn.MaxPool1d, nn.MaxPool2d), layer, shape)
        case AvgPool():
            return _Mean(_pool((nn.AvgPool1d, nn.AvgPool2d), layer, shape))
        case GlobalAvgPool():
            return _GlobalMean()
        case Flatten() | Reshape():
            return _Reshaped(output)
        case Embedding():
            return _Embedded(nn.Embedding(layer.vocabulary, layer.dim))
        case GRU():
            return _Recurrent(layer, shape[-1])
        case BatchNorm():
            return _BatchNormed(layer, shape[-1])
        case LayerNorm():
            return _LayerNormed(nn.LayerNorm(shape[-1], layer.epsilon))
        case Dropout():
            return nn.Dropout(layer.rate)
        case LeakyReLU():
            return nn.LeakyReLU(layer.slope)
        case GELU():
            return nn.GELU(approximate="tanh")
        case Add():
            return nn.Identity()  # `SpecModule` adds
        case ReLU() | ReLU6() | Tanh() | Sigmoid():
            return getattr(nn, type(layer).__name__)()
    raise ConfigError(f"a {type(layer).__name__} has no PyTorch module yet")


def _convolution(layer: Conv2D | Conv1D | DepthwiseConv2D, shape: Shape, filters: int) -> nn.Module:
    kind = nn.Conv1d if isinstance(layer, Conv1D) else nn.Conv2d
    groups = filters if isinstance(layer, DepthwiseConv2D) else 1
    body = kind(shape[-1], filters, layer.kernel, layer.stride, groups=groups, bias=layer.bias)
    return _Padded(body, _pads(shape, layer.kernel, layer.stride, layer.padding))


def _pool(kinds: Sequence[type[nn.Module]], layer: MaxPool | AvgPool, shape: Shape) -> "_Padded":
    size, stride = layer.window(shape)
    around = -math.inf if isinstance(layer, MaxPool) else 0.0
    return _Padded(
        kinds[len(size) - 1](size, stride), _pads(shape, size, stride, layer.padding), around
    )


def _pads(shape: Shape, kernel: Shape, stride: Shape, padding: str) -> tuple[int, ...]:
    """Return what `functional.pad` is to add: as in TensorFlow, the odd one at the end."""
    if padding == "valid":
        return ()
    outs = output_sides(shape[:-1], kernel, stride, padding)
    pads: tuple[int, ...] = ()
    for side, out, width, step in zip(shape, outs, kernel, stride, strict=False):
        total = max((out - 1) * step + width - side, 0)
        pads = (total // 2, total - total // 2, *pads)  # from the last axis to the first
    return pads


class _Padded(_Module):
    """A window over an image or a series with something around it."""

    def __init__(self, body: nn.Module, pads: tuple[int, ...], value: float = 0.0) -> None:
        super().__init__()
        self.body, self.pads, self._value = body, pads, value

    def forward(self, x: Tensor) -> Tensor:
        return self.body(functional.pad(x, self.pads, value=self._value) if self.pads else x)


class _Mean(_Module):
    """The mean of a window; what is around the image does not count."""

    def __init__(self, pool: _Padded) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(x)
        return y / self.pool(torch.ones_like(x[:1, :1])) if self.pool.pads else y


class _GlobalMean(_Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(dim=2)


class _Reshaped(_Module):
    """The same numbers, whose order is that of the samples: channels last."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return _channels_first(_channels_last(x).reshape(len(x), *self._shape))


class _Embedded(_Module):
    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        return _channels_first(self.table(x.long()))


class _LayerNormed(_Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return _channels_first(self.norm(_channels_last(x)))


class _Recurrent(_Module):
    """A GRU; derivatives flow back through the last ``truncate`` steps, then the ones before."""

    def __init__(self, layer: GRU, inputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, layer.units, batch_first=True)
        self._layer = layer

    def forward(self, x: Tensor) -> Tensor:
        x = _channels_last(x)
        steps = x.shape[1]
        length = self._layer.truncate or steps
        first = steps % length or length
        state, outputs = None, []
        for part in x.split([first] + [length] * ((steps - first) // length), dim=1):
            output, state = self.gru(part, None if state is None else state.detach())
            outputs.append(output)
        states = torch.cat(outputs, dim=1)
        return _channels_first(states) if self._layer.return_sequences else states[:, -1]


class _BatchNormed(_Module):
    """A batch norm for any number of axes, also of a batch with one number for each channel."""

    def __init__(self, layer: BatchNorm, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, layer.epsilon, layer.momentum)
        self._is_static = layer.static

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        rows = x.flatten(2) if x.dim() > _ROWS else x
        if not self.training:
            return norm(rows).reshape(x.shape)
        if rows.numel() == norm.num_features:
            return self._of_one(x)
        if self._is_static:
            scale = (norm.weight, norm.bias)
            rows = functional.batch_norm(rows, None, None, *scale, training=True, eps=norm.eps)
            return rows.reshape(x.shape)
        return norm(rows).reshape(x.shape)

    def _of_one(self, x: Tensor) -> Tensor:
        """Every number is the mean of its channel. PyTorch refuses this; the engine does not."""
        if not self._is_static:
            mean, variance = self.norm.running_mean, self.norm.running_var
            mean.lerp_(x.detach().reshape(mean.shape), self.norm.momentum)
            variance.mul_(1 - self.norm.momentum)
        channels = (1, -1, *(1 for _ in x.shape[2:]))
        return (x - x) * self.norm.weight.reshape(channels) + self.norm.bias.reshape(channels)
