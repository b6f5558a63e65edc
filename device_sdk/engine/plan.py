"""What a training or an inference will hold in memory, worked out before the first step."""

import math
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from device_sdk.engine.arena import lay_out
from device_sdk.engine.arrays import EVAL_BYTES, EVAL_ROWS
from device_sdk.engine.layers.windows import TAP_BYTES
from device_sdk.engine.optimisers import CHUNK
from device_sdk.engine.selection import moved_slices, trained_slices
from device_sdk.engine.settings import TrainingSettings
from device_sdk.engine.spec import ModelSpec
from protocol.errors import ConfigError
from protocol.vectors.layout import PARAM_BYTES

#: Views and small sums, until Python collects them, and what NumPy buffers in some operations.
OVERHEAD_BYTES: Final = 1 << 18
#: So many lines of an image or a series, in full width, are made at a time to go over all others.
_LINES: Final = 10
#: While the order of a block is drawn, each of its rows costs so much.
ORDER_BYTES: Final = 40

_FLOAT32: Final = np.dtype(np.float32)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of everything that the engine holds at once, and how many ``rows`` it takes at once.

    A batch of more samples is taken in parts of ``rows``, whose gradients are added up.
    """

    rows: int
    params: int
    base: int  # the params that the assignment came with
    gradient: int
    optimiser: int  # what it remembers, and statistics to go back to
    arena: int  # one batch, and all that its passes write
    targets: int
    order: int  # in which the rows of a block are taken
    overhead: int  # views, small sums, NumPy's own buffers

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by name."""
        return {name: value for name, value in asdict(self).items() if name != "rows"}


def plan_training(
    spec: ModelSpec,
    settings: TrainingSettings,
    budget_bytes: int | None = None,
    num_samples: int = 0,
) -> MemoryPlan:
    """Plan a training; within a budget, with the largest micro-batch that fits.

    ``num_samples`` is the size of the largest block of data, as far as that is known: no batch is
    larger. Raises ConfigError, which names the smallest budget that would do.
    """
    settings = settings.for_samples(num_samples)
    batch = settings.batch_size
    whole = _training(spec, settings, batch, num_samples)
    if budget_bytes is None or whole.total <= budget_bytes:
        return whole
    single = _training(spec, settings, 1, num_samples)
    if single.total > budget_bytes:
        # Parts of a batch need a second gradient, to be added up: whole ones may need less.
        smallest = min(whole, single, key=lambda plan: plan.total)
        raise ConfigError(
            f"memory budget of {budget_bytes} bytes: this model needs at least {smallest.total}, "
            f"with samples taken {smallest.rows} at a time ({_largest(smallest)})"
        )
    fits, too_many = 1, batch
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        plan = _training(spec, settings, middle, num_samples)
        fits, too_many = (middle, too_many) if plan.total <= budget_bytes else (fits, middle)
    # As many parts, but even ones: they need less. Should gaps make it more, keep what fits.
    even = _training(spec, settings, -(-batch // -(-batch // fits)), num_samples)
    return even if even.total <= budget_bytes else _training(spec, settings, fits, num_samples)


def inference_rows(spec: ModelSpec) -> int:
    """How many samples `Model.predict` and `Model.evaluate` take at a time."""
    return max(1, min(EVAL_ROWS, EVAL_BYTES // lay_out(spec, 1, _FLOAT32).num_bytes))


def plan_inference(spec: ModelSpec, rows: int | None = None) -> MemoryPlan:
    """Plan predictions for ``rows`` samples at a time, by default as many as `Model` takes."""
    rows = inference_rows(spec) if rows is None else rows
    arena = lay_out(spec, rows, _FLOAT32)
    params = PARAM_BYTES * spec.layout.size
    return MemoryPlan(rows, params, 0, 0, 0, arena.num_bytes, 0, 0, _overhead(spec))


def layer_flops(spec: ModelSpec) -> tuple[int, ...]:
    """Floating-point operations of each layer, forward, for one sample.

    A training step takes about three times as many for each.
    """
    return tuple(layer.flops(shape) for layer, shape in zip(spec.layers, spec.shapes, strict=False))


def _training(
    spec: ModelSpec, settings: TrainingSettings, rows: int, num_samples: int
) -> MemoryPlan:
    selection = settings.selection(spec)
    trained = sum(part.stop - part.start for part in trained_slices(spec, selection))
    accumulates = rows < settings.batch_size
    arena = lay_out(spec, rows, _FLOAT32, selection, accumulates=accumulates)
    params = PARAM_BYTES * spec.layout.size
    states = settings.new_optimiser().num_states * trained
    moved = sum(part.stop - part.start for part in moved_slices(spec, selection))
    # Masks are counted over a whole batch.
    target = 8 * (settings.batch_size if spec.loss.masks else rows)
    target *= math.prod(spec.shapes[-1]) if spec.loss.dense_targets else 1
    return MemoryPlan(
        rows=rows,
        params=params,
        base=params,
        gradient=PARAM_BYTES * trained,
        optimiser=PARAM_BYTES * (states + moved + min(CHUNK, trained)),
        arena=arena.num_bytes,
        targets=target,
        order=ORDER_BYTES * num_samples,
        overhead=_overhead(spec),
    )


def _overhead(spec: ModelSpec) -> int:
    line = max(math.prod(shape[-2:]) for shape in spec.shapes)
    entries = sum(
        layer.num_entries(shape) for layer, shape in zip(spec.layers, spec.shapes, strict=False)
    )
    return OVERHEAD_BYTES + PARAM_BYTES * _LINES * line + TAP_BYTES * entries


def _largest(plan: MemoryPlan) -> str:
    """The three largest parts, in words."""
    parts = sorted(plan.parts.items(), key=lambda part: -part[1])[:3]
    return ", ".join(f"{name} {value}" for name, value in parts)
