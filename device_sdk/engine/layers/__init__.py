"""The layers: what each makes of its input and, right below, the derivative of that.

A family of layers loads when a spec names one of it: most models have two or three.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final

from device_sdk.engine.layers.base import Buffer, Buffers, Frame, Layer

if TYPE_CHECKING:
    from device_sdk.engine.layers.activations import GELU, LeakyReLU, ReLU, ReLU6, Sigmoid, Tanh
    from device_sdk.engine.layers.convolution import Conv1D, Conv2D
    from device_sdk.engine.layers.dense import Dense
    from device_sdk.engine.layers.depthwise import DepthwiseConv2D
    from device_sdk.engine.layers.dropout import Dropout
    from device_sdk.engine.layers.embedding import Embedding
    from device_sdk.engine.layers.normalisation import BatchNorm, LayerNorm
    from device_sdk.engine.layers.pooling import AvgPool, GlobalAvgPool, MaxPool
    from device_sdk.engine.layers.recurrent import GRU
    from device_sdk.engine.layers.residual import Add
    from device_sdk.engine.layers.shape import Flatten, Reshape

__all__ = [
    "GELU",
    "GRU",
    "LAYERS",
    "Add",
    "AvgPool",
    "BatchNorm",
    "Buffer",
    "Buffers",
    "Conv1D",
    "Conv2D",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Embedding",
    "Flatten",
    "Frame",
    "GlobalAvgPool",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "MaxPool",
    "ReLU",
    "ReLU6",
    "Reshape",
    "Sigmoid",
    "Tanh",
]

#: A spec's word for a layer -> its module and class. A new layer is a class and a line here.
_CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    "dense": ("dense", "Dense"),
    "relu": ("activations", "ReLU"),
    "tanh": ("activations", "Tanh"),
    "sigmoid": ("activations", "Sigmoid"),
    "flatten": ("shape", "Flatten"),
    "conv2d": ("convolution", "Conv2D"),
    "depthwise_conv2d": ("depthwise", "DepthwiseConv2D"),
    "conv1d": ("convolution", "Conv1D"),
    "max_pool": ("pooling", "MaxPool"),
    "avg_pool": ("pooling", "AvgPool"),
    "global_avg_pool": ("pooling", "GlobalAvgPool"),
    "reshape": ("shape", "Reshape"),
    "embedding": ("embedding", "Embedding"),
    "gru": ("recurrent", "GRU"),
    "batch_norm": ("normalisation", "BatchNorm"),
    "layer_norm": ("normalisation", "LayerNorm"),
    "dropout": ("dropout", "Dropout"),
    "add": ("residual", "Add"),
    "relu6": ("activations", "ReLU6"),
    "leaky_relu": ("activations", "LeakyReLU"),
    "gelu": ("activations", "GELU"),
}


class _Layers(Mapping[str, type[Layer]]):
    """Word -> class, loaded when it is asked for."""

    def __getitem__(self, word: str) -> type[Layer]:
        module, name = _CLASSES[word]
        found: type[Layer] = getattr(import_module(f"{__name__}.{module}"), name)
        return found

    def __contains__(self, word: object) -> bool:
        return word in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


LAYERS: Final[Mapping[str, type[Layer]]] = _Layers()


def __getattr__(name: str) -> object:
    for word, (_, known) in _CLASSES.items():
        if name == known:
            return LAYERS[word]
    raise AttributeError(name)
