"""The layers: what each makes of its input and, right below, the derivative of that."""

from collections.abc import Mapping
from typing import Final

from device_sdk.engine.layers.activations import GELU, LeakyReLU, ReLU, ReLU6, Sigmoid, Tanh
from device_sdk.engine.layers.base import Buffer, Buffers, Frame, Layer
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

#: A spec's word for a layer. A new layer is a class and a line here.
LAYERS: Final[Mapping[str, type[Layer]]] = {
    "dense": Dense,
    "relu": ReLU,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
    "flatten": Flatten,
    "conv2d": Conv2D,
    "depthwise_conv2d": DepthwiseConv2D,
    "conv1d": Conv1D,
    "max_pool": MaxPool,
    "avg_pool": AvgPool,
    "global_avg_pool": GlobalAvgPool,
    "reshape": Reshape,
    "embedding": Embedding,
    "gru": GRU,
    "batch_norm": BatchNorm,
    "layer_norm": LayerNorm,
    "dropout": Dropout,
    "add": Add,
    "relu6": ReLU6,
    "leaky_relu": LeakyReLU,
    "gelu": GELU,
}
