"""A device whose engine is a ``.tflite`` trains as one with the SDK's own does."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.export import export, training
from aggregator.export.graph import Value
from aggregator.export.training import export_training
from aggregator.export.writer import Signature, write_all
from device_sdk.adapters.tflite import SignatureTrainer
from device_sdk.engine import Data, Model, TrainingError, parse_spec
from device_sdk.engine.data import Block
from protocol.errors import ConfigError
from protocol.messages import MIN_SAMPLES
from tests.device_sdk.adapters.plans import (
    MLP,
    PLAIN,
    assert_alike,
    assign,
    by_numpy,
    samples,
    trained,
)

OTHER: dict[str, Any] = {**MLP, "layers": [{"type": "dense", "units": 3}]}


@pytest.fixture(name="file", scope="module")
def file_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "training.tflite"
    path.write_bytes(export_training(Model(parse_spec(MLP))))
    return path


@pytest.mark.parametrize("name", PLAIN)
def test_it_trains_as_the_engine_does(file: Path, name: str) -> None:
    data, settings = samples(), PLAIN[name]
    theirs = trained(SignatureTrainer(file, data=data), settings)
    assert_alike(by_numpy(data, settings), theirs)


def test_blocks_made_on_the_fly_are_counted_as_they_pass(file: Path) -> None:
    x, y = samples()

    def blocks() -> Iterator[Block]:
        yield x[:25], y[:25]
        yield x[25:], y[25:]

    trainer = SignatureTrainer(file, data=blocks)
    assert trainer.num_samples() == MIN_SAMPLES
    theirs = trained(trainer, {"epochs": 2})
    assert trainer.num_samples() == 40
    assert_alike(by_numpy(blocks, {"epochs": 2}), theirs)


@pytest.mark.parametrize("name", ["biases", "last"])
def test_what_is_not_trained_keeps_every_bit(file: Path, name: str) -> None:
    assignment = assign(PLAIN[name])
    result = SignatureTrainer(file, data=samples()).train(assignment)
    same = result.params == assignment.params
    layout = Model(parse_spec(MLP)).layout
    for tensor, view in layout.views(same.astype(np.float32)).items():
        is_trained = tensor.endswith("bias") if name == "biases" else tensor.startswith("2.")
        assert view.any() != is_trained, tensor


def test_a_second_training_begins_with_its_own_params(file: Path) -> None:
    trainer = SignatureTrainer(file, data=samples())
    first = trained(trainer, PLAIN["passes"])
    assert np.array_equal(trained(trainer, PLAIN["passes"]).params, first.params)


def test_a_batch_with_nan_is_skipped_and_counted(file: Path) -> None:
    x, y = samples(40)
    x[3, 2] = np.nan
    settings = {"batch_size": 10}
    theirs = trained(SignatureTrainer(file, data=(x, y)), settings)
    assert theirs.metrics["skipped_steps"] == 1
    assert_alike(by_numpy((x, y), settings), theirs)


def test_a_step_that_explodes_is_not_taken(file: Path) -> None:
    x, y = samples(40)
    x[7] *= np.float32(1e37)
    settings = {"batch_size": 10}
    theirs = trained(SignatureTrainer(file, data=(x, y)), settings)
    assert theirs.metrics["skipped_steps"] == 1
    assert np.abs(theirs.params).max() < 10


def test_masked_labels_and_batches_of_them_count_as_in_the_engine(file: Path) -> None:
    x, y = samples(40)
    y[::3] = -1
    blocks = [(x[:32], y[:32]), (x[32:], np.full(8, -1))]
    settings = {"batch_size": 8}
    theirs = SignatureTrainer(file, data=blocks)
    assert_alike(by_numpy(blocks, settings), trained(theirs, settings))


def test_mostly_numbers_that_are_not_finite_are_an_error(file: Path) -> None:
    data = np.full((40, 6), np.nan), np.zeros(40, np.int64)
    with pytest.raises(TrainingError, match="4 of 4 steps had no finite loss"):
        trained(SignatureTrainer(file, data=data), {"batch_size": 10})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ((np.zeros((0, 6)), np.zeros(0, np.int64)), "no data"),
        ((np.zeros((2, 5)), np.zeros(2, np.int64)), r"shape \('n', 6\)"),
        ((np.zeros((2, 6)), np.array([0, 3])), "labels run from 0 to 3"),
    ],
)
def test_data_that_does_not_fit_is_an_error(file: Path, data: Data, problem: str) -> None:
    with pytest.raises(TrainingError, match=problem):
        trained(SignatureTrainer(file, data=data), {})


@pytest.mark.parametrize(
    "settings",
    [
        {"optimiser": "adam"},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"clip_norm": 1.0},
    ],
)
def test_what_the_file_cannot_do_is_refused(file: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"training.{next(iter(settings))}: .* plain steps"):
        trained(SignatureTrainer(file, data=samples()), settings)


def test_the_file_of_another_model_is_refused(file: Path) -> None:
    with pytest.raises(
        ConfigError, match="save has 'dense_2_bias', which the plan's model has not"
    ):
        trained(SignatureTrainer(file, data=samples()), {}, OTHER)
    wider = {**MLP, "layers": [{"type": "dense", "units": 9}, *MLP["layers"][1:]]}
    with pytest.raises(ConfigError, match=r"dense_\d_\w+ is \(.*\), not \(.*\)"):
        trained(SignatureTrainer(file, data=samples()), {}, wider)


def test_a_file_of_another_loss_is_refused(file: Path) -> None:
    x, _ = samples()
    with pytest.raises(ConfigError, match=r"a sample's y is \(\), the plan's \(3,\)"):
        trained(SignatureTrainer(file, data=(x, x[:, :3])), {}, {**MLP, "loss": "huber"})


def signed(folder: Path, *, change: Callable[[Signature], Signature]) -> Path:
    """A file as another tool might have made it: with another ``train``."""
    spec = parse_spec(MLP)
    signatures = [change(training._train(spec)), training._save(spec), training._restore(spec)]
    file = folder / "foreign.tflite"
    file.write_bytes(write_all(signatures, ""))
    return file


def with_own_rate(train: Signature) -> Signature:
    rate = train.inputs["learning_rate"]
    rate.data = np.array(0.25, np.float32)  # what is known is a constant
    train.graph.inputs.remove(rate)
    return replace(train, inputs={key: train.inputs[key] for key in ("x", "y")})


def test_a_file_may_step_as_it_was_made_to(tmp_path: Path) -> None:
    file = signed(tmp_path, change=with_own_rate)
    theirs = trained(SignatureTrainer(file, data=samples()), {"trainable_last": 1})
    settings = {"learning_rate": 0.25, "trainable_last": 1}
    assert_alike(by_numpy(samples(), settings), theirs)
    with pytest.raises(ConfigError, match=r"a learning rate, but .* has its own"):
        trained(SignatureTrainer(file, data=samples()), {"proximal": 0.1})


def renamed(values: Mapping[str, Value]) -> dict[str, Value]:
    return {key.replace("x", "image"): value for key, value in values.items()}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda train: replace(train, key="fit"), "no signature 'train' among fit, save, restore"),
        (lambda train: replace(train, inputs=renamed(train.inputs)), "no input 'x'"),
        (lambda train: replace(train, outputs={"cost": train.outputs["loss"]}), "no output 'loss'"),
    ],
)
def test_signatures_with_other_names_are_refused(
    tmp_path: Path, change: Callable[[Signature], Signature], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        SignatureTrainer(signed(tmp_path, change=change), data=samples())


def test_a_file_that_can_only_predict_is_refused(tmp_path: Path) -> None:
    model = Model(parse_spec(MLP))
    file = tmp_path / "predict.tflite"
    file.write_bytes(export(model, model.init(bytes(32))))
    with pytest.raises(ConfigError, match="no signature 'train' among serving_default"):
        SignatureTrainer(file, data=samples())


@pytest.mark.parametrize("content", [b"", b"not a model", b"\0" * 64])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "junk.tflite"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"junk\.tflite: .* cannot use it"):
        SignatureTrainer(file, data=samples())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.tflite: No such file"):
        SignatureTrainer(tmp_path / "gone.tflite", data=samples())
