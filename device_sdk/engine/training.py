"""Local training: passes of mini-batches, in an order that a seed decides."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import cast

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import Array, Numbers, Targets, is_finite
from device_sdk.engine.data import Block, Blocks
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.model import Model
from device_sdk.engine.network import Network
from device_sdk.engine.optimisers import Descent, clip_by_norm, norm_of
from device_sdk.engine.plan import ORDER_BYTES, plan_training
from device_sdk.engine.selection import moved_slices, trained_slices
from device_sdk.engine.settings import TrainingSettings
from device_sdk.engine.tally import REMEDY, Fitted, Tally
from protocol.stream import Stream, derive

__all__ = ["Fitted", "TrainingSettings", "fit"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a block: what one step is made from."""

    epoch: int
    x: Numbers
    y: Targets
    rows: npt.NDArray[np.intp]


def fit(
    model: Model,
    params: Array,
    blocks: Blocks,
    settings: TrainingSettings,
    seed: bytes,
    *,
    base: Array | None = None,
    budget_bytes: int | None = None,
    pause: Callable[[], None] = lambda: None,
) -> Fitted:
    """Train ``params`` in place. The same arguments give the same numbers.

    A pass takes the blocks as they come and the rows of each in an order drawn from the 32-byte
    ``seed``, in batches that never span two blocks. A step whose numbers are not finite is
    skipped. ``base`` is what a ``proximal`` term pulls towards; None: the params as they are now.
    ``budget_bytes`` bounds what the engine holds (`plan_training`): batches are then taken in
    parts. ``pause`` is called before every step: it may take its time, and raise to end training.

    Raises ConfigError if the budget does not do, and TrainingError (``params`` are then of no use)
    for data that does not fit or is missing, and if more steps had to be skipped than not.
    """
    model.check_params(params)
    settings = settings.for_samples(blocks.largest or blocks.num_samples or 0)
    plan = plan_training(model.spec, settings, budget_bytes, blocks.largest)
    limit = math.inf if budget_bytes is None else budget_bytes - plan.total + plan.order
    trainer = _Trainer(model, params, settings, rows=plan.rows, seed=seed, base=base)
    tally, masks = Tally(), model.spec.loss.masks
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # all results are checked
        for batch in batches(model, blocks, settings, seed, limit):
            pause()
            tally.see(batch.epoch, len(batch.rows))
            count = model.spec.loss.count(batch.y[batch.rows]) if masks else len(batch.rows)
            tally.step(trainer.step(batch, count, settings.rate(tally.num_steps)), count)
    if not is_finite(params):
        raise TrainingError(f"params left the finite range; {REMEDY}")
    return tally.result()


class _Trainer:
    """The network and the optimiser."""

    def __init__(
        self,
        model: Model,
        params: Array,
        settings: TrainingSettings,
        *,
        rows: int,
        seed: bytes,
        base: Array | None,
    ) -> None:
        spec = model.spec
        selection = settings.selection(spec)
        slices = trained_slices(spec, selection)
        #: The parts that follow the data, and how they were before a step.
        self._statistics = [
            (params[part], params[part].copy()) for part in moved_slices(spec, selection)
        ]
        self._settings, self._rows = settings, rows
        self._accumulates = rows < settings.batch_size
        self._gradient = np.zeros(sum(part.stop - part.start for part in slices), params.dtype)
        self._network = Network(
            spec,
            params,
            rows,
            selection=selection,
            gradient=self._gradient,
            accumulates=self._accumulates,
            noise=Stream(derive(seed, "noise")),
        )
        if settings.proximal and base is None:
            base = params.copy()
        self._descent = Descent(
            settings.new_optimiser(),
            params,
            self._gradient,
            slices,
            weight_decay=settings.weight_decay,
            proximal=settings.proximal,
            base=base,
        )

    def step(self, batch: Batch, count: int, rate: float) -> float:
        """Take a step; ``count`` of its samples count. Returns the mean loss before it.

        NaN: the step was not taken.
        """
        for current, before in self._statistics:
            np.copyto(before, current)
        loss = self._loss_and_gradient(batch, count) if count else math.nan
        norm = norm_of(self._gradient) if math.isfinite(loss) else math.nan
        if not math.isfinite(norm):
            for current, before in self._statistics:
                np.copyto(current, before)
            return math.nan
        if self._settings.clip_norm is not None:
            clip_by_norm(self._gradient, self._settings.clip_norm, norm)
        self._descent.step(rate)
        return loss

    def _loss_and_gradient(self, batch: Batch, count: int) -> float:
        if self._accumulates:
            self._gradient.fill(0)
        loss = 0.0
        for start in range(0, len(batch.rows), self._rows):
            rows = batch.rows[start : start + self._rows]
            _gather(batch.x, rows, self._network.inputs(len(rows)))
            loss += self._network.loss_and_gradient(batch.y[rows], count)
            if not math.isfinite(loss):
                return loss
            self._network.settle()
        return loss


def _gather(x: Numbers, rows: npt.NDArray[np.intp], out: Array) -> None:
    """``out[...] = x[rows]``, whatever the number type, without another copy."""
    if x.dtype == out.dtype and x.flags.c_contiguous and x.flags.aligned:  # else it copies all
        np.take(cast("Array", x), rows, axis=0, out=out, mode="clip")
        return
    for place, row in zip(out, rows, strict=True):
        place[...] = x[row]


def _within(blocks: Blocks, limit: float) -> Iterator[Block]:
    """The blocks, as long as their order fits into so many bytes."""
    for x, y in blocks:
        if ORDER_BYTES * len(x) > limit:
            raise TrainingError(
                f"the order of a block of {len(x)} samples does not fit into the memory budget; "
                f"give the data in smaller blocks"
            )
        yield x, y


def batches(
    model: Model, blocks: Blocks, settings: TrainingSettings, seed: bytes, limit: float = math.inf
) -> Iterator[Batch]:
    """All batches of a training, the same for every engine.

    The order of a block may take up to ``limit`` bytes. Raises TrainingError for data that does not
    fit or is missing.
    """
    passes = (
        batch
        for epoch in range(settings.epochs)
        for batch in _pass(model, _within(blocks, limit), settings.batch_size, seed, epoch)
    )
    return islice(passes, settings.max_steps)


def _pass(
    model: Model, blocks: Iterable[Block], batch_size: int, seed: bytes, epoch: int
) -> Iterator[Batch]:
    """One pass. Raises TrainingError if there is nothing in it."""
    empty = True
    for index, (x, y) in enumerate(blocks):
        if not len(x) and not len(y):
            continue
        model.check_batch(x, y)
        empty = False
        order = Stream(derive(seed, "order", epoch, index)).permutation(len(x))
        order = order.astype(np.intp, copy=False)
        for start in range(0, len(x), batch_size):
            yield Batch(epoch, x, y, order[start : start + batch_size])
    if empty and epoch:
        raise TrainingError(
            f"no data left for pass {epoch + 1}: data is an iterator, which gives its blocks once; "
            f"hand over the function that makes it (data=blocks, not data=blocks())"
        )
    if empty:
        raise TrainingError("no data: nothing to train on")
