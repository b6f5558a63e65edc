"""A model as data: a JSON object becomes a checked, frozen description.

    {"input": [64],
     "layers": [{"type": "dense", "units": 32}, {"type": "relu"}, {"type": "dense", "units": 10}],
     "loss": "softmax_cross_entropy"}

Every shape is followed through the layers here, so that a wrong spec fails when it is read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from device_sdk.engine.arrays import Shape
from device_sdk.engine.layers import LAYERS, Layer
from device_sdk.engine.losses import LOSSES
from protocol.errors import ConfigError
from protocol.settings import build
from protocol.vectors.layout import MAX_PARAMS, Layout, Tensor


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shape of a sample, the layers in order, and the name of the loss.

    ``shapes`` has the shape before each layer and after the last; ``layout`` names the params
    ``<layer's position>.<layer's type>.<tensor>``. `parse_spec` makes them.
    """

    input: Shape
    layers: tuple[Layer, ...]
    loss: str
    shapes: tuple[Shape, ...]
    layout: Layout


def parse_spec(mapping: Mapping[str, object]) -> ModelSpec:
    """Read a model spec. Raises ConfigError, which names the layer and the key."""
    fields = build(_Fields, mapping, "model")
    words = tuple(_word(layer, index) for index, layer in enumerate(fields.layers))
    layers = tuple(
        _layer(layer, index, word)
        for index, (layer, word) in enumerate(zip(fields.layers, words, strict=True))
    )
    shapes = [fields.input]
    tensors: list[Tensor] = []
    for index, (layer, word) in enumerate(zip(layers, words, strict=True)):
        try:
            shapes.append(_bounded(layer.output_shape(shapes[-1])))
        except ConfigError as error:
            raise ConfigError(f"{_place(index, word)}: {error}") from None
        tensors += (
            Tensor(f"{index}.{word}.{tensor.name}", tensor.shape)
            for tensor in layer.tensors(shapes[-2])
        )
    try:
        LOSSES[fields.loss].check_outputs(shapes[-1])
    except ConfigError as error:
        raise ConfigError(f"model.loss: {error}") from None
    return ModelSpec(fields.input, layers, fields.loss, tuple(shapes), _layout(tensors))


@dataclass(frozen=True, slots=True)
class _Fields:
    """The top level of a spec, before its layers are looked into."""

    input: tuple[int, ...]
    layers: tuple[Mapping[str, object], ...]
    loss: str

    def __post_init__(self) -> None:
        if not self.input or min(self.input) < 1:
            raise ConfigError(f"input: the sides of a sample, each at least 1, not {self.input}")
        _bounded(self.input)
        if self.loss not in LOSSES:
            raise ConfigError(f"loss: {self.loss!r} is none of {_words(LOSSES)}")


def _word(layer: Mapping[str, object], index: int) -> str:
    word = layer.get("type")
    if not isinstance(word, str) or word not in LAYERS:
        raise ConfigError(f"model.layers[{index}].type: {word!r} is none of {_words(LAYERS)}")
    return word


def _layer(layer: Mapping[str, object], index: int, word: str) -> Layer:
    keys = {key: value for key, value in layer.items() if key != "type"}
    return build(LAYERS[word], keys, _place(index, word))


def _layout(tensors: Sequence[Tensor]) -> Layout:
    size = sum(tensor.size for tensor in tensors)
    if not size:
        raise ConfigError("model.layers: nothing to train; add a dense layer")
    if size > MAX_PARAMS:
        raise ConfigError(
            f"model.layers: {size} params are more than {MAX_PARAMS}; use fewer units"
        )
    return Layout(tuple(tensors))


def _bounded(shape: Shape) -> Shape:
    if math.prod(shape) > MAX_PARAMS:
        raise ConfigError(f"{shape} is more than {MAX_PARAMS} numbers a sample")
    return shape


def _place(index: int, word: str) -> str:
    return f"model.layers[{index}] ({word})"


def _words(known: Mapping[str, object]) -> str:
    return ", ".join(known)
