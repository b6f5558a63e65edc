"""The models that come with the SDK: their first params are frozen, and each fits where it says."""

import hashlib
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import (
    Model,
    TrainingSettings,
    fit,
    parse_spec,
    plan_training,
)
from device_sdk.engine.data import Block, as_blocks
from device_sdk.engine.specs import named_spec, spec_names
from protocol.errors import ConfigError
from protocol.stream import Stream

SEED = bytes(range(32))
#: Of the first params, little-endian. If one changes, devices and aggregators of two versions
#: start from different models.
FIRST_PARAMS = {
    "autoencoder": "69e015b28b271f63f44a9deff998550c25740e3b0178792705b6c4a31052fb1c",
    "cnn": "f78f895e06be99cd7c6faf1216b553f70fdb430979f5f4c052856e0a16e3f67c",
    "ds_cnn": "e4d1b2ef27f1a654deed24d555d81d84a716cbb4d40c48dd872ec890f3e3e934",
    "gru": "49f30885ea15bb587d63cb42d5d9f6bffcf1b8133b6933af396325c04a370e09",
    "mlp": "ddb1dbce58c1e8ba22bb566e06d043f31ddd8a9ecc9d5db5706e4cba3befb5c9",
    "softmax_regression": "0576d77629a977753c1e73281f5f680868bd93a13f94d7777dc7d9e1054b6ce1",
}


def samples(model: Model, rows: int) -> Block:
    size = rows * int(np.prod(model.spec.input))
    x = Stream(bytes(32)).uniform(size).reshape(rows, *model.spec.input)
    y: npt.NDArray[np.generic] = x if model.spec.loss.dense_targets else np.arange(rows) % 2
    return x, y


def test_every_named_spec_is_frozen_here() -> None:
    assert set(FIRST_PARAMS) == set(spec_names())


@pytest.mark.parametrize("name", FIRST_PARAMS)
def test_first_params_are_the_same_everywhere(name: str) -> None:
    params = Model(parse_spec(named_spec(name))).init(SEED)
    assert hashlib.sha256(params.astype("<f4").tobytes()).hexdigest() == FIRST_PARAMS[name]


@pytest.mark.parametrize("name", FIRST_PARAMS)
def test_the_peak_stays_within_the_plan_from_the_smallest_budget_up(name: str) -> None:
    rows = 8
    model = Model(parse_spec(named_spec(name)))
    settings = TrainingSettings(batch_size=rows, momentum=0.9)
    block = samples(model, rows)
    whole = plan_training(model.spec, settings, num_samples=rows).total
    least = min(whole, smallest(model, settings, rows))
    for budget in {least, (least + whole) // 2, whole}:
        assert plan_training(model.spec, settings, budget, rows).total <= budget
        assert peak_of(model, settings, block, budget) <= budget
    with pytest.raises(ConfigError, match=f"needs at least {least}"):
        plan_training(model.spec, settings, least - 1, rows)


def smallest(model: Model, settings: TrainingSettings, rows: int) -> int:
    """The least that parts of a batch take, found by halving."""
    too_small, enough = 0, 1 << 30
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        try:
            plan_training(model.spec, settings, middle, rows)
        except ConfigError:
            too_small = middle
        else:
            enough = middle
    return enough


def peak_of(model: Model, settings: TrainingSettings, block: Block, budget: int) -> int:
    """Bytes that a training allocates at most, the params and their base among them."""
    peaks = []
    for _ in range(2):  # the first time something may be cached
        tracemalloc.start()
        base = model.init(SEED)
        params = base.copy()
        fit(model, params, as_blocks(block), settings, SEED, base=base, budget_bytes=budget)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return peaks[1]


def test_a_name_that_is_none_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"model 'resnet' is none of autoencoder, cnn"):
        named_spec("resnet")
