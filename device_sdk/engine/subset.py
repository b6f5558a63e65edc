"""What a plan trains and sends of a model: all, tensors of some names, or the last layers.

Both sides read it from the same plan, so nothing about it travels with an update.
"""

from collections.abc import Mapping
from itertools import chain

from device_sdk.engine.selection import Selection, select
from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError
from protocol.vectors.layout import Subset


def trained_subset(spec: ModelSpec, training: Mapping[str, object]) -> Subset:
    """Return what training changes, statistics included, by a plan's ``training`` settings.

    The keys ``trainable`` and ``trainable_last`` are those of `TrainingSettings`; trainers with
    settings of their own may have them, too. Raises ConfigError, as `select` does, and for values
    of another type.
    """
    patterns, last = training.get("trainable"), training.get("trainable_last")
    patterns = () if patterns is None else patterns
    if not isinstance(patterns, list | tuple) or not all(isinstance(p, str) for p in patterns):
        raise ConfigError(f"training.trainable: a list of names or patterns, not {patterns!r}")
    if last is not None and (not isinstance(last, int) or isinstance(last, bool) or last < 1):
        raise ConfigError(f"training.trainable_last: 1 or more, not {last!r}")
    if patterns and last:
        raise ConfigError("training: set trainable or trainable_last, not both")
    return changed_subset(spec, select(spec, patterns, last))


def changed_subset(spec: ModelSpec, chosen: Selection) -> Subset:
    """Return what a training of these tensors changes, statistics included."""
    flags = zip(chain(*chosen.trained), chain(*chosen.moved), strict=True)
    tensors = zip(spec.layout.tensors, flags, strict=True)
    return Subset(spec.layout, frozenset(tensor.name for tensor, each in tensors if any(each)))
