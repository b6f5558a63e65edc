"""A device whose engine is PyTorch trains as one with the SDK's own does."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from device_sdk.engine import Data, Model, TrainingError, parse_spec
from protocol.errors import ConfigError
from tests.device_sdk.adapters.plans import (
    MLP,
    PLAIN,
    assert_alike,
    assign,
    by_numpy,
    numbers,
    samples,
    trained,
)
from tests.support.torch import require_torch

require_torch()
import torch  # noqa: E402 - only where it is
from torch import nn  # noqa: E402

from device_sdk.adapters.torch import TorchTrainer  # noqa: E402 - it imports it

SETTINGS: dict[str, dict[str, Any]] = {
    **PLAIN,
    "momentum": {"epochs": 2, "momentum": 0.9, "learning_rate": 0.05},
    "nesterov": {"epochs": 2, "momentum": 0.9, "nesterov": True, "learning_rate": 0.05},
    "adam": {"epochs": 2, "optimiser": "adam", "learning_rate": 0.01},
    "clip_norm": {"epochs": 2, "clip_norm": 0.2},
    "all of it": {
        "epochs": 3,
        "batch_size": 7,
        "momentum": 0.5,
        "nesterov": True,
        "weight_decay": 0.02,
        "clip_norm": 0.3,
        "proximal": 0.1,
        "schedule": "cosine",
        "schedule_steps": 12,
        "warmup_steps": 3,
        "trainable": ["2.*", "*.bias"],
    },
}
#: Convolution, batch norm, pooling, residual.
CNN: dict[str, Any] = {
    "input": [8, 8, 2],
    "layers": [
        {"type": "conv2d", "filters": 4, "kernel": 3, "padding": "same"},
        {"type": "batch_norm", "name": "start"},
        {"type": "sigmoid"},
        {"type": "depthwise_conv2d", "kernel": 3, "padding": "same"},
        {"type": "add", "source": "start"},
        {"type": "avg_pool", "size": 2},
        {"type": "flatten"},
        {"type": "dense", "units": 3},
    ],
    "loss": "softmax_cross_entropy",
}


def images(rows: int = 25) -> Data:
    return numbers((rows, 8, 8, 2)), np.arange(rows) % 3


@pytest.mark.parametrize("name", SETTINGS)
def test_it_trains_as_the_engine_does(name: str) -> None:
    data, settings = samples(), SETTINGS[name]
    theirs = trained(TorchTrainer(data=data), settings)
    assert_alike(by_numpy(data, settings), theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 25, "learning_rate": 0.05},
        {"batch_size": 8, "learning_rate": 0.05},  # the last batch has one sample
        {"batch_size": 8, "trainable_last": 1},
        {"batch_size": 8, "learning_rate": 0.05, "trainable": ["3.*", "7.*"]},
        {"batch_size": 8, "learning_rate": 0.05, "trainable": ["1.batch_norm.scale", "*.bias"]},
    ],
)
def test_statistics_move_as_in_the_engine(settings: dict[str, Any]) -> None:
    theirs = trained(TorchTrainer(data=images()), settings, CNN)
    assert_alike(by_numpy(images(), settings, CNN), theirs, 2e-5)


@pytest.mark.parametrize("name", ["biases", "last", "all of it"])
def test_what_is_not_trained_keeps_every_bit(name: str) -> None:
    assignment = assign(SETTINGS[name])
    result = TorchTrainer(data=samples()).train(assignment)
    changed = (result.params != assignment.params).astype(np.float32)
    found = {
        tensor
        for tensor, view in Model(parse_spec(MLP)).layout.views(changed).items()
        if view.any()
    }
    expected = {"2.dense.weight", "2.dense.bias"}
    if name != "last":
        expected = {"0.dense.bias", "2.dense.bias"} | (expected if name == "all of it" else set())
    assert found == expected


def test_dropout_is_as_the_seed_says() -> None:
    layers = [*MLP["layers"][:2], {"type": "dropout", "rate": 0.5}, MLP["layers"][2]]
    assignment = assign({"batch_size": 64}, {**MLP, "layers": layers})
    others = replace(assignment, seed=bytes(32))  # one batch: the order decides nothing
    first, second, other = (
        TorchTrainer(data=samples()).train(each).params for each in (assignment, assignment, others)
    )
    assert np.array_equal(first, second)
    assert not np.allclose(first, other, atol=1e-4)


def test_the_random_numbers_of_others_are_left_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    trained(TorchTrainer(data=samples()), {})
    assert torch.equal(torch.rand(4), expected)


def test_a_module_of_ones_own_is_trained_in_place() -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    settings = SETTINGS["passes"]
    theirs = trained(TorchTrainer(module, data=samples()), settings)
    assert_alike(by_numpy(samples(), settings), theirs)
    assert np.array_equal(module[2].bias.detach().numpy(), theirs.params[-3:])
    assert not module.training


def test_frozen_statistics_of_a_module_of_ones_own_stay() -> None:
    model = {**MLP, "layers": [{"type": "batch_norm"}, *MLP["layers"]]}
    layers = (nn.BatchNorm1d(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    settings = {"trainable_last": 1, "epochs": 2}
    theirs = trained(TorchTrainer(nn.Sequential(*layers), data=samples()), settings, model)
    assert_alike(by_numpy(samples(), settings, model), theirs)


def test_a_module_that_is_not_the_plans_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.dense\.weight: the module's '0\.weight' is \(9, 6"):
        trained(TorchTrainer(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 3)), data=samples()), {})


def test_a_batch_with_nan_is_skipped_and_counted() -> None:
    x, y = samples()
    x[3, 2] = np.nan
    settings = {"batch_size": 10, "momentum": 0.9}
    theirs = trained(TorchTrainer(data=(x, y)), settings)
    assert theirs.metrics["skipped_steps"] == 1
    assert_alike(by_numpy((x, y), settings), theirs)


def test_statistics_have_not_seen_a_batch_that_was_skipped() -> None:
    model = {**MLP, "layers": [{"type": "batch_norm"}, *MLP["layers"]]}
    x, y = samples()
    x[3, 2] = np.nan
    theirs = trained(TorchTrainer(data=(x, y)), {"batch_size": 10}, model)
    assert_alike(by_numpy((x, y), {"batch_size": 10}, model), theirs)


def test_masked_labels_and_batches_of_them_count_as_in_the_engine() -> None:
    x, y = samples()
    y[::3] = -1
    blocks = [(x[:32], y[:32]), (x[32:], np.full(8, -1))]
    settings = {"batch_size": 8}
    assert_alike(by_numpy(blocks, settings), trained(TorchTrainer(data=blocks), settings))


@pytest.mark.parametrize("loss", ["mean_squared_error", "huber", "distillation"])
def test_targets_may_be_numbers_of_any_type(loss: str) -> None:
    model = {**MLP, "loss": loss}
    x = samples()[0].astype(np.float64)
    data = (x, np.round(3 * x[:, :3]).astype(np.int16))
    assert_alike(by_numpy(data, {}, model), trained(TorchTrainer(data=data), {}, model))


def test_one_logit_may_have_plain_rows_of_targets() -> None:
    layers = [*MLP["layers"], {"type": "dense", "units": 1}]
    model = {**MLP, "layers": layers, "loss": "binary_cross_entropy"}
    x, y = samples()
    data = (x, y > 0)
    assert_alike(by_numpy(data, {}, model), trained(TorchTrainer(data=data), {}, model))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ((np.zeros((0, 6)), np.zeros(0, np.int64)), "no data"),
        ((np.zeros((2, 5)), np.zeros(2, np.int64)), r"shape \('n', 6\)"),
        ((np.zeros((2, 6)), np.array([0, 3])), "labels run from 0 to 3"),
        ((np.full((40, 6), np.nan), np.zeros(40, np.int64)), "3 of 3 steps had no finite loss"),
    ],
)
def test_data_that_does_not_fit_is_an_error(data: Data, problem: str) -> None:
    with pytest.raises(TrainingError, match=problem):
        trained(TorchTrainer(data=data), {})


def test_what_explodes_does_not_leave_the_device() -> None:
    with pytest.raises(TrainingError, match=r"steps had no finite loss|NaN or infinity"):
        trained(TorchTrainer(data=samples()), {"learning_rate": 1e38, "epochs": 4})


def test_importing_the_sdk_imports_neither_torch_nor_a_tflite() -> None:
    code = (
        "import sys, device_sdk, device_sdk.adapters, device_sdk.adapters.signatures;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'ai_edge_litert', 'tflite_runtime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
