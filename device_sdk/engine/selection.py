"""Which tensors a training changes: all of them, or a few, at the cost of these few only."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice

from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Selection:
    """Per layer, for each of its tensors, whether it is ``trained`` (follows the gradient).

    ``moved``: whether it is a statistic that follows the data.
    """

    trained: tuple[tuple[bool, ...], ...]
    moved: tuple[tuple[bool, ...], ...]

    @property
    def first(self) -> int:
        """The first layer with a trained tensor: below it nobody needs a derivative."""
        return next(index for index, layer in enumerate(self.trained) if any(layer))

    def takes_part(self, layer: int) -> bool:
        """Whether a layer works as in training: below the first, or frozen, it only infers."""
        has_tensors = bool(self.trained[layer])
        chosen = any(self.trained[layer]) or any(self.moved[layer])
        return layer >= self.first and (chosen or not has_tensors)


def select(spec: ModelSpec, patterns: Iterable[str] = (), last: int | None = None) -> Selection:
    """Choose the tensors whose names match a pattern, as in ``*.bias`` or ``4.dense.*``.

    ``last`` instead chooses those of the last so many layers that have any; neither, all.
    Raises ConfigError where nothing is chosen, or a pattern matches nothing.
    """
    patterns = tuple(patterns)
    names = [tensor.name for tensor in spec.layout.tensors]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"trainable: {pattern!r} is none of {', '.join(names)}")
    counts = [
        len(layer.tensors(shape)) for layer, shape in zip(spec.layers, spec.shapes, strict=False)
    ]
    with_tensors = [index for index, count in enumerate(counts) if count]
    first = with_tensors[-min(last, len(with_tensors))] if last else 0
    all_names = iter(names)
    trained, moved = [], []
    for index, (layer, count) in enumerate(zip(spec.layers, counts, strict=True)):
        chosen = [
            index >= first and (not patterns or any(fnmatchcase(name, each) for each in patterns))
            for name in islice(all_names, count)
        ]
        follows = [each.name in layer.statistics for each in layer.tensors(spec.shapes[index])]
        trained.append(tuple(c and not f for c, f in zip(chosen, follows, strict=True)))
        moved.append(tuple(c and f for c, f in zip(chosen, follows, strict=True)))
    if not any(map(any, trained)):
        raise ConfigError("trainable: nothing that follows a gradient is chosen")
    return Selection(tuple(trained), tuple(moved))


def trained_slices(spec: ModelSpec, selection: Selection) -> tuple[slice, ...]:
    """Parts of the flat vector that follow the gradient, neighbours as one."""
    return _slices(spec, [flag for layer in selection.trained for flag in layer])


def moved_slices(spec: ModelSpec, selection: Selection) -> tuple[slice, ...]:
    """Parts of the flat vector that follow the data, neighbours as one."""
    return _slices(spec, [flag for layer in selection.moved for flag in layer])


def _slices(spec: ModelSpec, flags: list[bool]) -> tuple[slice, ...]:
    found: list[slice] = []
    bounds = spec.layout.bounds.tolist()
    for flag, start, stop in zip(flags, bounds[:-1], bounds[1:], strict=True):
        if flag and found and found[-1].stop == start:
            found[-1] = slice(found[-1].start, stop)
        elif flag:
            found.append(slice(start, stop))
    return tuple(found)
