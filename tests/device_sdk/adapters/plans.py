"""A small plan and some data, and what the engine of the SDK makes of them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from device_sdk.engine import Data, Model, parse_spec
from device_sdk.trainer import Assignment, NumpyTrainer, Trained, Trainer
from protocol.stream import Stream

Float32 = npt.NDArray[np.float32]

SEED = bytes(range(32))
MLP: dict[str, Any] = {
    "input": [6],
    "layers": [
        {"type": "dense", "units": 8},
        {"type": "relu"},
        {"type": "dense", "units": 3},
    ],
    "loss": "softmax_cross_entropy",
}
#: Settings that every engine can follow; each is a step away from plain SGD.
PLAIN: dict[str, dict[str, Any]] = {
    "one step": {"batch_size": 64, "learning_rate": 0.3},
    "passes": {"epochs": 3, "batch_size": 7},
    "max_steps": {"epochs": 3, "batch_size": 7, "max_steps": 11},
    "weight_decay": {"epochs": 2, "weight_decay": 0.05},
    "proximal": {"epochs": 2, "proximal": 0.3},
    "step": {"epochs": 2, "batch_size": 8, "schedule": "step", "schedule_steps": 3},
    "cosine": {
        "epochs": 2,
        "batch_size": 8,
        "schedule": "cosine",
        "schedule_steps": 9,
        "warmup_steps": 2,
    },
    "biases": {"epochs": 2, "trainable": ["*.bias"], "weight_decay": 0.1, "proximal": 0.1},
    "last": {"epochs": 2, "trainable_last": 1},
}


def numbers(shape: tuple[int, ...], label: int = 1) -> Float32:
    """Of order 1, always the same."""
    uniform = Stream(bytes([label]) * 32).uniform(int(np.prod(shape))).reshape(shape)
    return uniform * np.float32(2) - np.float32(1)


def samples(rows: int = 40) -> tuple[Float32, npt.NDArray[np.int64]]:
    """For the MLP: with something to learn in them."""
    x = numbers((rows, 6))
    return x, np.argmax(x[:, :3] + x[:, 3:], axis=1)


def assign(settings: dict[str, Any], model: dict[str, Any] = MLP) -> Assignment:
    """A lease of version 0, from params none of which is 0, and which are not to be written."""
    engine = Model(parse_spec(model))
    params = engine.init(SEED) + np.float32(0.1) * numbers((engine.layout.size,), 2)
    params.setflags(write=False)
    return Assignment(params, 0, model, settings, SEED)


def trained(trainer: Trainer, settings: dict[str, Any], model: dict[str, Any] = MLP) -> Trained:
    return trainer.train(assign(settings, model))


def assert_alike(ours: Trained, theirs: Trained, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(theirs.params, ours.params, rtol=tolerance, atol=tolerance)
    assert theirs.num_samples == ours.num_samples
    assert theirs.metrics.keys() == ours.metrics.keys()
    for key, value in ours.metrics.items():
        np.testing.assert_allclose(theirs.metrics[key], value, rtol=10 * tolerance)


def by_numpy(data: Data, settings: dict[str, Any], model: dict[str, Any] = MLP) -> Trained:
    return trained(NumpyTrainer(data=data), settings, model)
