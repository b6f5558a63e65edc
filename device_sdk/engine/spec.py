"""A model as data: a JSON object becomes a checked, frozen description.

    {"input": [64],
     "layers": [{"type": "dense", "units": 32}, {"type": "relu"}, {"type": "dense", "units": 10}],
     "loss": "softmax_cross_entropy"}

A layer may have a ``name``, by which an ``add`` further on means it. A loss with keys of its own
is a table like a layer. Every shape is followed through the layers here, so that a wrong spec
fails when it is read.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from device_sdk.engine.arrays import Shape
from device_sdk.engine.layers import LAYERS, Layer
from device_sdk.engine.losses import LOSSES, Loss
from protocol.errors import ConfigError
from protocol.settings import build, hints_of
from protocol.vectors.layout import MAX_PARAMS, Layout, Tensor

#: Axes of a sample; NumPy's arrays have 32 at most before its version 2.
_MAX_RANK: Final = 8


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Shape of a sample, the layers in order, and the loss.

    ``words`` and ``names`` are the layers' types and names ("" without one); ``sources`` has for
    each ``add`` the position of the layer that it means, for others None. ``shapes`` has the shape
    before each layer and after the last; ``layout`` names the params ``<layer's position>.<layer's
    type>.<tensor>``. `parse_spec` makes them.
    """

    input: Shape
    layers: tuple[Layer, ...]
    loss: Loss
    words: tuple[str, ...]
    names: tuple[str, ...]
    sources: tuple[int | None, ...]
    shapes: tuple[Shape, ...]
    layout: Layout

    @property
    def has_statistics(self) -> bool:
        """Whether layers keep running ones: next to the largest, levels take the least for 0."""
        return any(layer.statistics for layer in self.layers)


def parse_spec(mapping: Mapping[str, object]) -> ModelSpec:
    """Read a model spec. Raises ConfigError, which names the layer and the key."""
    loss_word, loss = _loss(mapping.get("loss"))
    fields = build(_Fields, {**mapping, "loss": loss_word} if loss_word else mapping, "model")
    words = tuple(_word(layer, index) for index, layer in enumerate(fields.layers))
    names = tuple(_name(layer, index) for index, layer in enumerate(fields.layers))
    layers = tuple(
        _layer(layer, _place(index, word))
        for index, (layer, word) in enumerate(zip(fields.layers, words, strict=True))
    )
    shapes, sources = [fields.input], list[int | None]()
    tensors: list[Tensor] = []
    for index, (layer, word) in enumerate(zip(layers, words, strict=True)):
        try:
            shapes.append(_bounded(layer.output_shape(shapes[-1])))
            sources.append(_source(layer, index, names, shapes))
        except ConfigError as error:
            raise ConfigError(f"{_place(index, word)}: {error}") from None
        tensors += (
            Tensor(f"{index}.{word}.{tensor.name}", tensor.shape)
            for tensor in layer.tensors(shapes[-2])
        )
    try:
        fields_loss = build(LOSSES[fields.loss], loss, "model.loss")
        fields_loss.check_outputs(shapes[-1])
    except ConfigError as error:
        text = str(error)
        raise ConfigError(
            text if text.startswith("model.loss") else f"model.loss: {text}"
        ) from None
    return ModelSpec(
        input=fields.input,
        layers=layers,
        loss=fields_loss,
        words=words,
        names=names,
        sources=tuple(sources),
        shapes=tuple(shapes),
        layout=_layout(tensors),
    )


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


def _loss(value: object) -> tuple[str, dict[str, object]]:
    """A loss's word and its keys; no word where the top level is to complain."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return "", {}
    return value["type"], {key: each for key, each in value.items() if key != "type"}


def _word(layer: Mapping[str, object], index: int) -> str:
    word = layer.get("type")
    if not isinstance(word, str) or word not in LAYERS:
        raise ConfigError(f"model.layers[{index}].type: {word!r} is none of {_words(LAYERS)}")
    return word


def _name(layer: Mapping[str, object], index: int) -> str:
    name = layer.get("name", "")
    if not isinstance(name, str):
        raise ConfigError(f"model.layers[{index}].name: expected text, not {name!r}")
    return name


def _layer(table: Mapping[str, object], place: str) -> Layer:
    """Build one layer; a number where sides are meant is for all of them."""
    cls = LAYERS[str(table["type"])]
    hints = hints_of(cls)
    keys: dict[str, Any] = {}
    for key, value in table.items():
        if key not in ("type", "name"):
            is_side = type(value) is int and "tuple" in str(hints.get(key))
            keys[key] = [value] if is_side else value
    return build(cls, keys, place)


def _source(layer: Layer, index: int, names: Sequence[str], shapes: Sequence[Shape]) -> int | None:
    """Where the other input of an ``add`` comes from."""
    if names[index] and names[index] in names[:index]:
        raise ConfigError(f"name: {names[index]!r} is an earlier layer's too")
    if layer.looks_up and index:
        raise ConfigError("an embedding looks up samples: it must be the first layer")
    name = layer.other_input()
    if name is None:
        return None
    if not name or name not in names[: max(0, index)]:
        raise ConfigError(f"source: no earlier layer has the name {name!r}")
    source = names.index(name)
    if shapes[source + 1] != shapes[index]:
        raise ConfigError(f"source: {shapes[source + 1]} cannot be added to {shapes[index]}")
    return source


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
    if len(shape) > _MAX_RANK:
        raise ConfigError(f"{len(shape)} axes are more than {_MAX_RANK}")
    if math.prod(shape) > MAX_PARAMS:
        raise ConfigError(f"{shape} is more than {MAX_PARAMS} numbers a sample")
    return shape


def _place(index: int, word: str) -> str:
    return f"model.layers[{index}] ({word})"


def _words(known: Mapping[str, object]) -> str:
    return ", ".join(known)
