"""With the same weights and the same batch, PyTorch has the same outputs and gradients."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from device_sdk.engine import Model, parse_spec
from device_sdk.engine.specs import named_spec, spec_names
from protocol.stream import Stream

torch = pytest.importorskip("torch")  # CI installs it
from benchmarks.engine_torch import Twin, torch_loss  # noqa: E402 - it imports torch

Float32 = npt.NDArray[np.float32]
SEED = bytes(range(32))
SMALL: dict[str, list[dict[str, Any]]] = {
    "windows": [
        {"type": "conv2d", "filters": 4, "kernel": [3, 2], "stride": [2, 1], "padding": "same"},
        {"type": "leaky_relu"},
        {"type": "max_pool", "size": 3, "stride": 2, "padding": "same"},
        {"type": "depthwise_conv2d", "kernel": 2, "stride": 2, "padding": "same"},
        {"type": "relu6"},
        {"type": "avg_pool", "size": 2, "stride": 1, "padding": "same"},
        {"type": "flatten"},
        {"type": "dense", "units": 3},
    ],
    "residual": [
        {"type": "conv2d", "filters": 4, "kernel": 1, "name": "skip"},
        {"type": "batch_norm"},
        {"type": "gelu"},
        {"type": "conv2d", "filters": 4, "kernel": 3, "padding": "same"},
        {"type": "add", "source": "skip"},
        {"type": "layer_norm"},
        {"type": "global_avg_pool"},
        {"type": "dense", "units": 3},
    ],
    "steps": [
        {"type": "reshape", "shape": [24, 6]},
        {"type": "conv1d", "filters": 5, "kernel": 3, "stride": 2},
        {"type": "sigmoid"},
        {"type": "max_pool", "size": 2},
        {"type": "gru", "units": 4, "return_sequences": True},
        {"type": "gru", "units": 3},
        {"type": "tanh"},
        {"type": "dense", "units": 3},
    ],
}
SPECS: dict[str, Mapping[str, object]] = {
    **{name: named_spec(name) for name in spec_names()},
    **{
        name: {"input": [8, 9, 2], "layers": layers, "loss": "softmax_cross_entropy"}
        for name, layers in SMALL.items()
    },
    "words": {
        "input": [7],
        "layers": [
            {"type": "embedding", "vocabulary": 9, "dim": 4},
            {"type": "avg_pool", "size": 3, "stride": 2},
            {"type": "flatten"},
            {"type": "dense", "units": 3},
        ],
        "loss": "softmax_cross_entropy",
    },
    **{
        loss: {"input": [6], "layers": [{"type": "dense", "units": 3}], "loss": loss}
        for loss in ("huber", "binary_cross_entropy", "distillation")
    },
}


def numbers(shape: tuple[int, ...], label: int) -> Float32:
    uniform = Stream(bytes([label]) * 32).uniform(int(np.prod(shape))).reshape(shape)
    return uniform * np.float32(2) - np.float32(1)


def batch(model: Model, rows: int) -> tuple[Float32, npt.NDArray[np.generic]]:
    x = numbers((rows, *model.spec.input), 1)
    if model.spec.words[0] == "embedding":
        x = np.floor((x + 1) * 4)
    if not model.spec.loss.dense_targets:
        return x, np.arange(rows) % model.spec.shapes[-1][0]
    return x, (numbers((rows, *model.spec.shapes[-1]), 2) + 1) / 2


def relative_error(ours: Float32, theirs: Float32) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("name", SPECS)
def test_outputs_and_gradients_are_those_of_torch(name: str) -> None:
    model = Model(parse_spec(SPECS[name]))
    params = model.init(SEED)
    params += np.float32(0.05) * np.cos(np.arange(params.size, dtype=np.float32))
    x, y = batch(model, 8)
    twin = Twin(model.spec)
    twin.load(params)
    assert np.array_equal(twin.flat(), params)
    twin.train(training=False)
    with torch.no_grad():
        outputs = twin(torch.from_numpy(x)).numpy()
    assert relative_error(model.predict(params, x), outputs) < 1e-5
    twin.train(training=True)
    loss = torch_loss(model.spec.loss)(twin(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    our_loss, gradient = model.loss_and_gradient(params, x, y)
    assert our_loss == pytest.approx(loss.item(), rel=1e-5)
    assert relative_error(gradient, twin.flat(gradient=True)) < 1e-5
