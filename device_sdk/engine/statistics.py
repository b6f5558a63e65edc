"""What a `batch_norm` with ``static`` leaves to the end: mean and variance, measured over data."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_sdk.engine.arrays import Array
from device_sdk.engine.data import Blocks
from device_sdk.engine.errors import TrainingError
from device_sdk.engine.layers.normalisation import BatchNorm
from device_sdk.engine.model import Model
from device_sdk.engine.network import Network, views
from device_sdk.engine.plan import inference_rows
from device_sdk.engine.spec import ModelSpec

__all__ = ["measure_statistics", "needs_statistics"]

_Float64 = npt.NDArray[np.float64]


def needs_statistics(spec: ModelSpec) -> bool:
    """Whether such a model predicts only after `measure_statistics`."""
    return any(isinstance(layer, BatchNorm) and layer.static for layer in spec.layers)


def measure_statistics(model: Model, params: Array, blocks: Blocks) -> Array:
    """Return ``params`` with mean and variance of every static `BatchNorm` those over the data.

    Training keeps none of them (HeteroFL, Diao et al. 2021, section 3, "static batch
    normalization"): they are measured once it has ended, before the model predicts. Layer after
    layer, from the first: what reaches one depends on the statistics of those before it, and these
    are by then as in inference. Each takes a pass over ``blocks``, whose targets are not looked at.

    ``params`` stay; the result is a new vector. Raises TrainingError for params or samples that do
    not fit the model, without samples, and for statistics that are not finite.
    """
    model.check_params(params)
    measured = params.copy()
    network = Network(model.spec, measured, inference_rows(model.spec))
    for index, tensors in enumerate(views(model.spec, measured)):
        layer = model.spec.layers[index]
        if isinstance(layer, BatchNorm) and layer.static:
            moments = _measure(model, network, blocks, index)
            for tensor, value in zip(tensors[2:], (moments.mean, moments.variance), strict=True):
                tensor[...] = value
            if not all(np.isfinite(tensor).all() for tensor in tensors[2:]):
                raise TrainingError(
                    f"layer {index}: mean or variance is not finite; check that params and data "
                    f"have neither NaN nor infinity"
                )
    return measured


@dataclass(slots=True)
class _Moments:
    """Mean, and mean squared distance from it, of ``count`` numbers a channel."""

    count: int
    mean: _Float64
    variance: _Float64

    def add(self, part: Array) -> None:
        """Take in (n, channels) more (Chan et al. 1979, "Updating Formulae")."""
        count = self.count + len(part)
        share = len(part) / count
        step = part.mean(axis=0, dtype=np.float64) - self.mean
        spread = part.var(axis=0, dtype=np.float64) - self.variance
        self.variance += share * (spread + (1 - share) * step * step)
        self.mean += share * step
        self.count = count


def _measure(model: Model, network: Network, blocks: Blocks, index: int) -> _Moments:
    """Moments of what reaches a layer."""
    channels = model.spec.shapes[index][-1]
    moments = _Moments(0, np.zeros(channels), np.zeros(channels))
    step = inference_rows(model.spec)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # the result is checked
        for x, _ in blocks:
            model.check_inputs(x)
            for start in range(0, len(x), step):
                part = x[start : start + step]
                network.inputs(len(part))[...] = part
                moments.add(network.before(index).reshape(-1, channels))
    if not moments.count:
        raise TrainingError(
            "no samples to measure statistics over; each static batch_norm takes a pass of its own"
        )
    return moments
