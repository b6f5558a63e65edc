"""Whatever the layers, the loss and the targets' number type: no more is held than is planned."""

import re
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import Model, TrainingSettings, fit, parse_spec, plan_training
from device_sdk.engine.data import as_blocks
from device_sdk.trainer import Trained
from protocol.errors import ConfigError
from protocol.stream import Stream

SEED = bytes(range(32))
ROWS = 70
FLAT = {"type": "flatten"}
#: The input, and layers before the last one; large weights, so that a copy of one would show.
HEAVY: dict[str, tuple[list[int], list[dict[str, Any]]]] = {
    "dense": ([1000], [{"type": "dense", "units": 1000}]),
    "gru": ([4, 256], [{"type": "gru", "units": 256}]),
    "gru of few inputs": ([4, 64], [{"type": "gru", "units": 256, "return_sequences": True}, FLAT]),
    "gru of many steps": ([64, 8], [{"type": "gru", "units": 32}]),
    "conv2d": ([8, 8, 64], [{"type": "conv2d", "filters": 128, "kernel": 3}, FLAT]),
    "conv1d": ([64, 32], [{"type": "conv1d", "filters": 128, "kernel": 9}, FLAT]),
    "depthwise": (
        [16, 16, 64],
        [{"type": "depthwise_conv2d", "kernel": 5}, {"type": "batch_norm"}, FLAT],
    ),
    "embedding": (
        [1000],
        [{"type": "embedding", "vocabulary": 5000, "dim": 16}, {"type": "global_avg_pool"}],
    ),
    "pooling": (
        [32, 32, 8],
        [
            {"type": "max_pool", "size": 3, "stride": 1, "padding": "same"},
            {"type": "avg_pool", "size": 2},
            {"type": "layer_norm"},
            FLAT,
        ],
    ),
}
DENSE_LOSSES = ("mean_squared_error", "huber", "binary_cross_entropy", "distillation")


def uniform(*shape: int) -> npt.NDArray[np.float32]:
    return Stream(SEED).uniform(int(np.prod(shape))).reshape(shape)


def peak_of(
    model: Model,
    data: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]],
    settings: TrainingSettings,
    budget: int | None = None,
) -> int:
    """Bytes held at most, the params and their base among them."""
    base = model.init(SEED)
    params = base.copy()
    fit(model, params, as_blocks(data), settings, SEED, base=base, budget_bytes=budget)  # caches
    tracemalloc.start()
    fit(model, params, as_blocks(data), settings, SEED, base=base, budget_bytes=budget)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak + params.nbytes + base.nbytes


def check(model: Model, y: npt.NDArray[np.generic], x: npt.NDArray[np.generic]) -> None:
    settings = TrainingSettings(batch_size=32, learning_rate=1e-4)
    with pytest.raises(ConfigError) as caught:
        plan_training(model.spec, settings, 1, ROWS)
    least = re.search(r"at least (\d+)", str(caught.value))
    assert least is not None
    for budget in (None, int(least[1])):
        plan = plan_training(model.spec, settings, budget, ROWS)
        # Now and then Python rebuilds its table of strings: twice in a row it does not.
        assert any(peak_of(model, (x, y), settings, budget) <= plan.total for _ in range(2))


@pytest.mark.parametrize("name", HEAVY)
def test_no_layer_needs_more_than_is_planned(name: str) -> None:
    shape, layers = HEAVY[name]
    last = {"type": "dense", "units": 5}
    loss = "softmax_cross_entropy"
    model = Model(parse_spec({"input": shape, "layers": [*layers, last], "loss": loss}))
    check(model, np.arange(ROWS) % 5, np.floor(uniform(ROWS, *shape) * 100))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("loss", DENSE_LOSSES)
@pytest.mark.parametrize("is_image", [False, True], ids=["flat", "image"])
def test_no_loss_needs_more_than_is_planned(
    *, loss: str, dtype: type[np.generic], is_image: bool
) -> None:
    if dtype is np.bool_ and loss != "binary_cross_entropy":
        pytest.skip("refuses such targets")
    if is_image and loss == "distillation":
        pytest.skip("is of flat outputs")
    conv = {"type": "conv2d", "filters": 3, "kernel": 3, "padding": "same"}
    layer = conv if is_image else {"type": "dense", "units": 784}
    shape = (64, 64, 1) if is_image else (256,)
    model = Model(parse_spec({"input": list(shape), "layers": [layer], "loss": loss}))
    y = uniform(ROWS, *model.spec.shapes[-1]).round().astype(dtype)
    check(model, y, uniform(ROWS, *shape))


def test_samples_that_are_not_in_order_are_not_copied_whole() -> None:
    loss = "softmax_cross_entropy"
    layers = [{"type": "dense", "units": 5}]
    model = Model(parse_spec({"input": [50], "layers": layers, "loss": loss}))
    settings = TrainingSettings(batch_size=4, max_steps=2)
    x, y = np.asfortranarray(uniform(20_000, 50)), np.zeros(20_000, np.int64)
    plan = plan_training(model.spec, settings, num_samples=len(x))
    assert peak_of(model, (x, y), settings) <= plan.total < x.nbytes


def test_targets_are_not_converted_to_be_checked() -> None:
    layers = [{"type": "dense", "units": 1}]
    spec = parse_spec({"input": [1], "layers": layers, "loss": "binary_cross_entropy"})
    targets = np.ones(1 << 20, np.bool_)
    tracemalloc.start()
    spec.loss.check_targets(targets, spec.shapes[-1])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < targets.nbytes / 10


def test_a_result_is_checked_without_a_copy() -> None:
    params = np.ones(1 << 20, np.float32)
    tracemalloc.start()
    Trained(params, 1, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < params.nbytes / 10
