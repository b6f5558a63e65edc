"""Local training: passes of mini-batch SGD, in an order that a seed decides."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from device_sdk.engine.arrays import Array
from device_sdk.engine.data import Block, Blocks
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Model, check_loss
from device_sdk.engine.network import Network
from device_sdk.engine.optimisers import SGD, clip_by_norm
from protocol.errors import ConfigError
from protocol.stream import Stream, derive


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How to train: the keys of a plan's ``training`` object."""

    epochs: int = 1  # passes over the data
    max_steps: int | None = None  # stop after so many batches, wherever in a pass
    batch_size: int = 16  # samples a step; the last of a block may have fewer
    learning_rate: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float | None = None  # largest Euclidean norm of a step's gradient

    def __post_init__(self) -> None:
        for key, value in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if value < 1:
                raise ConfigError(f"{key} must be at least 1, not {value}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"max_steps must be at least 1 (or absent), not {self.max_steps}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip_norm must be above 0 (or absent), not {self.clip_norm}")
        self.optimiser()  # checks its own keys

    def optimiser(self) -> SGD:
        """The optimiser that these settings ask for."""
        return SGD(self.learning_rate, self.momentum, self.weight_decay)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` did. ``loss`` is the mean over the last pass, each batch before its step."""

    num_samples: int  # distinct samples: those of one pass, however many passes there were
    num_steps: int
    loss: float


def fit(
    model: Model,
    params: Array,
    blocks: Blocks,
    settings: TrainingSettings,
    seed: bytes,
    *,
    pause: Callable[[], None] = lambda: None,
) -> Fitted:
    """Train ``params`` in place. The same arguments give the same numbers.

    ``pause`` is called before every step: it may take its time, and raise to end training.

    A pass takes the blocks as they come and the rows of each in an order drawn from the 32-byte
    ``seed``, in batches that never span two blocks. Raises TrainingError (``params`` are then of
    no use) for data that does not fit or is missing, and when a number leaves the finite range.
    """
    model.check_params(params)
    gradient = np.empty_like(params)
    network = Network(model.spec, params, gradient)
    optimiser = settings.optimiser()
    velocity = optimiser.velocity(params)
    passes = (
        (epoch, x, y)
        for epoch in range(settings.epochs)
        for x, y in _batches(model, blocks, settings.batch_size, seed, epoch)
    )
    last_epoch, num_samples, num_steps, seen, total = 0, 0, 0, 0, 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # each loss and the result are checked
        for epoch, x, y in islice(passes, settings.max_steps):
            pause()
            if epoch != last_epoch:
                last_epoch, seen, total = epoch, 0, 0.0
            loss = network.loss_and_gradient(np.asarray(x, params.dtype), y)
            check_loss(loss)
            if settings.clip_norm is not None:
                clip_by_norm(gradient, settings.clip_norm)
            optimiser.step(params, gradient, velocity)
            num_steps += 1
            seen += len(x)
            total += loss * len(x)
            num_samples = max(num_samples, seen)
    if not np.isfinite(params).all():
        raise TrainingError("params left the finite range; lower learning_rate, check the data")
    return Fitted(num_samples, num_steps, total / seen)


def _batches(
    model: Model, blocks: Blocks, batch_size: int, seed: bytes, epoch: int
) -> Iterator[Block]:
    """One pass. Raises TrainingError if there is nothing in it."""
    empty = True
    for index, (x, y) in enumerate(blocks):
        if not len(x) and not len(y):
            continue
        model.check_batch(x, y)
        empty = False
        order = Stream(derive(seed, "order", epoch, index)).permutation(len(x))
        for start in range(0, len(x), batch_size):
            rows = order[start : start + batch_size]
            yield x[rows], y[rows]
    if empty and epoch:
        raise TrainingError(
            f"no data left for pass {epoch + 1}: data is an iterator, which gives its blocks once; "
            f"hand over the function that makes it (data=blocks, not data=blocks())"
        )
    if empty:
        raise TrainingError("no data: nothing to train on")
