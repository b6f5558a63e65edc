"""Which tensors are trained and sent: all, those of some names, or those of the last layers.

Both sides read it from the same plan, so nothing about it travels with an update.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from protocol.errors import ConfigError
from protocol.vectors.layout import Layout, Subset


def trained_subset(layout: Layout, training: Mapping[str, object]) -> Subset:
    """Return what a plan's ``training`` settings train of a model.

    ``trainable`` lists patterns of tensor names, such as ``*.bias`` (absent: all);
    ``trainable_layers`` is how many of the last layers that have tensors are trained (absent: all).
    With both, a tensor must be in both. Raises ConfigError for another type, for a pattern that
    matches nothing, and if nothing is left.
    """
    names = [tensor.name for tensor in layout.tensors]
    chosen = _matching(names, training.get("trainable", ("*",)))
    chosen &= _of_last_layers(names, training.get("trainable_layers"))
    if not chosen:
        raise ConfigError("training.trainable and trainable_layers leave nothing to train")
    return Subset(layout, frozenset(chosen))


def _matching(names: Sequence[str], patterns: object) -> set[str]:
    if not isinstance(patterns, list | tuple) or not patterns:
        raise ConfigError(f"training.trainable: a list of names or patterns, not {patterns!r}")
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if isinstance(pattern, str) and fnmatchcase(name, pattern)}
        if not found:
            raise ConfigError(
                f"training.trainable: {pattern!r} is none of the model's tensors {', '.join(names)}"
            )
        chosen |= found
    return chosen


def _of_last_layers(names: Sequence[str], num_layers: object) -> set[str]:
    if num_layers is None:
        return set(names)
    if not isinstance(num_layers, int) or isinstance(num_layers, bool) or num_layers < 1:
        raise ConfigError(f"training.trainable_layers: 1 or more, not {num_layers!r}")
    layers = list(dict.fromkeys(name.split(".")[0] for name in names))
    last = set(layers[-num_layers:])
    return {name for name in names if name.split(".")[0] in last}
