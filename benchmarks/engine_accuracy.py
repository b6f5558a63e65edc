"""Central training on public data: the SDK's engine beside PyTorch, step for step.

Both start from the same params, take the same batches in the same order with the same optimiser,
and are tested on the same samples. They differ in rounding, which training makes larger: hence the
mean over several seeds.
"""

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.report import ROOT, Report, Value, figure
from device_sdk.engine import Model, TrainingSettings, parse_spec
from device_sdk.engine.specs import named_spec
from device_sdk.trainer import Assignment, NumpyTrainer
from protocol.settings import build
from protocol.stream import SEED_BYTES

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

#: People whose movements are tested on, as the data's README has it.
STRANGERS: Final = (3, 7, 11, 15, 19, 23)
WITHIN: Final = 0.01


@dataclass(frozen=True, slots=True)
class Sets:
    """Samples to learn from, and to be tested on."""

    x: Float32
    y: Labels
    test_x: Float32
    test_y: Labels


def data_folder() -> Path:
    """Return where public data should be: ``FEDBUS_DATA``."""
    return Path(os.environ.get("FEDBUS_DATA", ROOT.parent / "shared" / "data"))


def measure(*, has_torch: bool, quick: bool) -> Report:
    """Train everything; quick: a few samples once."""
    return {
        "fashion_mnist": _compare(
            fashion(),
            named_spec("cnn"),
            {"epochs": 3, "learning_rate": 0.02, "momentum": 0.9},
            has_torch=has_torch,
            quick=quick,
        ),
        "speech": _compare(
            speech(),
            {**named_spec("ds_cnn"), "input": [49, 10, 1]},
            {"epochs": 12, "learning_rate": 0.02, "momentum": 0.9},
            has_torch=has_torch,
            quick=quick,
        ),
        "har": _compare(
            movements(),
            _with_classes({**named_spec("gru"), "input": [64, 6]}, 5),
            {"epochs": 12, "optimiser": "adam", "learning_rate": 0.003},
            has_torch=has_torch,
            quick=quick,
        ),
    }


def fashion() -> Sets | None:
    """Grey images of clothes."""
    arrays = _load("fashion_mnist/fashion_mnist.npz")
    if arrays is None:
        return None
    x, test_x = (
        arrays[f"x_{part}"].astype(np.float32)[..., np.newaxis] / np.float32(255)
        for part in ("train", "test")
    )
    return Sets(x, arrays["y_train"].astype(np.int64), test_x, arrays["y_test"].astype(np.int64))


def speech() -> Sets | None:
    """Spoken words as MFCC, of speakers who are not heard in training."""
    arrays = _load("speech_commands_test/speech_commands.npz")
    if arrays is None:
        return None
    x = arrays["mfcc"].astype(np.float32)[..., np.newaxis]
    return _split(x, arrays["y"], arrays["is_test"], axes=(0,))


def movements() -> Sets | None:
    """Windows of a phone's inertial sensors, of people who are not seen in training."""
    arrays = _load("har_phone_watch/har_phone.npz")
    if arrays is None:
        return None
    is_test = np.isin(arrays["subject"], STRANGERS)
    return _split(arrays["x"].astype(np.float32), arrays["y"], is_test, axes=(0, 1))


def _load(name: str) -> dict[str, npt.NDArray[Any]] | None:
    path = data_folder() / name
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _split(
    x: Float32, y: npt.NDArray[Any], is_test: npt.NDArray[Any], axes: tuple[int, ...]
) -> Sets:
    """Scale to mean 0 and deviation 1 by what is learned from."""
    known = x[~is_test]
    x = (x - known.mean(axis=axes)) / (known.std(axis=axes) + np.float32(1e-6))
    y = y.astype(np.int64)
    return Sets(x[~is_test], y[~is_test], x[is_test], y[is_test])


def _with_classes(spec: Mapping[str, object], classes: int) -> Mapping[str, object]:
    *layers, last = list(spec["layers"])  # type: ignore[call-overload] # a list of tables
    return {**spec, "layers": [*layers, {**last, "units": classes}]}


def _compare(
    sets: Sets | None,
    spec: Mapping[str, object],
    training: Mapping[str, object],
    *,
    has_torch: bool,
    quick: bool,
) -> Value:
    if sets is None:
        return {"skipped": "no data: set FEDBUS_DATA"}
    # The rate falls to 0: where training ends then depends less on rounding on the way.
    steps = int(str(training["epochs"])) * -(-len(sets.y) // 32)
    falls = {"schedule": "cosine", "schedule_steps": steps}
    training = {"batch_size": 32, **falls, **training}
    if quick:
        training = {**training, "max_steps": 3}
        few, fewer = slice(256), slice(64)
        sets = Sets(sets.x[few], sets.y[few], sets.test_x[fewer], sets.test_y[fewer])
    model = Model(parse_spec(spec))
    seeds = [bytes([number]) * SEED_BYTES for number in range(1 if quick else 3)]
    ours = [_ours(model, spec, training, sets, seed) for seed in seeds]
    report: Report = {"accuracy": [figure(each) for each in ours], "samples": len(sets.y)}
    if not has_torch:
        return {**report, "torch": "not installed"}
    twins = importlib.import_module("benchmarks.engine_torch")
    settings = build(TrainingSettings, training, "training")
    theirs = [
        _accuracy(twins.torch_fit(model, sets.x, sets.y, settings, seed)(sets.test_x), sets.test_y)
        for seed in seeds
    ]
    difference = mean(ours) - mean(theirs)
    return {
        **report,
        "torch_accuracy": [figure(each) for each in theirs],
        "difference": figure(difference, 3),
        "within": WITHIN,
        "met": abs(difference) <= WITHIN,
    }


def _ours(
    model: Model,
    spec: Mapping[str, object],
    training: Mapping[str, object],
    sets: Sets,
    seed: bytes,
) -> float:
    assignment = Assignment(model.init(seed), 0, spec, training, seed)
    trained = NumpyTrainer(data=(sets.x, sets.y)).train(assignment)
    return _accuracy(model.predict(trained.params, sets.test_x), sets.test_y)


def _accuracy(outputs: npt.NDArray[Any], labels: Labels) -> float:
    return float((outputs.argmax(axis=1) == labels).mean())
