"""What is planned is what is held: within the budget, or refused with the one that would do."""

import re
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import (
    MemoryPlan,
    Model,
    TrainingSettings,
    fit,
    layer_flops,
    parse_spec,
    plan_inference,
    plan_training,
)
from device_sdk.engine.data import Block, as_blocks
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.errors import ConfigError
from protocol.stream import Stream

SEED = bytes(range(32))
CNN: dict[str, Any] = {
    "input": [20, 20, 1],
    "layers": [
        {"type": "conv2d", "filters": 8, "kernel": 3},
        {"type": "relu"},
        {"type": "max_pool", "size": 2},
        {"type": "flatten"},
        {"type": "dense", "units": 5},
    ],
    "loss": "softmax_cross_entropy",
}
GRU: dict[str, Any] = {
    "input": [30, 8],
    "layers": [{"type": "gru", "units": 24}, {"type": "dense", "units": 5}],
    "loss": "softmax_cross_entropy",
}
ROWS = 100


def samples(mapping: Mapping[str, Any]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    shape = (ROWS, *mapping["input"])
    return Stream(bytes(32)).uniform(int(np.prod(shape))).reshape(shape), np.arange(ROWS) % 5


def peak_of(mapping: Mapping[str, Any], settings: TrainingSettings, budget: int | None) -> int:
    """Bytes that a training allocates at most, the params and their base among them."""
    model, blocks = Model(parse_spec(mapping)), as_blocks(samples(mapping))
    fit(model, model.init(SEED), blocks, settings, SEED, budget_bytes=budget)  # what is cached
    tracemalloc.start()
    base = model.init(SEED)
    params = base.copy()
    fit(model, params, blocks, settings, SEED, base=base, budget_bytes=budget)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("mapping", [CNN, GRU], ids=["cnn", "gru"])
@pytest.mark.parametrize(
    "keys",
    [{}, {"optimiser": "adam"}, {"momentum": 0.9, "proximal": 0.1}, {"trainable_last": 1}],
    ids=["sgd", "adam", "momentum", "last"],
)
def test_the_measured_peak_stays_within_every_budget(
    mapping: Mapping[str, Any], keys: dict[str, Any]
) -> None:
    settings = TrainingSettings(batch_size=32, **keys)
    spec = parse_spec(mapping)
    whole = plan_training(spec, settings, num_samples=ROWS)
    assert whole.rows == 32
    assert 0.3 * whole.total < peak_of(mapping, settings, None) <= whole.total
    least = smallest_budget(spec, settings)
    for budget in np.linspace(least, whole.total, 3).astype(int).tolist():
        plan = plan_training(spec, settings, budget, ROWS)
        assert plan.total <= budget
        assert peak_of(mapping, settings, budget) <= budget


def smallest_budget(spec: Any, settings: TrainingSettings) -> int:
    with pytest.raises(ConfigError) as caught:
        plan_training(spec, settings, 1, ROWS)
    found = re.search(r"needs at least (\d+), with samples taken", str(caught.value))
    assert found is not None
    return int(found[1])


def test_the_smallest_budget_is_the_smallest() -> None:
    spec, settings = parse_spec(CNN), TrainingSettings(batch_size=32)
    least = smallest_budget(spec, settings)
    assert plan_training(spec, settings, least, ROWS).rows == 1
    with pytest.raises(ConfigError, match=f"memory budget of {least - 1} bytes: .* {least}"):
        plan_training(spec, settings, least - 1, ROWS)


def test_more_memory_is_never_slower() -> None:
    spec, settings = parse_spec(CNN), TrainingSettings(batch_size=32)
    least, most = smallest_budget(spec, settings), plan_training(spec, settings).total + 10_000
    rows = [
        plan_training(spec, settings, budget, ROWS).rows
        for budget in np.linspace(least, most, 20).astype(int).tolist()
    ]
    parts = [-(-32 // each) for each in rows]
    assert parts == sorted(parts, reverse=True)
    assert (rows[0], rows[-1]) == (1, 32)


@pytest.mark.parametrize("mapping", [CNN, GRU], ids=["cnn", "gru"])
def test_a_budget_changes_the_result_by_rounding_only(mapping: Mapping[str, Any]) -> None:
    model, settings = Model(parse_spec(mapping)), TrainingSettings(batch_size=32, epochs=2)
    results = []
    for budget in (None, smallest_budget(model.spec, settings)):
        params = model.init(SEED)
        fit(model, params, as_blocks(samples(mapping)), settings, SEED, budget_bytes=budget)
        results.append(params - model.init(SEED))
    assert np.linalg.norm(results[0] - results[1]) < 1e-4 * np.linalg.norm(results[0])


def test_a_label_that_is_masked_does_not_count_in_any_part() -> None:
    model, settings = Model(parse_spec(GRU)), TrainingSettings(batch_size=32)
    x, y = samples(GRU)
    y = np.where(np.arange(ROWS) % 3 == 0, -1, y)
    results = []
    for budget in (None, smallest_budget(model.spec, settings)):
        params = model.init(SEED)
        fit(model, params, as_blocks((x, y)), settings, SEED, budget_bytes=budget)
        results.append(params - model.init(SEED))
    assert np.linalg.norm(results[0] - results[1]) < 1e-4 * np.linalg.norm(results[0])


def test_the_trainer_keeps_a_budget(tmp_path: Path) -> None:
    x, y = samples(CNN)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False)
    model = Model(parse_spec(CNN))
    assignment = Assignment(model.init(SEED), 0, CNN, {"batch_size": 32}, SEED)
    least = smallest_budget(model.spec, TrainingSettings(batch_size=32))
    trainer = NumpyTrainer(data=(mapped, y), memory_budget_bytes=least)
    assert trainer.train(assignment).num_samples == ROWS
    too_small = NumpyTrainer(data=(mapped, y), memory_budget_bytes=least - 1)
    with pytest.raises(ConfigError, match=f"needs at least {least}"):
        too_small.train(assignment)


def test_a_batch_is_no_larger_than_the_data() -> None:
    model = Model(parse_spec(CNN))
    data, results = samples(CNN), []
    for batch_size in (ROWS, 1_000_000, 10**12):
        settings = TrainingSettings(batch_size=batch_size, epochs=2)
        plan = plan_training(model.spec, settings, num_samples=ROWS)
        assert plan == plan_training(model.spec, settings, plan.total, ROWS)
        assert (plan.rows, plan.targets) == (ROWS, 8 * ROWS)
        params = model.init(SEED)
        fit(model, params, as_blocks(data), settings, SEED, budget_bytes=plan.total)
        results.append(params.tobytes())
    assert len(set(results)) == 1


def test_a_batch_is_no_larger_than_a_store_that_tells_its_size() -> None:
    class Store:
        num_samples = ROWS

        def __iter__(self) -> Iterator[Block]:
            yield samples(CNN)

    model, settings = Model(parse_spec(CNN)), TrainingSettings(batch_size=10**12)
    fitted = fit(model, model.init(SEED), as_blocks(Store()), settings, SEED)
    assert (fitted.num_steps, fitted.num_samples) == (1, ROWS)


def test_parts_are_named_and_add_up() -> None:
    plan = plan_training(parse_spec(CNN), TrainingSettings(batch_size=32, momentum=0.5))
    size = 4 * parse_spec(CNN).layout.size
    assert plan.parts["params"] == plan.parts["base"] == plan.parts["gradient"] == size
    assert plan.optimiser == 2 * size  # the velocity, and a chunk of scratch
    assert plan.total == sum(plan.parts.values())


def test_inference_takes_less_than_training() -> None:
    spec = parse_spec(CNN)
    plan: MemoryPlan = plan_inference(spec, 32)
    assert plan.total < plan_training(spec, TrainingSettings(batch_size=32)).total
    assert plan_inference(spec, 1).arena < plan.arena / 16


def test_operations_are_counted_layer_by_layer() -> None:
    conv, relu, pool, flat, dense = layer_flops(parse_spec(CNN))
    assert conv == 18 * 18 * 8 * (2 * 9 + 1)
    assert relu == 18 * 18 * 8
    assert pool == 9 * 9 * 8 * 4
    assert flat == 0
    assert dense == 2 * 648 * 5 + 5
