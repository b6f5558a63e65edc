"""Models with every layer of the engine, and numbers for them."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from device_sdk.engine import Model, parse_spec
from device_sdk.runtimes import TfliteModel, find_runtime

Float32 = npt.NDArray[np.float32]
Layers = list[dict[str, object]]

VOCABULARY: Final = 11


def dense(units: int, **keys: object) -> dict[str, object]:
    return {"type": "dense", "units": units, **keys}


def just(word: str, **keys: object) -> dict[str, object]:
    return {"type": word, **keys}


def conv(filters: int, **keys: object) -> dict[str, object]:
    return {"type": "conv2d", "filters": filters, "kernel": 3, **keys}


#: Shape of a sample, and layers. Each model is of one thing; the last ones are of many.
MODELS: Final[Mapping[str, tuple[list[int], Layers]]] = {
    "dense": ([6], [dense(5)]),
    "dense without bias": ([6], [dense(5, bias=False)]),
    "relu": ([6], [dense(8), just("relu"), dense(5)]),
    "relu6": ([6], [dense(8), just("relu6"), dense(5)]),
    "leaky_relu": ([6], [dense(8), just("leaky_relu", slope=0.2), dense(5)]),
    "tanh": ([6], [dense(8), just("tanh"), dense(5)]),
    "sigmoid": ([6], [dense(8), just("sigmoid"), dense(5)]),
    "gelu": ([6], [dense(8), just("gelu"), dense(5)]),
    "dropout": ([6], [just("dropout", rate=0.5), dense(5)]),
    "flatten": ([2, 3], [just("flatten"), dense(5)]),
    "reshape": ([12], [just("reshape", shape=[2, 3, 2]), conv(3, kernel=2), just("flatten")]),
    "conv2d": ([9, 8, 3], [conv(4), just("global_avg_pool")]),
    "conv2d, same, strides": (
        [9, 8, 3],
        [conv(4, kernel=[3, 2], stride=[2, 3], padding="same"), just("flatten")],
    ),
    "conv2d without bias": ([5, 5, 2], [conv(4, bias=False), just("flatten")]),
    "depthwise_conv2d": (
        [9, 8, 3],
        [just("depthwise_conv2d", kernel=3, stride=2, padding="same"), just("flatten")],
    ),
    "conv1d": ([12, 3], [just("conv1d", filters=4, kernel=5, stride=2), just("flatten")]),
    "conv1d, same": (
        [11, 3],
        [just("conv1d", filters=4, kernel=4, stride=3, padding="same"), just("flatten")],
    ),
    "max_pool": ([8, 9, 3], [conv(3), just("max_pool", size=2), just("flatten")]),
    "max_pool, same": (
        [8, 9, 3],
        [conv(3), just("max_pool", size=3, stride=2, padding="same"), just("flatten")],
    ),
    "avg_pool, same": (
        [8, 9, 3],
        [conv(3), just("avg_pool", size=[3, 2], stride=2, padding="same"), just("flatten")],
    ),
    "pools of a series": (
        [20, 3],
        [
            just("conv1d", filters=3, kernel=3),
            just("max_pool", size=2),
            just("avg_pool", size=2, stride=1, padding="same"),
            just("flatten"),
        ],
    ),
    "global_avg_pool of a series": ([9, 4], [just("global_avg_pool"), dense(5)]),
    "batch_norm before": ([6, 6, 3], [just("batch_norm"), conv(4), just("flatten")]),
    "batch_norm after": ([6, 6, 3], [conv(4), just("batch_norm"), just("relu"), just("flatten")]),
    "batch_norm of a dense": ([6], [dense(8), just("batch_norm"), just("relu"), dense(5)]),
    "layer_norm": ([6], [dense(24), just("layer_norm"), dense(5)]),
    "layer_norm of steps": ([5, 16], [just("layer_norm"), just("flatten"), dense(5)]),
    "embedding": ([7], [just("embedding", vocabulary=VOCABULARY, dim=4), just("flatten")]),
    "gru": ([12, 3], [just("gru", units=5), dense(5)]),
    "gru, sequences": (
        [12, 3],
        [just("gru", units=5, return_sequences=True), just("gru", units=4), dense(5)],
    ),
    "add": (
        [6, 6, 3],
        [
            conv(4, name="start", padding="same"),
            just("relu"),
            conv(4, padding="same"),
            just("add", source="start"),
            just("relu"),
            just("global_avg_pool"),
        ],
    ),
    "separable and residual": (
        [12, 12, 2],
        [
            conv(6, padding="same"),
            just("batch_norm"),
            just("relu", name="start"),
            just("depthwise_conv2d", kernel=3, padding="same", bias=False),
            just("batch_norm"),
            just("relu6"),
            conv(6, kernel=1),
            just("batch_norm"),
            just("add", source="start"),
            just("max_pool", size=2),
            just("dropout", rate=0.2),
            just("flatten"),
            dense(5),
        ],
    ),
    "text": (
        [9],
        [
            just("embedding", vocabulary=VOCABULARY, dim=4),
            just("conv1d", filters=6, kernel=3, padding="same"),
            just("batch_norm"),
            just("relu"),
            just("gru", units=5),
            dense(5),
        ],
    ),
}


def spec_of(name: str) -> dict[str, object]:
    """The model's spec, with a loss that takes any output."""
    shape, layers = MODELS[name]
    return {"input": shape, "layers": layers, "loss": "mean_squared_error"}


def model_of(name: str) -> Model:
    return Model(parse_spec(spec_of(name)))


def some_params(model: Model) -> Float32:
    """Nothing at its first value: biases, means, offsets and variances too."""
    noise = np.random.default_rng(5).uniform(0.05, 0.3, model.layout.size)
    return model.init(bytes(32)) + noise.astype(np.float32)


def some_samples(model: Model, rows: int = 100) -> Float32:
    draw = np.random.default_rng(7)
    shape = (rows, *model.spec.input)
    if model.spec.words[0] == "embedding":
        return draw.integers(0, VOCABULARY, shape).astype(np.float32)
    return draw.normal(0, 1, shape).astype(np.float32)


def loaded(file: bytes) -> TfliteModel:
    """The file in whichever runtime is installed here."""
    return TfliteModel(find_runtime().interpreter(file))
